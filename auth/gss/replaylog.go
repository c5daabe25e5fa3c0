package gss

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The file of a replay cache: a line that says what it is, then records of
// hash, end, client and checksum. Hashes and times alone: nothing in it is
// secret. It is only appended to, or replaced as a whole.
const (
	replayMagic   = "ipsecagent replay 1\n"
	replayRecord  = 32 + 8 + 8 + 4
	maxReplayFile = len(replayMagic) + 4*maxSeen*replayRecord
	damagedSuffix = ".damaged"
)

// replayLog is the file, open for appending.
type replayLog struct {
	path    string
	file    *os.File
	size    int64
	records int
}

// readReplayLog returns what a file holds; nothing if there is no file. What
// is wrong with its content is damage. Half a record at the end is none: it
// was being written for an initiator that never got an answer.
func readReplayLog(path string) (records map[ReplayID]seen, damage, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(maxReplayFile)+1))
	if err != nil {
		return nil, nil, err
	}
	records, damage = parseReplayLog(b)
	return records, damage, nil
}

func parseReplayLog(b []byte) (map[ReplayID]seen, error) {
	if len(b) > maxReplayFile {
		return nil, errors.New("too large")
	}
	if len(b) < len(replayMagic) || string(b[:len(replayMagic)]) != replayMagic {
		return nil, errors.New("not a replay cache")
	}
	records := map[ReplayID]seen{}
	for b = b[len(replayMagic):]; len(b) >= replayRecord; b = b[replayRecord:] {
		id, s, err := parseRecord(b[:replayRecord])
		if err != nil {
			return nil, err
		}
		records[id] = s
	}
	return records, nil
}

func appendRecord(b []byte, id ReplayID, s seen) []byte {
	start := len(b)
	b = append(b, id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.until))
	b = append(b, s.client[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
}

func parseRecord(b []byte) (id ReplayID, s seen, err error) {
	n := len(b) - 4
	if binary.BigEndian.Uint32(b[n:]) != crc32.ChecksumIEEE(b[:n]) {
		return id, s, errors.New("a record's checksum does not fit")
	}
	copy(id[:], b)
	s.until = int64(binary.BigEndian.Uint64(b[32:]))
	copy(s.client[:], b[40:])
	return id, s, nil
}

// writeReplayLog replaces the file with these entries and leaves it open.
func writeReplayLog(path string, entries map[ReplayID]seen) (l *replayLog, err error) {
	b := []byte(replayMagic)
	for id, s := range entries {
		b = appendRecord(b, id, s)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err != nil {
		return nil, err
	}
	if err = f.Sync(); err != nil {
		return nil, err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return nil, err
	}
	return &replayLog{path: path, file: f, size: int64(len(b)), records: len(entries)}, nil
}

// append adds a record. It is in the kernel's hands when append returns: the
// process may die, only a power cut can lose it. After a failed write the next
// record takes the same place, so that no half record stays in the middle.
func (l *replayLog) append(id ReplayID, s seen) error {
	if _, err := l.file.WriteAt(appendRecord(nil, id, s), l.size); err != nil {
		return fmt.Errorf("write %s: %w", l.path, err)
	}
	l.size += replayRecord
	l.records++
	return nil
}

func (l *replayLog) close() error { return l.file.Close() }

// setAside keeps a damaged file for whoever wants to know why.
func setAside(path string) error { return os.Rename(path, path+damagedSuffix) }
