package gpipsec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxFile bounds a file, in bytes.
const maxFile = 256 << 20

// some refuses a file without any object: it is not what was meant.
func some(objects []Object) ([]Object, error) {
	if len(objects) == 0 {
		return nil, errors.New("gpipsec: the file holds no IPSec policy objects")
	}
	return objects, nil
}

// readText returns a file as UTF-8: Windows' tools write UTF-16 too, with a byte
// order mark.
func readText(from io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(from, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("the file is larger than %d MiB", maxFile>>20)
	}
	wide, ok := bytes.CutPrefix(b, []byte{0xff, 0xfe})
	if !ok {
		return string(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))), nil
	}
	if len(wide)%2 != 0 {
		return "", errors.New("UTF-16 of an odd number of bytes")
	}
	if i := indexNUL(wide); i >= 0 {
		return "", fmt.Errorf("a NUL at byte %d", i+2)
	}
	return Wide(wide).Text()
}

func indexNUL(wide []byte) int {
	for i := 0; i+1 < len(wide); i += 2 {
		if wide[i] == 0 && wide[i+1] == 0 {
			return i
		}
	}
	return -1
}

// eachLine calls line for every line of text without its end. An error gets the
// number of its line, unless it has one.
func eachLine(text string, line func(number int, text string) error) error {
	for number := 1; ; number++ {
		one, rest, more := strings.Cut(text, "\n")
		if err := line(number, strings.TrimRight(one, "\r")); err != nil {
			return atLine(number, err)
		}
		if !more {
			return nil
		}
		text = rest
	}
}

// lineError is an error with the line that it is about.
type lineError struct {
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *lineError) Unwrap() error { return e.err }

func atLine(number int, err error) error {
	var has *lineError
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &lineError{number, err}
}
