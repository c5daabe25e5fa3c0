package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ipsecagent/agent"
	"ipsecagent/driver/nft"
	"ipsecagent/policy"
)

// Values of the setting boot.mode: what passes from the start of the host until
// the first policy is in force.
const (
	bootAuto     = "auto"   // by the policy that was in force last
	bootPermit   = "permit" // everything
	bootBlock    = string(nft.BootBlock)
	bootStateful = string(nft.BootStateful)
)

// bootSettings is what passes until the first policy is in force.
type bootSettings struct {
	Mode string `yaml:"mode" json:"mode"`
	// Exempt is traffic that passes all the same, in the form of Windows:
	// PROTOCOL:SOURCEPORT:DESTINATIONPORT:inbound or outbound, port 0: any.
	Exempt []string `yaml:"exempt" json:"exempt"`
}

func (b bootSettings) validate() error {
	switch b.Mode {
	case bootAuto, bootPermit, bootBlock, bootStateful:
	default:
		return wrong("boot.mode", " %q: auto, permit, block or stateful%s", b.Mode, meantWord(b.Mode, []string{bootAuto, bootPermit, bootBlock, bootStateful}))
	}
	_, err := b.exemptions()
	return err
}

// exemptions reads the list; every mistake is reported.
func (b bootSettings) exemptions() ([]nft.BootExemption, error) {
	var list []nft.BootExemption
	var errs []error
	for _, text := range b.Exempt {
		x, err := parseBootExemption(text)
		if err != nil {
			errs = append(errs, wrong("boot.exempt", " %q: %w", text, err))
		}
		list = append(list, x)
	}
	return list, errors.Join(errs...)
}

// parseBootExemption reads PROTOCOL:SOURCEPORT:DESTINATIONPORT:DIRECTION, as in
// udp:0:53:outbound.
func parseBootExemption(text string) (x nft.BootExemption, err error) {
	fields := strings.Split(strings.ToLower(text), ":")
	if len(fields) != 4 {
		return x, errors.New("PROTOCOL:SOURCEPORT:DESTINATIONPORT:DIRECTION, as in udp:0:53:outbound or tcp:0:22:inbound")
	}
	if x.Protocol, err = bootProtocol(fields[0]); err != nil {
		return x, err
	}
	if x.Source, err = bootPort(fields[1]); err != nil {
		return x, err
	}
	if x.Destination, err = bootPort(fields[2]); err != nil {
		return x, err
	}
	if x.Inbound = fields[3] == "inbound"; !x.Inbound && fields[3] != "outbound" {
		return x, fmt.Errorf("the direction %q is neither inbound nor outbound", fields[3])
	}
	if err := x.Validate(); err != nil {
		return x, err
	}
	return x, nil
}

func bootProtocol(text string) (uint8, error) {
	switch text {
	case "tcp":
		return 6, nil
	case "udp":
		return 17, nil
	case "icmp":
		return 1, nil
	case "icmpv6":
		return 58, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("the protocol %q is none of tcp, udp, icmp, icmpv6 and the numbers 1 to 255", text)
	}
	return uint8(n), nil
}

func bootPort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("the port %q is not a number from 0 (any) to 65535", text)
	}
	return uint16(n), nil
}

// bootMemory is what the next start of the host has to know, written each time a
// policy is put in force. It stands beside the state file, so that losing one of
// them does not open the host.
type bootMemory struct {
	Policy string `json:"policy"`
	// Strict: the policy blocks something or wants it secured whatever the
	// peer can.
	Strict bool `json:"strict"`
	// Boot is the settings at that time, for a start at which they do not load.
	Boot bootSettings `json:"boot"`
}

// maxMemory bounds the file in bytes.
const maxMemory = 64 << 10

func (s *settings) bootMemory() string { return filepath.Join(s.StateDir, "boot.json") }

// recall reads what the last policy was; nil: none was in force.
func (s *settings) recall() (*bootMemory, error) {
	text, err := readBounded(s.bootMemory(), maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var m bootMemory
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return nil, fmt.Errorf("read which policy was in force last (%s): %w", s.bootMemory(), err)
	}
	return &m, nil
}

// readBounded reads a file of at most a number of bytes.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	return text, err
}

// remember writes what is in force for the next start of the host; no policy is
// nothing to remember.
func (s *settings) remember(e agent.Enforcement) error {
	path := s.bootMemory()
	if e.State != policy.Assigned {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(bootMemory{Policy: e.Policy, Strict: e.Strict, Boot: s.Boot})
	if err != nil {
		return err
	}
	if was, err := os.ReadFile(path); err == nil && string(was) == string(text) {
		return nil
	}
	return replaceFile(path, text)
}

// replaceFile writes a file so that it is the old or the new one after a crash.
func replaceFile(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
