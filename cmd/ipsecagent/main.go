// Command ipsecagent is the agent of a host: it takes the assigned IPsec policy,
// negotiates keys and has traffic secured. With the subcommand datapath it is
// the process that secures packets; the agent starts it. With the subcommand
// holder it keeps the nftables table on kernels that remove it with its owner;
// the data path starts it.
//
// It holds the wiring alone: settings, what must be there before the start,
// processes and signals. What the agent does is in package agent.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ipsecagent/agent/control"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &program{out: os.Stdout, err: os.Stderr, getenv: os.Getenv}
	os.Exit(p.main(ctx, os.Args[1:]))
}

// program is one run of the program, with its outside.
type program struct {
	out, err io.Writer
	getenv   func(string) string
}

// invalid is an error of settings, policies or keys.
type invalid struct{ error }

// Unwrap returns the error itself.
func (e invalid) Unwrap() error { return e.error }

// undecided is an error that keeps a question from being answered by the exit
// code. Service managers take the lower codes for answers.
type undecided struct{ error }

const exitUndecided = 255

// misuse is an error of the command line that is seen only when it runs.
type misuse struct{ error }

// main runs a command line and returns the exit code.
func (p *program) main(ctx context.Context, args []string) int {
	parsed := false
	root := p.command(&parsed)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return int(control.OK)
	}
	fmt.Fprintln(p.err, "ipsecagent: "+lines(err))
	switch {
	case errors.As(err, &invalid{}):
		return int(control.Invalid)
	case errors.As(err, &undecided{}):
		return exitUndecided
	case !parsed, errors.As(err, &misuse{}):
		fmt.Fprintln(p.err, "Try 'ipsecagent --help'.")
		return int(control.Usage)
	}
	return int(control.Failed)
}

func (p *program) command(parsed *bool) *cobra.Command {
	given, config, onlyCheck := defaults(), "", false
	root := &cobra.Command{
		Use:   "ipsecagent",
		Short: "Secure the traffic of this host by policy",
		Long: `ipsecagent takes the IPsec policy that is assigned to this host (see ipsecctl),
negotiates keys with other hosts and has their traffic secured. Stopping it
changes nothing of what is in force.`,
		Example: `  ipsecagent
  ipsecagent --check
  ipsecagent datapath --stop`,
		Args:             cobra.NoArgs,
		SilenceUsage:     true,
		SilenceErrors:    true,
		Version:          control.ThisProgram().String(),
		PersistentPreRun: func(*cobra.Command, []string) { *parsed = true },
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := givenSettings(cmd.Flags(), config)
			if err != nil || onlyCheck {
				return p.check(cmd.Context(), &s, err)
			}
			return p.agent(cmd.Context(), s, func() (settings, error) { return givenSettings(cmd.Flags(), config) })
		},
	}
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.PersistentFlags().StringVar(&config, "config", defaultConfig, "settings file, which must be there unless it is the default one; \"\": none; drop-ins are agent.d/*.yaml beside it")
	given.flags(root.PersistentFlags())
	root.Flags().BoolVar(&onlyCheck, "check", false, "validate settings, policies, keys, certificates and key table, and exit (6: not valid)")
	root.AddCommand(p.dataPathCommand(&config), p.holderCommand(&config), p.bootCommand(&config), p.doctorCommand(&config))
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

// givenSettings reads the settings file and what the command line sets. Only
// the default file may be missing.
func givenSettings(flags *pflag.FlagSet, path string) (settings, error) {
	s, err := loadSettings(path, overrides(flags))
	if !flags.Changed("config") || path == "" {
		return s, err
	}
	if _, missing := os.Stat(path); errors.Is(missing, fs.ErrNotExist) {
		err = errors.Join(fmt.Errorf("settings: there is no file %s: give --config the right path, or leave it out for %s", path, defaultConfig), err)
	}
	return s, err
}

// overrides sets in the settings what the command line has set.
func overrides(given *pflag.FlagSet) func(*settings) error {
	return func(s *settings) error {
		own := pflag.NewFlagSet("", pflag.ContinueOnError)
		s.flags(own)
		s.dataPathFlags(own)
		var errs []error
		given.Visit(func(f *pflag.Flag) {
			if own.Lookup(f.Name) != nil {
				errs = append(errs, own.Set(f.Name, f.Value.String()))
			}
		})
		return errors.Join(errs...)
	}
}

// check reports every error at once.
func (p *program) check(ctx context.Context, s *settings, errSettings error) error {
	summary, notes, err := check(ctx, s)
	for _, n := range notes {
		fmt.Fprintln(p.err, "ipsecagent: note: "+n)
	}
	if err := errors.Join(errSettings, err); err != nil {
		return invalid{err}
	}
	fmt.Fprintln(p.out, summary)
	return nil
}

func (p *program) dataPathCommand(config *string) *cobra.Command {
	given, stop, wanted := defaults(), false, false
	c := &cobra.Command{
		Use:   "datapath",
		Short: "Run the process that secures packets; the agent starts it",
		Long: `datapath is the process that holds the associations and secures packets. The
agent starts it and comes and goes beside it. If it ends, what policy wants
secured is dropped until it runs again.

With --stop it ends the running one and takes everything out of force: the
nftables table, the ip rule, the routes and the TUN device. Traffic is not
protected afterwards. Stop the agent first.

With --wanted it runs nothing and exits with 0 where the data path is needed, and
with 1 where the kernel carries the associations instead (the setting driver), or
with 255 where that cannot be found out. With settings that do not load it exits
with 0: the data path, when it is started, says what is wrong with them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if stop && wanted {
				return misuse{errors.New("datapath: --stop ends what --wanted only asks about: give one of them")}
			}
			s, err := givenSettings(cmd.Flags(), *config)
			switch {
			case wanted:
				return p.wantDataPath(cmd.Context(), &s, err)
			case err != nil:
				return invalid{err}
			case stop:
				return p.stopDataPath(cmd.Context(), &s)
			}
			return p.dataPath(cmd.Context(), &s)
		},
	}
	given.dataPathFlags(c.Flags())
	c.Flags().BoolVar(&stop, "stop", false, "end the running data path and take everything out of force")
	c.Flags().BoolVar(&wanted, "wanted", false, "only say by the exit code whether the data path is needed; for service managers")
	return c
}

func (p *program) holderCommand(config *string) *cobra.Command {
	return &cobra.Command{
		Use:   "holder",
		Short: "Keep the nftables table on a kernel before 6.9; the data path starts it",
		Long: `holder keeps open the socket that owns the nftables table, on kernels that remove
a table with its owner (Linux before 6.9). It does nothing else. The data path
starts it there and gets the socket from it; if the data path ends, the table
stays and drops what policy wants secured. 'ipsecagent datapath --stop' ends it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := givenSettings(cmd.Flags(), *config)
			if err != nil {
				return invalid{err}
			}
			return p.holder(cmd.Context(), &s)
		},
	}
}
