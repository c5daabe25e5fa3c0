package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

// maxKeyFile bounds the file of preshared keys in bytes.
const maxKeyFile = 256 << 10

const assignHelp = `assign puts a policy in force on this host, in place of the one before, and the
agent remembers it. If the policy is not valid, the one before stays in force.

  client         never asks for security, answers when asked
  server         asks everybody, and talks in clear with those who do not answer
  secure-server  talks to those alone who prove themselves; lets the first
                 packet of a client in, so that it can be asked
  NAME           a policy in the policies folder of the agent

The first three authenticate by Kerberos, unless --auth says otherwise:

  kerberos       the key table of this host; nothing else has to be given out
  cert:CA-NAME   certificates of the authority of that distinguished name
  psk-file:FILE  the preshared keys in a file

With --compat windows2000 they are the policies that Windows 2000 brought, as
they stand in every Active Directory, for peers that know nothing better; modern
methods are still offered first, unless the agent's settings say otherwise.`

func assignCommand(e *env) *cobra.Command {
	var auth, compat string
	c := &cobra.Command{
		Use:   "assign client|server|secure-server|NAME",
		Short: "Put a policy in force and keep it across restarts",
		Long:  assignHelp,
		Example: `  ipsecctl assign server
  ipsecctl assign secure-server --auth "cert:CN=Bank Root CA,O=Bank"
  ipsecctl assign secure-server --auth psk-file:/root/key
  ipsecctl assign sql-servers`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: e.completePolicies,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := control.AssignRequest{Policy: args[0], Compat: compat}
			if err := addAuth(&req, auth); err != nil {
				return err
			}
			res, err := e.agent().Assign(cmd.Context(), req)
			if err != nil {
				return err
			}
			return e.showAssigned(res)
		},
	}
	c.Flags().StringVar(&auth, "auth", "", "authenticate by this method instead of the policy's: "+control.AuthWords)
	c.Flags().StringVar(&compat, "compat", "", "assign a predefined policy as another system has it: "+control.CompatWindows2000)
	c.RegisterFlagCompletionFunc("compat", cobra.FixedCompletions([]string{control.CompatWindows2000}, cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("auth", completeAuth)
	return e.withFormat(c)
}

// completeAuth offers the files behind psk-file:.
func completeAuth(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	const prefix = control.AuthPSKFile + ":"
	path, ok := strings.CutPrefix(begun, prefix)
	if !ok {
		methods := slices.DeleteFunc([]string{control.AuthKerberos, control.AuthCertificate, prefix}, func(m string) bool { return !strings.HasPrefix(m, begun) })
		return methods, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	entries, _ := os.ReadDir(filepath.Dir(path)) // a folder that cannot be read offers nothing
	for _, e := range entries {
		name := filepath.Join(filepath.Dir(path), e.Name())
		if e.IsDir() {
			name += "/"
		}
		if strings.HasPrefix(name, path) && clean(name) == name {
			found = append(found, prefix+name)
		}
	}
	return found, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

// showAssigned says what is in force now.
func (e *env) showAssigned(r control.AssignResult) error {
	return e.show(r, func(p *printer) {
		if r.Policy == "" {
			p.line("No policy is in force: traffic passes in clear.")
		} else {
			p.line("Policy %q (%s) is in force: %s.", r.Policy, r.Origin, count(uint64(r.Filters), "filter"))
		}
		for _, w := range r.Warnings {
			p.line("Note: %s", w)
		}
	})
}

// addAuth reads what --auth names into the request.
func addAuth(r *control.AssignRequest, auth string) error {
	path, keyFile := strings.CutPrefix(auth, control.AuthPSKFile+":")
	switch {
	case keyFile && path != "":
	case auth == "" || auth == control.AuthKerberos || strings.HasPrefix(auth, control.AuthCertificate):
		r.Auth = auth
		return r.Validate()
	default:
		return usage("--auth %q: it is one of %s; a key itself never stands on a command line", auth, control.AuthWords)
	}
	keys, err := readKeys(path)
	if err != nil {
		return err
	}
	r.Auth, r.Keys = control.AuthPSKFile, keys
	return r.Validate()
}

// readKeys reads a key file that nobody else can read.
func readKeys(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", keyFileError(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", keyFileError(path, err)
	}
	if err := checkKeyFile(path, info); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return "", keyFileError(path, err)
	}
	if len(text) > maxKeyFile {
		return "", invalid("key file %s is larger than %d bytes: is it the right file?", path, maxKeyFile)
	}
	return string(text), nil
}

func checkKeyFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return invalid("key file %s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return invalid("key file %s can be used by others (mode %04o): make it private (chmod 600 %s), and if others may have read it, make a new key", path, perm, path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return invalid("key file %s belongs to another user (%d), who can change it: make it your own (chown)", path, st.Uid)
	}
	return nil
}

func keyFileError(path string, err error) error {
	code := control.Failed
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = control.NotFound
	case errors.Is(err, fs.ErrPermission):
		code = control.NotPermitted
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &control.Error{Code: code, Message: fmt.Sprintf("key file %s cannot be read: %v", path, err)}
}

func invalid(format string, args ...any) error {
	return &control.Error{Code: control.Invalid, Message: fmt.Sprintf(format, args...)}
}
