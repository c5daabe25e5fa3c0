package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// remote is a station as its parent sees it.
type remote struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *json.Encoder
	dec *json.Decoder
}

// station starts one in a namespace.
func (b *bench) station(ns string, bob bool) (*remote, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &remote{cmd: exec.Command("ip", "netns", "exec", ns, self, stationCommand, "-dir", filepath.Join(b.dir, ns),
		"-bob="+strconv.FormatBool(bob), "-filters", strconv.Itoa(b.options.filters), "-profile", b.profileOf(ns))}
	r.cmd.Stderr = os.Stderr
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.enc, r.dec = json.NewEncoder(r.in), json.NewDecoder(out)
	return r, r.cmd.Start()
}

// tell gives an order and awaits the report.
func (r *remote) tell(o order) (report, error) {
	if err := r.enc.Encode(o); err != nil {
		return report{}, fmt.Errorf("the station that is told to %s has ended: %w", o.Do, err)
	}
	var answer report
	if err := r.dec.Decode(&answer); err != nil {
		return report{}, fmt.Errorf("the station that is told to %s has ended: %w", o.Do, err)
	}
	if answer.Error != "" {
		return report{}, errors.New(answer.Error)
	}
	return answer, nil
}

// close has the station end; what is in force stays so.
func (r *remote) close() {
	r.in.Close()
	_ = r.cmd.Wait()
}
