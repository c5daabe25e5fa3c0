package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// run measures what is asked for and prints it.
func run(o options, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, for network namespaces")
	}
	var all []scenario
	for _, name := range o.names {
		s, err := findScenario(name)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	l, err := newLab(o)
	if err != nil {
		return err
	}
	defer l.close()
	stop := l.closeOnSignal()
	defer stop()
	fmt.Fprintf(out, "%d peers, %d rounds, medians (ratios: also lowest and highest)\n", o.peers, o.rounds)
	printHead(out)
	for _, s := range all {
		if err := l.compare(o, s, out); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// closeOnSignal takes the laboratory down when somebody ends the benchmark
// early.
func (l *lab) closeOnSignal() (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	over := make(chan struct{})
	go func() {
		select {
		case <-signals:
			l.close()
			exit(errors.New("ended early"))
		case <-over:
		}
	}()
	return func() { signal.Stop(signals); close(over) }
}

// compare measures both in turn.
func (l *lab) compare(o options, s scenario, out io.Writer) error {
	if err := l.certify(s); err != nil {
		return err
	}
	var ours, charon []figure
	for range o.rounds {
		if o.only != "charon" {
			f, err := l.ours(o, s)
			if err != nil {
				return fmt.Errorf("ours: %w", err)
			}
			ours = append(ours, f)
		}
		if o.only != "ours" {
			f, err := l.charon(o, s)
			if err != nil {
				return fmt.Errorf("charon: %w", err)
			}
			charon = append(charon, f)
		}
	}
	if ours != nil {
		printFigures(out, s.name, "ours", ours)
	}
	if charon != nil {
		printFigures(out, s.name, "charon", charon)
	}
	if ours != nil && charon != nil {
		printRatios(out, s.name, ours, charon)
	}
	return nil
}
