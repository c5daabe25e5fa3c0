package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
)

// process is one of our two ends, as its parent sees it.
type process struct {
	cmd   *exec.Cmd
	stop  context.CancelFunc
	in    io.WriteCloser
	lines *bufio.Scanner
}

func (l *lab) startEnd(o options, s scenario, initiator bool) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ns := l.one
	if initiator {
		ns = l.many
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p := &process{stop: cancel}
	p.cmd = exec.CommandContext(ctx, "ip", "netns", "exec", ns, self, endCommand, "-initiator="+strconv.FormatBool(initiator),
		"-peers", strconv.Itoa(l.peers), "-window", strconv.Itoa(o.window), "-auth", s.name,
		"-profile", o.cpu, "-certificates", l.certificates(s))
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		cancel()
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	p.lines = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	return p, nil
}

// hear waits for a word.
func (p *process) hear(word string) error {
	if !p.lines.Scan() || p.lines.Text() != word {
		return fmt.Errorf("one of our ends says %q instead of %q: %w", p.lines.Text(), word, p.lines.Err())
	}
	return nil
}

func (p *process) say(word string) error {
	_, err := fmt.Fprintln(p.in, word)
	return err
}

func (p *process) close() {
	p.in.Close() // it goes by itself, and writes its profile
	_ = p.cmd.Wait()
	p.stop()
}

// ours measures our responder with our initiator.
func (l *lab) ours(o options, s scenario) (figure, error) {
	one, err := l.startEnd(o, s, false)
	if err != nil {
		return figure{}, err
	}
	defer one.close()
	many, err := l.startEnd(o, s, true)
	if err != nil {
		return figure{}, err
	}
	defer many.close()
	for _, p := range []*process{one, many} {
		if err := p.hear(wordReady); err != nil {
			return figure{}, err
		}
	}
	w, err := startWatch(one.cmd.Process.Pid, many.cmd.Process.Pid)
	if err != nil {
		return figure{}, err
	}
	for _, p := range []*process{one, many} {
		if err := p.say(wordGo); err != nil {
			return figure{}, err
		}
	}
	for _, p := range []*process{many, one} {
		if err := p.hear(wordDone); err != nil {
			return figure{}, err
		}
	}
	return w.stop(l.peers)
}
