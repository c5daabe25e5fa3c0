package agent

import (
	"strings"
	"testing"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver/drivertest"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

const key = "correct horse battery staple 7"

func TestSecureServerAndClient(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		bob.assign("secure-server", key)
		if kinds, ok := connect(alice, bob); ok {
			t.Fatalf("a host without policy reaches the secure server: %s", kinds)
		}
		alice.assign("client", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("the client does not reach the secure server: %+v, %+v", alice.status(), bob.status())
		}
		kinds, _ := connect(alice, bob)
		if kinds != "secured secured secured" {
			t.Errorf("once connected, packets go %s", kinds)
		}
		sa, sb := alice.status(), bob.status()
		if len(sa.Secured) != 1 || len(sb.Secured) != 1 || sa.Secured[0].SPIIn != sb.Secured[0].SPIOut || sa.Secured[0].Rule != "default response" {
			t.Errorf("alice %+v, bob %+v", sa.Secured, sb.Secured)
		}
		if sb.Secured[0].Suite != "esp-aes256gcm" || sb.Secured[0].Principal != "psk:default" {
			t.Errorf("bob %+v", sb.Secured)
		}
		sameKeys(t, alice, bob)
		alice.unassign()
		if kinds, ok := connect(alice, bob); ok {
			t.Errorf("after unassign the server is reached: %s", kinds)
		}
		bob.assign("server", key)
		if kinds, ok := connect(alice, bob); !ok || kinds != "passed clear passed" {
			t.Errorf("with policy server, packets go %q", kinds)
		}
		if s := bob.status(); len(s.InClear) == 0 || s.InClear[0].Peer != alice.addr.String() || s.InClear[0].Why == "" {
			t.Errorf("bob's peers in clear: %+v", s.InClear)
		}
	})
}

// sameKeys checks that both ends hold the same keys for each association.
func sameKeys(t *testing.T, a, b *machine) {
	t.Helper()
	theirs := map[sadb.SAID]sadb.SA{}
	for _, sa := range b.fake.SAs() {
		theirs[sa.ID] = sa
	}
	mine := a.fake.SAs()
	if len(mine) == 0 || len(mine) != len(theirs) {
		t.Errorf("%d associations here, %d there", len(mine), len(theirs))
	}
	for _, sa := range mine {
		other, ok := theirs[sa.ID]
		if !ok || !sa.EncKey.Equal(other.EncKey) || sa.EncKey.Len() == 0 || sa.Dir == other.Dir {
			t.Errorf("%s is not the same at both ends", sa.ID)
		}
	}
}

func TestRequestIsClearThenSecuredThenRequired(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("server", key)
		bob.assign("server", key)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Clear || arrived != drivertest.Clear {
			t.Fatalf("the first packet leaves %v and arrives %v", left, arrived)
		}
		alice.pass(5 * time.Second)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
			t.Fatalf("negotiated, a packet leaves %v and arrives %v: %+v", left, arrived, alice.status())
		}
		forged := sadb.Flow{Local: bob.addr, LocalMe: true, Remote: alice.addr, Proto: sadb.TCP, LocalPort: 80, RemotePort: 40000}
		if got := bob.fake.Receive(forged, 100, sadb.SAID{}); got != drivertest.Dropped {
			t.Errorf("a clear packet in alice's name is %v", got)
		}
		for _, m := range []*machine{alice, bob} {
			if s := m.status(); len(s.Secured) != 1 || len(s.InClear) != 0 || len(s.Failures) != 0 {
				t.Errorf("%s: %+v", m.addr, s)
			}
		}
	})
}

func TestWrongKeyFailsOnBothSidesWithItsReason(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("client", "another key altogether")
		packet(alice, bob, bob)
		alice.pass(30 * time.Second)
		if s := alice.status(); len(s.Failures) != 1 || len(s.Secured) != 0 {
			t.Errorf("alice: %+v", s)
		}
		failed := bob.events(control.EventFailed)
		if len(failed) == 0 || !strings.Contains(failed[0].Message, "preshared key does not match") {
			t.Errorf("bob's events: %+v", failed)
		}
		if left, _ := packet(alice, bob, bob); left != drivertest.Held {
			t.Errorf("alice's packet is %v", left)
		}
		alice.assign("secure-server", "another key altogether")
		alice.pass(30 * time.Second)
		packet(alice, bob, bob)
		alice.pass(5 * time.Second)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
			t.Errorf("with the right key a packet leaves %v and arrives %v", left, arrived)
		}
	})
}

