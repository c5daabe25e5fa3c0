package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/driver/drivertest"
	"ipsecagent/host"
	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// nameService plays a host.Names.
type nameService struct {
	dir      string // of the policy that has names
	mu       sync.Mutex
	followed map[string]host.Answer
	answers  map[string]host.Answer
	changed  chan struct{}
}

func (s *nameService) names() Names {
	return Names{Changed: s.changed,
		Follow: func(names map[string]host.Answer) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.followed = names
		},
		Answers: func() map[string]host.Answer {
			s.mu.Lock()
			defer s.mu.Unlock()
			return maps.Clone(s.answers)
		}}
}

// answer has the name service say something new of a name.
func (s *nameService) answer(name string, a host.Answer) {
	s.mu.Lock()
	s.answers[name] = a
	s.mu.Unlock()
	s.changed <- struct{}{}
	synctest.Wait()
}

func resolved(addrs ...netip.Addr) host.Answer {
	return host.Answer{Addresses: addrs, Resolved: time.Now()}
}

const toTheController = `apiVersion: ipsecagent/v1
kind: Policy
name: controller
filterLists:
  all: [{from: me, to: any}]
  controller: [{from: me, to: {name: DC1.example.com}, protocol: tcp, destinationPort: 389}]
  servers: [{from: me, to: dns-servers, protocol: udp, destinationPort: 53}]
rules:
  - {name: directory, filterList: controller, filterAction: permit}
  - {name: names, filterList: servers, filterAction: permit}
  - {name: rest, filterList: all, filterAction: block}
`

// withNames runs f with a rig whose policy names a controller and the DNS servers
// of the host.
func withNames(t *testing.T, f func(t *testing.T, r *rig, s *nameService)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &nameService{dir: t.TempDir(), answers: map[string]host.Answer{}, changed: make(chan struct{}, 1)}
		r := newRig(t, func(c *Config) { c.Library, c.Names = folder(s.dir), s.names() })
		defer func() {
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		}()
		r.write(s.dir, "controller", toTheController)
		if _, err := r.agent.Assign(t.Context(), control.AssignRequest{Policy: "controller"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		f(t, r, s)
	})
}

// reaches reports whether LDAP to a host passes.
func (r *rig) reaches(remote netip.Addr) bool { return r.send(tcp(remote, 389)) == drivertest.Passed }

func (r *rig) expectProblem(want ...string) {
	r.t.Helper()
	all := strings.Join(r.status().Problems, "\n")
	for _, w := range want {
		if !strings.Contains(all, w) {
			r.t.Errorf("problems %q do not say %q", all, w)
		}
	}
}

func (r *rig) expectNoProblem(words string) {
	r.t.Helper()
	if all := strings.Join(r.status().Problems, "\n"); strings.Contains(all, words) {
		r.t.Errorf("problems %q", all)
	}
}

func TestFiltersFollowNames(t *testing.T) {
	withNames(t, func(t *testing.T, r *rig, s *nameService) {
		if _, ok := s.followed["dc1.example.com"]; !ok || len(s.followed) != 1 {
			t.Fatalf("followed: %v", s.followed)
		}
		r.expectProblem(`rule "directory", filter list "controller", filter 1: DC1.example.com stands for no address now: the filter matches nothing`)
		if r.reaches(bob()) {
			t.Fatal("passes before the name is resolved")
		}
		s.answer("dc1.example.com", resolved(bob()))
		r.expectNoProblem("DC1.example.com")
		if !r.reaches(bob()) || r.reaches(carol()) {
			t.Error("the filter does not follow the name")
		}
		s.answer("dc1.example.com", resolved(carol()))
		if r.reaches(bob()) || !r.reaches(carol()) {
			t.Error("the filter does not follow the name's new address")
		}
	})
}

func TestANameThatStopsResolvingStays(t *testing.T) {
	withNames(t, func(t *testing.T, r *rig, s *nameService) {
		s.answer("dc1.example.com", resolved(bob()))
		a := resolved(bob())
		a.Stale, a.Problem = time.Now(), "the name does not exist in the DNS"
		s.answer("dc1.example.com", a)
		if !r.reaches(bob()) {
			t.Error("the last known address is gone")
		}
		r.expectProblem("dc1.example.com is not known since 2000-01-01T00:00:0", "its last known addresses stay: [192.0.2.2]")
		v, err := r.agent.Policy(t.Context(), "", true)
		if err != nil || !strings.Contains(fmt.Sprint(v.Filters), "DC1.example.com, last known before it failed 0 s ago") {
			t.Errorf("%+v, %v", v.Filters, err)
		}
		s.answer("dc1.example.com", resolved(bob()))
		r.expectNoProblem("dc1")
		if got := r.events(control.EventName); len(got) != 2 {
			t.Errorf("events %q", got)
		}
	})
}

// After a restart the name server may be out of reach: what a name stood for
// holds from the first moment.
func TestNamesOutliveARestart(t *testing.T) {
	withNames(t, func(t *testing.T, r *rig, s *nameService) {
		s.answer("dc1.example.com", resolved(bob()))
		s.answers = map[string]host.Answer{}
		r.restart(nil)
		if !r.reaches(bob()) {
			t.Error("the name stands for nothing after a restart")
		}
		if a := s.followed["dc1.example.com"]; len(a.Addresses) != 1 {
			t.Errorf("the resolver is told nothing of what was known: %+v", a)
		}
	})
}

