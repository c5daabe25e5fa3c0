package agent

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/sadb"
)

func storedPair() sadb.Pair {
	p := sadb.Pair{ID: sadb.NewPairID(), Filter: "f1", Local: alice(), Remote: bob(), Flow: "tcp", Mode: sadb.Transport,
		Selector: sadb.Selector{Local: sadb.Addr(alice()), Remote: sadb.Addr(bob()), Proto: sadb.TCP, LocalPorts: sadb.Port(1433),
			ICMPType: sadb.Octets{From: 8, To: 8, Set: true}},
		In: []sadb.SAID{{Dst: alice(), Proto: sadb.ESP, SPI: 0x1001}}, Out: []sadb.SAID{{Dst: bob(), Proto: sadb.ESP, SPI: 0x2002}},
		Suites:   []sadb.Suite{{Proto: sadb.ESP, Encryption: sadb.AESGCM, KeyBits: 256}},
		Lifetime: sadb.Limits{Time: time.Hour, Bytes: 1 << 40}, Initiator: true, Principal: "psk:default", Method: "preshared key",
		Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Replaces: 7, DefaultResponse: true}
	return p
}

func TestStoreGivesBackWhatItGot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, k, damaged, err := openStore(path, time.Now())
	if err != nil || damaged != "" || k.Assigned != nil || k.Last != nil || len(k.Pairs) != 0 {
		t.Fatalf("fresh: %+v, %q, %v", k, damaged, err)
	}
	as, last := assignment{Name: "server", Auth: control.AuthPSKFile}, &lastGood{Name: "server", Document: []byte("kind: Policy"), Applied: time.Unix(9, 0).UTC()}
	if err := s.assign(as, last); err != nil {
		t.Fatal(err)
	}
	p := storedPair()
	if err := s.write([]sadb.Pair{storedPair(), p}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.write([]sadb.Pair{p}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	s, k, _, err = openStore(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if *k.Assigned != as || !reflect.DeepEqual(k.Last, last) || !reflect.DeepEqual(k.Pairs, []sadb.Pair{p}) {
		t.Errorf("kept %+v %+v\n%+v\nwant %+v", k.Assigned, k.Last, k.Pairs, p)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state file: %v, %v", info.Mode(), err)
	}
}

// Any cut and any altered page either still reads or is set aside; nothing
// ends the process.
func TestDamagedStoreIsSetAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	s, _, _, err := openStore(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write([]sadb.Pair{storedPair()}, nil); err != nil {
		t.Fatal(err)
	}
	s.close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range damages(whole) {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, _, err := openStore(at, time.Now())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.assign(assignment{Name: "client"}, nil); err != nil {
			t.Errorf("%s: write: %v", name, err)
		}
		s.close()
	}
}

func damages(whole []byte) map[string][]byte {
	alter := func(from, to int) []byte {
		b := append([]byte(nil), whole...)
		for i := from; i < min(to, len(b)); i++ {
			b[i] ^= 0xa5
		}
		return b
	}
	return map[string][]byte{
		"empty pages": make([]byte, len(whole)), "both metas": alter(0, 8192), "cut in half": whole[:len(whole)/2],
		"cut short": whole[:100], "data": alter(8192, len(whole)), "last page": alter(len(whole)-4096, len(whole)),
	}
}

func TestStoreInAMissingFolderSaysSo(t *testing.T) {
	if _, _, _, err := openStore(filepath.Join(t.TempDir(), "no", "state.db"), time.Now()); err == nil {
		t.Error("opened")
	}
}

func FuzzParseAddrs(f *testing.F) {
	for _, s := range []string{"any", "me", "10.0.0.1-10.0.0.9", "::1-::2", "10.0.0.9-10.0.0.1", "::1-10.0.0.1", "-", "fe80::1%eth0-fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddrs(s)
		if err != nil {
			return
		}
		if again, err := parseAddrs(addrsText(a)); err != nil || again != a {
			t.Errorf("%q is %v, and again %v, %v", s, a, again, err)
		}
	})
}