func TestSilentPeerOfARequest(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("server", key)
		alice.net.setCut(true)
		packet(alice, bob, bob)
		alice.pass(130 * time.Second)
		s := alice.status()
		if len(s.InClear) != 1 || len(s.Failures) != 1 || s.Failures[0].Code != string(ike.FailNoAnswer) {
			t.Fatalf("%+v", s)
		}
		if left, _ := packet(alice, bob, bob); left != drivertest.Clear {
			t.Errorf("the packet is %v", left)
		}
	})
}

func TestBothHostsSurviveARestart(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("secure-server", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		before := alice.status().Secured[0].SPIIn
		for _, m := range []*machine{alice, bob} {
			m.restart(false)
			if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
				t.Errorf("%s has restarted: a packet leaves %v and arrives %v", m.addr, left, arrived)
			}
			m.pass(2 * time.Minute)
			if len(m.events(control.EventAdopted)) == 0 {
				t.Errorf("%s has adopted nothing", m.addr)
			}
			if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
				t.Errorf("%s has renewed: a packet leaves %v and arrives %v", m.addr, left, arrived)
			}
		}
		if after := alice.status().Secured; len(after) != 1 || after[0].SPIIn == before {
			t.Errorf("not renewed: %+v, before %s", after, before)
		}
		sameKeys(t, alice, bob)
	})
}

func TestRebootedHostIsReachedAgain(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("client", key)
		if _, ok := connect(bob, alice); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		bob.restart(true)
		bob.pass(20 * time.Second)
		if kinds, ok := connect(bob, alice); !ok || kinds != "secured secured secured" {
			t.Errorf("after bob's reboot packets go %q: %+v, %+v", kinds, alice.status(), bob.status())
		}
	})
}

func TestRekeyLosesNothing(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("secure-server", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		lost := 0
		for range 3 * 60 * 6 {
			alice.pass(10 * time.Second)
			for _, hop := range [][2]*machine{{alice, bob}, {bob, alice}} {
				if left, arrived := packet(hop[0], hop[1], bob); left != drivertest.Secured || arrived != drivertest.Secured {
					lost++
				}
			}
		}
		if lost > 0 {
			t.Errorf("%d packets of 2160 were lost in 3 hours of rekeying", lost)
		}
		if got := len(alice.fake.SAs()); got > 4 {
			t.Errorf("%d associations are in force", got)
		}
	})
}

func TestNoCommonMethodSaysWhatDiffers(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assignText("{methods: [esp-aes256gcm]}", "[psk]", key)
		bob.assignText("{methods: [esp-aes128-sha256]}", "[psk]", key)
		packet(alice, bob, bob)
		alice.pass(5 * time.Second)
		for _, m := range []*machine{alice, bob} {
			f := m.status().Failures
			if len(f) != 1 || f[0].Code != string(ike.FailNoProposal) || len(f[0].Offered) == 0 {
				t.Fatalf("%s: %+v", m.addr, f)
			}
		}
		f := bob.status().Failures[0]
		if len(f.Received) == 0 || f.Differs == "" || !strings.Contains(strings.Join(f.Received, " "), "aes256gcm") {
			t.Errorf("bob: %+v", f)
		}
	})
}

const twoKeys = `apiVersion: ipsecagent/v1
kind: PresharedKeys
keys:
  - {name: weak, peers: [any], keys: ["a key that many hosts have"]}
  - {name: strong, peers: [any], keys: ["a key that few hosts have"]}
`

func TestWeakerIdentityDoesNotCarryTheStrongerRule(t *testing.T) {
	weakOnly := strings.Join(strings.Split(twoKeys, "\n")[:4], "\n") + "\n"
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: weak}}]", weakOnly)
		bob.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: strong}}]", twoKeys)
		packet(alice, bob, bob)
		alice.pass(30 * time.Second)
		if len(bob.status().Secured) != 0 || len(bob.fake.SAs()) != 0 {
			t.Fatalf("secured by the weaker key: %+v", bob.status().Secured)
		}
		alice.assignText("{methods: [esp-aes256gcm]}", "[{psk: {key: strong}}]", twoKeys)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		if s := bob.status().Secured; len(s) != 1 || s[0].Principal != "psk:strong" {
			t.Errorf("bob: %+v", s)
		}
	})
}