func TestSetsOutliveARestart(t *testing.T) {
	withNames(t, func(t *testing.T, r *rig, s *nameService) {
		r.facts.put(host.Facts{Addresses: []netip.Addr{alice()}, Sets: host.Sets{DNS: []netip.Addr{bob()}}})
		r.pass(2 * hostDelay)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r.facts.now = host.Facts{Addresses: []netip.Addr{alice()}} // as after a boot without the name server's lease
		r.cfg.Driver = r.fake.Reopen()
		r.fake = r.cfg.Driver.(*drivertest.Fake)
		r.run()
		f := tcp(bob(), 53)
		f.Proto = sadb.UDP
		if r.send(f) != drivertest.Passed {
			t.Error("the DNS servers are forgotten")
		}
		r.expectProblem("dns-servers is not known since")
	})
}

// What does not change what the policy means makes no work, and what the driver
// does not take is tried again.
func TestThePolicyIsCompiledAnewForWhatChangesAlone(t *testing.T) {
	withNames(t, func(t *testing.T, r *rig, s *nameService) {
		calls := len(r.fake.Calls())
		r.facts.put(host.Facts{Addresses: []netip.Addr{alice()}, Interfaces: []host.Interface{{Index: 7, Name: "veth7"}}})
		r.pass(2 * hostDelay)
		if got := r.fake.Calls()[calls:]; len(got) != 0 {
			t.Errorf("a new interface makes %v", got)
		}
		r.fake.FailNext(errors.New("no room"))
		s.answer("dc1.example.com", resolved(bob()))
		r.expectProblem("the filters of the policy do not follow this host", "no room")
		r.pass(2 * retryDriver)
		r.expectNoProblem("no room")
		if !r.reaches(bob()) {
			t.Error("it is not tried again")
		}
	})
}

func TestFiltersFollowTheSetsOfTheHost(t *testing.T) {
	dns := func(r *rig, servers ...netip.Addr) {
		r.facts.put(host.Facts{Addresses: []netip.Addr{alice()}, Sets: host.Sets{DNS: servers}})
		r.pass(2 * hostDelay)
	}
	asks := func(r *rig, remote netip.Addr) bool {
		f := tcp(remote, 53)
		f.Proto = 17
		return r.send(f) == drivertest.Passed
	}
	withNames(t, func(t *testing.T, r *rig, s *nameService) {
		r.expectProblem(`rule "names", filter list "servers", filter 1: dns-servers stands for no address`)
		dns(r, bob())
		if !asks(r, bob()) || asks(r, carol()) {
			t.Error("the filter does not follow the DNS servers")
		}
		dns(r, carol())
		if asks(r, bob()) || !asks(r, carol()) {
			t.Error("the filter does not follow another DNS server")
		}
		dns(r)
		if !asks(r, carol()) {
			t.Error("a resolv.conf that is being written takes the filter away")
		}
		r.expectProblem("dns-servers is not known since", "the configuration of this host names none any more")
	})
}

// A newer version of the policy that does not load must not keep the one in force
// from following its names.
func TestNamesAreFollowedBesideABrokenDocument(t *testing.T) {
	withNames(t, func(t *testing.T, r *rig, s *nameService) {
		r.write(s.dir, "controller", "kind: nonsense\n")
		if _, err := r.agent.Reload(t.Context()); err == nil {
			t.Fatal("the document loads")
		}
		s.answer("dc1.example.com", resolved(bob()))
		if !r.reaches(bob()) {
			t.Error("the policy in force does not follow its name")
		}
		if s := r.status(); s.Policy.Error == "" {
			t.Error("the status forgets that the document does not load")
		}
	})
}

// A link that flaps takes every address away for a moment.
func TestAHostWithoutAddressesKeepsWhatIsInForce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		p := r.secure(tcp(bob(), 80))
		filters := len(r.fake.Filters())
		r.move()
		r.expectProblem("this host has lost all its addresses")
		if s := r.status(); len(s.Secured) != 1 || len(r.fake.Filters()) != filters {
			t.Errorf("%d pairs, %d of %d filters left", len(s.Secured), len(r.fake.Filters()), filters)
		}
		r.move(netip.MustParseAddr("127.0.0.1"))
		r.move(alice())
		r.expectNoProblem("addresses")
		if got := r.status().Secured; len(got) != 1 || got[0].SPIIn != p.In[0].SPI.String() {
			t.Errorf("after the addresses are back: %+v", got)
		}
		r.move(carol())
		if got := r.status().Secured; len(got) != 0 {
			t.Errorf("another address: %+v", got)
		}
	})
}

func TestExemptKerberosIsSaidLoudly(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.assign("secure-server")
		r.expectProblem("whoever sends from port 88 reaches every TCP and UDP port")
		if r.send(tcp(bob(), 88)) != drivertest.Passed {
			t.Error("port 88 is not exempt")
		}
	}, func(c *Config) { c.Exemptions = policy.ExemptKerberos })
}
