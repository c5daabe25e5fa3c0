package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
)

func traceCommand(e *env) *cobra.Command {
	var keyLog string
	c := &cobra.Command{
		Use:   "trace PEER",
		Short: "Show the exchanges with one peer, message by message, as they happen",
		Long: `trace shows the key exchange with one peer from now on, until it is stopped: each
message with its payloads in readable form, and what was decided. Keys, hashes and
proofs are left out. What this program is too slow for is left out too, and counted.

With --keylog, as root, the keys are written to files in the formats of Wireshark's
tables: FILE.ikev1_decryption_table and FILE.esp_sa, or, if FILE is a folder,
ikev1_decryption_table and esp_sa in it. Put there they decrypt a capture. Whoever
has them reads the traffic: the agent notes it in its events.`,
		Example: "  ipsecctl trace 10.1.2.3\n  ipsecctl trace 10.1.2.3 --keylog ~/.config/wireshark",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			peer, err := parsePeer(args[0])
			if err != nil {
				return err
			}
			tables := keyTables{path: keyLog}
			defer tables.close()
			if err := tables.check(); err != nil {
				return err
			}
			r := control.TraceRequest{Peer: peer, Keys: keyLog != ""}
			return e.agent().Trace(cmd.Context(), r, func(l control.TraceLine) error { return e.showTrace(&tables, l) })
		},
	}
	c.Flags().StringVar(&keyLog, "keylog", "", "write the keys to FILE.ikev1_decryption_table and FILE.esp_sa, or into that folder")
	return e.withFormat(c)
}

// showTrace prints a step, or writes a line of a key table.
func (e *env) showTrace(tables *keyTables, l control.TraceLine) error {
	if l.Table != "" {
		return tables.write(l)
	}
	if e.format == formatJSON {
		text, err := toJSON(l, "")
		if err != nil {
			return err
		}
		_, err = e.out.Write(text)
		return err
	}
	return e.show(l, func(p *printer) { printTrace(p, l) })
}

func printTrace(p *printer, l control.TraceLine) {
	if l.Lost > 0 {
		p.line("... %s left out: this program was too slow", count(uint64(l.Lost), "step"))
	}
	if decision, ok := strings.CutPrefix(l.Text, "* "); ok {
		p.line("%s  %s", p.atMilli(l.Time), l.Remote)
		p.block("    * ", decision)
		return
	}
	way := "<-"
	if l.Sent {
		way = "->"
	}
	p.line("%s  %s %s %s", p.atMilli(l.Time), l.Local, way, l.Remote)
	p.block("    ", l.Text)
}

// keyTables is the files that keys are written to.
type keyTables struct {
	path string // "": none
	open map[string]*os.File
}

// tableNames are the tables of Wireshark that the agent has lines for.
func tableNames() []string { return []string{"ikev1_decryption_table", "esp_sa"} }

// check opens the files before anything is asked for.
func (k *keyTables) check() error {
	if k.path == "" {
		return nil
	}
	k.open = map[string]*os.File{}
	for _, table := range tableNames() {
		f, err := openKeyTable(k.name(table))
		if err != nil {
			return err
		}
		k.open[table] = f
	}
	return nil
}

func (k *keyTables) name(table string) string {
	if info, err := os.Stat(k.path); err == nil && info.IsDir() {
		return filepath.Join(k.path, table)
	}
	return k.path + "." + table
}

// openKeyTable opens a file for keys, which nobody else can read.
func openKeyTable(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, keyTableError(path, err)
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0) {
		err = fmt.Errorf("it is not a regular file, or others can use it (mode %04o): chmod 600 it, or choose another", info.Mode().Perm())
	}
	if err != nil {
		f.Close()
		return nil, keyTableError(path, err)
	}
	return f, nil
}

func keyTableError(path string, err error) error {
	code := control.Failed
	if errors.Is(err, fs.ErrPermission) {
		code = control.NotPermitted
	}
	return &control.Error{Code: code, Message: fmt.Sprintf("keys cannot be written to %s: %v", path, err)}
}

func (k *keyTables) write(l control.TraceLine) error {
	f := k.open[l.Table]
	if f == nil {
		return nil // a table of a newer agent
	}
	if _, err := fmt.Fprintln(f, clean(l.Line)); err != nil {
		return keyTableError(f.Name(), err)
	}
	return nil
}

func (k *keyTables) close() {
	for _, f := range k.open {
		f.Close() // each line is written already
	}
}
