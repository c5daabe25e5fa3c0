package directory

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// controller answers as a domain controller does: it has one change for each name,
// by its number.
type controller struct {
	highest uint64
	changes map[string]uint64
}

func (c *controller) answer(w io.Writer, id []byte, request element) {
	say := func(name, attribute string, v []byte) { reply(w, id, found(name, attribute, v)) }
	from := regexp.MustCompile("uSNChanged\x04.([0-9]+)").FindSubmatch(request.content)
	switch {
	case bytes.Contains(request.content, []byte("highestCommittedUSN")):
		say("", "highestCommittedUSN", strconv.AppendUint(nil, c.highest, 10))
	case bytes.Contains(request.content, []byte("tokenGroups")):
		sid, _ := hex.DecodeString("010100000000000512000000")
		one := func(name string) []byte {
			return tlv(tagSequence, tlv(tagOctetString, []byte(name)), tlv(0x31, tlv(tagOctetString, sid)))
		}
		reply(w, id, tlv(0x64, tlv(tagOctetString, []byte("cn=me,dc=x")), tlv(tagSequence, one("objectSid"), one("tokenGroups"))))
	case from != nil:
		least, _ := strconv.ParseUint(string(from[1]), 10, 64)
		for name, usn := range c.changes {
			if usn >= least {
				say(name, attrUSN, strconv.AppendUint(nil, usn, 10))
			}
		}
	}
	reply(w, id, result(0x65, 0))
}

// TestAChangeThatWasOvertakenIsSeen: a controller numbers changes as they begin,
// so that one with a lower number can show up later than one with a higher one.
func TestAChangeThatWasOvertakenIsSeen(t *testing.T) {
	c := &controller{highest: 100, changes: map[string]uint64{}}
	s := newToy(t)
	s.answer = c.answer
	session := s.connect(soon(t))
	kind := *session.config
	kind.Kind = ActiveDirectory
	session.config = &kind
	groups, err := session.token(soon(t), "cn=me,dc=x")
	if err != nil {
		t.Fatal(err)
	}
	a := &Answer{seen: seen{version: version{usn: 100}, computer: "cn=me,dc=x", groups: groups, entries: []string{"cn=ours,dc=x"}}}
	poll := func(want bool) {
		t.Helper()
		before := session.Cost().Operations
		changed, err := session.Changed(soon(t), a)
		if err != nil || changed != want {
			t.Errorf("changed %v, %v; not %v", changed, err, want)
		}
		if n := session.Cost().Operations - before; n > 3 {
			t.Errorf("%d operations", n)
		}
	}
	poll(false)
	c.highest, c.changes["cn=another,dc=x"] = 101, 103 // 102 is under way
	poll(false)
	poll(false)
	c.highest, c.changes["CN=Ours,DC=x"] = 103, 102
	poll(true)
	delete(c.changes, "CN=Ours,DC=x")
	poll(false)
	if a.seen.version.usn != 103 || a.seen.others {
		t.Errorf("what others changed is fetched again and again: %+v", a.seen)
	}
	poll(false)
	c.changes["cn=ours,dc=x"] = 104
	poll(true)
}

// TestAServerThatTellsNothingIsSaid: it refuses to tell of changes, or ends the
// search for them.
func TestAServerThatTellsNothingIsSaid(t *testing.T) {
	for _, code := range []byte{11, 0} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			s := newToy(t)
			s.answer = func(w io.Writer, id []byte, _ element) { reply(w, id, result(0x65, code)) }
			session := s.connect(soon(t))
			if session.Deaf() != nil {
				t.Error("before it was asked")
			}
			hints, _, _ := session.Watch(soon(t), &Answer{})
			select {
			case <-hints:
			case <-time.After(10 * time.Second):
				t.Fatal("nothing hints at it")
			}
			if session.Deaf() == nil {
				t.Error("it is not said")
			}
		})
	}
}

// TestAnEndedConnectionIsNotDeaf: that it is over is known otherwise.
func TestAnEndedConnectionIsNotDeaf(t *testing.T) {
	s := newToy(t)
	s.answer = func(w io.Writer, _ []byte, _ element) { w.(io.Closer).Close() }
	session := s.connect(soon(t))
	session.Watch(soon(t), &Answer{})
	select {
	case <-session.Ended():
	case <-time.After(10 * time.Second):
		t.Fatal("it has not ended")
	}
	if err := session.Deaf(); err != nil {
		t.Error(err)
	}
}

// TestALargePolicyIsCheckedInTime: ten thousand objects are compared by their
// names within moments.
func TestALargePolicyIsCheckedInTime(t *testing.T) {
	var names []string
	var entries []Entry
	for i := range maxPolicyObjects {
		names = append(names, fmt.Sprintf("CN=ipsecFilter{%08d-0000-4000-8000-000000000000},CN=IP Security,CN=System,DC=example,DC=test", i))
		entries = append(entries, Entry{DN: strings.ToLower(names[i]), Attributes: []Attribute{{"ipsecData", [][]byte{{1}}}}})
	}
	done := make(chan error, 1)
	go func() { done <- complete(names[0], names, entries) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second): // by pairs it takes minutes
		t.Error("it takes too long")
	}
}

// TestChangesOfSeveralServersAreCompared: each by its own clock.
func TestChangesOfSeveralServersAreCompared(t *testing.T) {
	last := version{csn: "20250101000000.000000Z#000000#001#000000 20261121120000.000000Z#000000#002#000000"}
	for csn, later := range map[string]bool{
		"20250101000000.000000Z#000000#001#000000": false,
		"20250101000001.000000Z#000000#001#000000": true,
		"20261121110000.000000Z#000000#002#000000": false,
		"20261121120000.000000Z#000001#002#000000": true,
		"20240101000000.000000Z#000000#003#000000": true, // a server of which nothing was known
		"": true,
	} {
		if last.precedes(csn) != later {
			t.Errorf("%q: later %v", csn, !later)
		}
	}
}
