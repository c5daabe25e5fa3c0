// Command report reads the output of "go test -json", prints a line for each
// package, the figures that tests log ("figure: …") and the output of what
// failed, and fails unless every test that the required list names has run and
// passed.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
)

// event is a line of "go test -json" (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

// report is the outcome of a run.
type report struct {
	out      io.Writer
	result   map[string]string // "package test" to pass, fail or skip
	printed  map[string][]string
	begun    map[string]int // runs of a package that have not ended
	failures []string
}

func main() {
	required := flag.String("required", "", "file that names the tests that must pass")
	log := flag.String("log", "", "file that gets the whole input")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *required, *log); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, required, log string) error {
	if log != "" {
		f, err := os.Create(log)
		if err != nil {
			return err
		}
		defer f.Close()
		in = io.TeeReader(in, f)
	}
	r := &report{out: out, result: map[string]string{}, printed: map[string][]string{}, begun: map[string]int{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			// The build's own words.
			fmt.Fprintln(out, lines.Text())
			continue
		}
		r.take(e)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return r.close(required)
}

// take follows one event.
func (r *report) take(e event) {
	pkg := strings.TrimPrefix(e.Package, "ipsecagent/")
	key := pkg + " " + e.Test
	switch e.Action {
	case "start":
		r.begun[pkg]++
	case "output", "build-output":
		r.printed[key] = append(r.printed[key], e.Output)
		if _, figure, ok := strings.Cut(e.Output, "figure: "); ok {
			fmt.Fprintf(r.out, "     %s: %s\n", key, strings.TrimSpace(figure))
		}
	case "pass", "skip", "fail":
		if e.Test == "" {
			r.begun[pkg]--
			fmt.Fprintf(r.out, "%-4s %-24s %6.1f s\n", e.Action, pkg, e.Elapsed)
		} else {
			r.result[key] = e.Action
		}
		if e.Action == "fail" {
			r.failures = append(r.failures, key)
		}
		if e.Action == "skip" && e.Test != "" {
			fmt.Fprintf(r.out, "skip %s: %s\n", key, strings.TrimSpace(strings.Join(r.printed[key], " ")))
		}
		if e.Action != "fail" {
			delete(r.printed, key)
		}
	case "build-fail":
		r.failures = append(r.failures, key)
	}
}

// close prints what failed and the closing line.
func (r *report) close(required string) error {
	for _, pkg := range slices.Sorted(maps.Keys(r.begun)) {
		if r.begun[pkg] > 0 {
			r.failures = append(r.failures, pkg+" (its tests began and did not end)")
		}
	}
	for _, key := range r.failures {
		fmt.Fprintf(r.out, "\nFAILED %s\n%s", key, strings.Join(r.printed[key], ""))
	}
	missing, err := r.missing(required)
	if err != nil {
		return err
	}
	for _, m := range missing {
		fmt.Fprintf(r.out, "REQUIRED and not passed: %s\n", m)
	}
	n := map[string]int{}
	for _, outcome := range r.result {
		n[outcome]++
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", n["pass"], n["fail"], n["skip"])
	if len(r.failures) > 0 || len(missing) > 0 {
		return fmt.Errorf("%d failures, %d required tests that did not pass", len(r.failures), len(missing))
	}
	return nil
}

// missing returns the required tests that did not pass. Lines are "package
// test"; # starts a comment.
func (r *report) missing(required string) ([]string, error) {
	if required == "" {
		return nil, nil
	}
	b, err := os.ReadFile(required)
	if err != nil {
		return nil, err
	}
	var missing []string
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		key := strings.Join(fields, " ")
		if got := r.result[key]; got != "pass" {
			missing = append(missing, fmt.Sprintf("%s (%s)", key, orNone(got)))
		}
	}
	sort.Strings(missing)
	return missing, nil
}

func orNone(s string) string {
	if s == "" {
		return "did not run"
	}
	return s
}
