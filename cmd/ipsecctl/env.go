package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"ipsecagent/agent/control"
)

// exitCode is what the program says to scripts.
type exitCode = control.Code

// exitCodes explains the codes, for help and manual.
func exitCodes() []struct {
	code control.Code
	name string
} {
	return []struct {
		code control.Code
		name string
	}{
		{control.OK, "done"},
		{control.Failed, "failed"},
		{control.Usage, "the command line is wrong"},
		{control.NotReachable, "the agent does not answer"},
		{control.NotFound, "there is nothing of that name"},
		{control.NotPermitted, "not permitted"},
		{control.Invalid, "a policy, key file or request is not valid"},
		{control.Differs, "there are differences"},
		{control.TimedOut, "the agent did not answer in time"},
		{control.Degraded, "the state is degraded (status --check), or there is a problem (doctor)"},
	}
}

// env is the outside of the program, so that tests can stand there.
type env struct {
	out, err io.Writer
	getenv   func(string) string
	now      func() time.Time
	zone     *time.Location // of times in tables

	// The flags of every command.
	socket  string
	timeout time.Duration
	format  string

	// parsed: the command line was understood; errors before that are about
	// its form.
	parsed bool
}

// run runs one command line and returns the exit code.
func (e *env) run(ctx context.Context, args []string) exitCode {
	root := rootCommand(e)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	code := e.codeOf(err)
	if err != nil && !errors.Is(err, errDegraded) && !errors.Is(err, errDiffers) {
		fmt.Fprintln(e.err, "ipsecctl: "+cleanText(err.Error()))
	}
	if code == control.Usage {
		fmt.Fprintf(e.err, "Try '%s --help'.\n", command.CommandPath())
	}
	return code
}

func (e *env) codeOf(err error) exitCode {
	var coded *control.Error
	switch {
	case err == nil:
		return control.OK
	case errors.As(err, &coded):
		return coded.Code
	case !e.parsed:
		return control.Usage
	}
	return control.Failed
}

// errDegraded ends status --check; the status itself is already printed.
var errDegraded = &control.Error{Code: control.Degraded, Message: "the state is degraded"}

func usage(format string, args ...any) error {
	return &control.Error{Code: control.Usage, Message: fmt.Sprintf(format, args...)}
}

// agent returns a client of the agent the flags name.
func (e *env) agent() *control.Client { return control.NewClient(e.socket, e.timeout) }

func (e *env) defaultSocket() string {
	if s := e.getenv("IPSECAGENT_SOCKET"); s != "" {
		return s
	}
	return control.DefaultSocket
}
