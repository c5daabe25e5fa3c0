package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
)

// vici is a connection to charon's control socket (strongSwan,
// src/libcharon/plugins/vici/README.md).
type vici struct{ conn net.Conn }

// section is the body of a vici message: string, []string or section by name.
type section map[string]any

// The types of packets and elements.
const (
	cmdRequest  = 0
	cmdResponse = 1

	sectionStart = 1
	sectionEnd   = 2
	keyValue     = 3
	listStart    = 4
	listItem     = 5
	listEnd      = 6
)

// maxAnswer bounds an answer in bytes.
const maxAnswer = 1 << 20

func dialVici(path string) (*vici, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return &vici{conn}, nil
}

func (v *vici) close() { v.conn.Close() }

// call sends a command and checks that its answer says success.
func (v *vici) call(command string, args section) error {
	body := append([]byte{cmdRequest, byte(len(command))}, command...)
	body = args.append(body)
	if _, err := v.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	answer, err := v.read()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if answer[0] != cmdResponse {
		return fmt.Errorf("%s: packet of type %d", command, answer[0])
	}
	if !slices.Contains(texts(answer[1:]), "success=yes") {
		return fmt.Errorf("%s: %q", command, texts(answer[1:]))
	}
	return nil
}

func (v *vici) read() ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(v.conn, head); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head)
	if n == 0 || n > maxAnswer {
		return nil, errors.New("answer of a strange length")
	}
	answer := make([]byte, n)
	_, err := io.ReadFull(v.conn, answer)
	return answer, err
}

func (s section) append(b []byte) []byte {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		switch value := s[name].(type) {
		case string:
			b = appendText(appendName(b, keyValue, name), value)
		case []string:
			b = appendName(b, listStart, name)
			for _, item := range value {
				b = appendText(append(b, listItem), item)
			}
			b = append(b, listEnd)
		case section:
			b = append(value.append(appendName(b, sectionStart, name)), sectionEnd)
		}
	}
	return b
}

func appendName(b []byte, kind byte, name string) []byte {
	return append(append(b, kind, byte(len(name))), name...)
}

func appendText(b []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(text))), text...)
}

// texts returns the plain key=value elements of a message, as far as it can be
// read.
func texts(b []byte) []string {
	var all []string
	for len(b) >= 2 && b[0] == keyValue {
		name, rest := int(b[1]), b[2:]
		if len(rest) < name+2 {
			break
		}
		n := int(binary.BigEndian.Uint16(rest[name:]))
		if len(rest) < name+2+n {
			break
		}
		all = append(all, string(rest[:name])+"="+string(rest[name+2:name+2+n]))
		b = rest[name+2+n:]
	}
	return all
}