func TestBothBeginAtOnce(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("secure-server", key)
		bob.assign("secure-server", key)
		packet(alice, bob, bob)
		packet(bob, alice, bob)
		alice.pass(5 * time.Second)
		for _, hop := range [][2]*machine{{alice, bob}, {bob, alice}} {
			if left, arrived := packet(hop[0], hop[1], bob); left != drivertest.Secured || arrived != drivertest.Secured {
				t.Errorf("from %s a packet leaves %v and arrives %v", hop[0].addr, left, arrived)
			}
		}
		for range 4 * 60 { // rekeys do not multiply
			alice.pass(time.Minute)
			packet(alice, bob, bob)
			packet(bob, alice, bob)
		}
		if n := len(alice.fake.SAs()); n > 8 {
			t.Errorf("%d associations after four hours", n)
		}
		sameKeys(t, alice, bob)
	})
}

func TestPeerIsToldWhenPolicyEnds(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assign("server", key)
		bob.assign("server", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatal("not connected")
		}
		alice.unassign()
		if n := len(alice.fake.SAs()); n != 0 {
			t.Errorf("alice, who has no policy, still has %d associations", n)
		}
		// What alice sent before the delete may be on its way still: bob opens
		// it, and sends nothing more.
		for _, sa := range bob.fake.SAs() {
			if sa.Dir != sadb.In {
				t.Errorf("bob still sends on %s", sa.ID)
			}
		}
		if left := bob.status().Secured; len(left) != 0 {
			t.Errorf("bob still has %+v", left)
		}
		if left, _ := packet(bob, alice, bob); left != drivertest.Held {
			t.Errorf("within the grace a packet is %v", left)
		}
		if w, err := bob.agent.Why(t.Context(), alice.addr); err != nil || !strings.Contains(w.Words, "dropped until") {
			t.Errorf("why says of alice within the grace: %+v, %v", w, err)
		}
		// alice has said so herself: the grace is short.
		bob.pass(shortGrace + time.Second)
		if n := len(bob.fake.SAs()); n != 0 {
			t.Errorf("bob still has %d associations after what was under way has arrived", n)
		}
		if left, _ := packet(bob, alice, bob); left != drivertest.Clear {
			t.Errorf("after the grace a packet is %v", left)
		}
	})
}

func TestDelayedRequestToASilentPeer(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		alice.assignText("{methods: [esp-aes256gcm], allowClear: true, clearDelay: 3s}", "[psk]", key)
		alice.net.setCut(true)
		if left, _ := packet(alice, bob, bob); left != drivertest.Held {
			t.Errorf("the first packet is %v", left)
		}
		alice.pass(4 * time.Second)
		if left, _ := packet(alice, bob, bob); left != drivertest.Passed {
			t.Errorf("after the delay a packet is %v", left)
		}
		alice.net.setCut(false)
		bob.assign("client", key)
		alice.pass(2 * time.Minute)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
			t.Errorf("with an answer a packet leaves %v and arrives %v", left, arrived)
		}
	})
}

func TestPolicyChangeUnderTrafficSecuresAnew(t *testing.T) {
	twoHosts(t, func(t *testing.T, alice, bob *machine) {
		bob.assign("secure-server", key)
		alice.assign("client", key)
		if _, ok := connect(alice, bob); !ok {
			t.Fatalf("not connected: %+v", alice.status())
		}
		bob.assign("server", key)
		alice.pass(2 * time.Second)
		if left, arrived := packet(alice, bob, bob); left != drivertest.Secured || arrived != drivertest.Secured {
			t.Errorf("from alice a packet leaves %v and arrives %v", left, arrived)
		}
		if s := bob.status().Secured; len(s) != 1 || !strings.HasPrefix(s[0].Rule, "Request") {
			t.Errorf("bob: %+v", s)
		}
	})
}
