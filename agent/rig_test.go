package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/driver"
	"ipsecagent/driver/drivertest"
	"ipsecagent/host"
	"ipsecagent/ike"
	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/sadb"
)

// The two hosts of the tests, and a third.
func alice() netip.Addr { return netip.MustParseAddr("192.0.2.1") }
func bob() netip.Addr   { return netip.MustParseAddr("192.0.2.2") }
func carol() netip.Addr { return netip.MustParseAddr("192.0.2.3") }

// rig is an agent on alice with a fake driver and a key exchange that the test
// plays.
type rig struct {
	t       *testing.T
	cfg     Config
	fake    *drivertest.Fake
	agent   *Agent
	outputs chan ike.Output
	facts   *facts
	stop    func() error

	mu     sync.Mutex
	inputs []ike.Input
	keys   []string
}

// facts is the machine as the agent sees it.
type facts struct {
	mu      sync.Mutex
	now     host.Facts
	changed chan struct{}
}

func (f *facts) read() (host.Facts, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now, nil
}

func (f *facts) set(addrs ...netip.Addr) { f.put(host.Facts{Addresses: addrs}) }

func (f *facts) put(now host.Facts) {
	f.mu.Lock()
	f.now = now
	f.mu.Unlock()
	f.changed <- struct{}{}
}

// newRig starts an agent in a synctest bubble that has never been assigned
// anything. edit may change its configuration first.
func newRig(t *testing.T, edit ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, fake: drivertest.New(time.Now), outputs: make(chan ike.Output),
		facts: &facts{now: host.Facts{Addresses: []netip.Addr{alice()}}, changed: make(chan struct{}, 1)}}
	r.cfg = Config{Driver: r.fake, StateFile: filepath.Join(t.TempDir(), "state.db"), Host: r.facts.read, HostChanged: r.facts.changed,
		IKE: IKE{Submit: r.submit, Outputs: r.outputs}, SetKeys: r.setKeys, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Library: folder(t.TempDir()), Version: "test", Hostname: "alice"}
	for _, e := range edit {
		e(&r.cfg)
	}
	r.run()
	return r
}

// folder is a library on a folder, as cmd wires it.
func folder(dir string) Library {
	return Library{Changed: make(chan struct{}, 1), Marshal: file.Marshal, Parse: file.Parse,
		Load: func(name string) (*policy.Policy, string, error) {
			path := filepath.Join(dir, name+".yaml")
			p, err := file.Load(path)
			return p, path, err
		},
		Read: func(name string, text []byte) (*policy.Policy, error) { return file.ReadIn(dir, name, text) },
		Document: func(name string) ([]byte, string, error) {
			path := filepath.Join(dir, name+".yaml")
			text, err := os.ReadFile(path)
			return text, path, err
		},
		Save: func(name string, text []byte) (string, error) {
			path := filepath.Join(dir, name+".yaml")
			return path, os.WriteFile(path, text, 0o600)
		},
		List: func() ([]Entry, error) {
			entries, err := file.Dir(dir)
			var list []Entry
			for _, e := range entries {
				list = append(list, entryOf(e))
			}
			return list, err
		}}
}

func entryOf(e file.Entry) Entry {
	if e.Err != nil {
		return Entry{Name: filepath.Base(e.Path), Origin: e.Path, Err: e.Err}
	}
	return Entry{Name: e.Policy.Name, Description: e.Policy.Description, Origin: e.Path}
}

func (r *rig) submit(in ike.Input) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inputs = append(r.inputs, in)
}

func (r *rig) setKeys(text string) ([]string, error) {
	if strings.Contains(text, "bad") {
		return nil, errors.New("line 1: the key is too short")
	}
	r.keys = append(r.keys, text)
	return nil, nil
}

// run makes an agent of the configuration and runs it until stop.
func (r *rig) run() {
	r.t.Helper()
	a, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	go passTime(ctx, r.fake)
	r.stop = func() error {
		cancel()
		return <-ended
	}
	synctest.Wait()
}

// passTime lets the fake notice that time has passed.
func passTime(ctx context.Context, fake *drivertest.Fake) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fake.Tick()
		case <-ctx.Done():
			return
		}
	}
}

// restart ends the agent and starts another on what it left, with the driver
// given or with the same one reopened.
func (r *rig) restart(fake *drivertest.Fake) {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
	r.fake.Close()
	if fake == nil {
		fake = r.fake.Reopen()
	}
	r.fake, r.cfg.Driver = fake, fake
	r.inputs = nil
	r.run()
}

// assign assigns a policy with a preshared key.
func (r *rig) assign(name string) control.AssignResult {
	r.t.Helper()
	result, err := r.agent.Assign(r.t.Context(), control.AssignRequest{Policy: name, Auth: "psk-file", Keys: "a key for tests"})
	if err != nil {
		r.t.Fatalf("assign %s: %v", name, err)
	}
	synctest.Wait()
	return result
}

func (r *rig) status() control.Status {
	r.t.Helper()
	s, err := r.agent.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// pass lets time pass until everything has settled.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// out plays an output of the key exchange.
func (r *rig) out(o ike.Output) {
	r.outputs <- o
	synctest.Wait()
}

// inject plays an event of the driver.
func (r *rig) inject(e driver.Event) {
	r.fake.Inject(e)
	synctest.Wait()
}

// taken returns the inputs of type T that the key exchange has got, and forgets
// them.
func taken[T ike.Input](r *rig) []T {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var got []T
	r.inputs = slices.DeleteFunc(r.inputs, func(in ike.Input) bool {
		v, ok := in.(T)
		if ok {
			got = append(got, v)
		}
		return ok
	})
	return got
}

// one returns the only input of type T.
func one[T ike.Input](r *rig) T {
	r.t.Helper()
	got := taken[T](r)
	if len(got) != 1 {
		var none T
		r.t.Fatalf("%d inputs %T, want one", len(got), none)
	}
	return got[0]
}

// none fails if there is an input of type T.
func none[T ike.Input](r *rig) {
	r.t.Helper()
	if got := taken[T](r); len(got) > 0 {
		r.t.Fatalf("unwanted %T: %+v", got[0], got)
	}
}

// tcp is a packet from alice to remote.
func tcp(remote netip.Addr, port uint16) sadb.Flow {
	return sadb.Flow{Local: alice(), LocalMe: true, Remote: remote, Proto: sadb.TCP, LocalPort: 40000, RemotePort: port}
}

// move changes the addresses of the host.
func (r *rig) move(addrs ...netip.Addr) {
	r.facts.set(addrs...)
	r.pass(2 * hostDelay)
}

func (r *rig) send(f sadb.Flow) drivertest.Outcome {
	outcome, _ := r.fake.Send(f, 100)
	synctest.Wait()
	return outcome
}

// pairFor is what a negotiation for quick gives.
func pairFor(quick ike.QuickOffer, remote netip.Addr) sadb.Pair {
	spi := sadb.RandomSPI
	return sadb.Pair{ID: sadb.NewPairID(), Filter: quick.Filter, Local: alice(), Remote: remote, Selector: quick.Selector,
		Flow: quick.Selector.String(), Mode: quick.Mode, Suites: quick.Proposals[0].Suites, Lifetime: quick.Proposals[0].Lifetime,
		In: []sadb.SAID{{Dst: alice(), Proto: sadb.ESP, SPI: spi()}}, Out: []sadb.SAID{{Dst: remote, Proto: sadb.ESP, SPI: spi()}},
		Principal: "psk:default", Method: auth.PSK.String(), Since: time.Now(), DefaultResponse: quick.DefaultResponse}
}

// associations returns the two SAs of a pair.
func associationsOf(p sadb.Pair) (in, out sadb.SA) {
	base := sadb.SA{Mode: p.Mode, Suite: p.Suites[0], EncKey: sadb.NewSecret(make([]byte, p.Suites[0].EncKeyLen())),
		AuthKey: sadb.NewSecret(make([]byte, p.Suites[0].Integrity.KeyLen())), Replay: 64,
		Lifetime: sadb.Lifetime{Soft: p.Lifetime.Fraction(9, 10), Hard: p.Lifetime}, Selector: p.Selector, Filter: p.Filter, Pair: p.ID}
	in, out = base, base
	in.ID, in.Src, in.Dir = p.In[0], p.Remote, sadb.In
	out.ID, out.Src, out.Dir = p.Out[0], p.Local, sadb.Out
	return in, out
}

// establish plays the key exchange's part after an Initiate, or, with request
// 0, after the peer's proposal.
func (r *rig) establish(request uint64, p sadb.Pair) {
	r.t.Helper()
	in, out := associationsOf(p)
	for i, sa := range []sadb.SA{in, out} {
		r.out(ike.Install{ID: uint64(i + 1), SA: sa, Pair: p})
		if got := one[ike.Installed](r); got.Err != nil {
			r.t.Fatalf("install %s: %v", sa.ID, got.Err)
		}
	}
	r.out(ike.Established{Request: request, Pair: p})
}

// secure has alice secure her traffic with remote, from the packet on.
func (r *rig) secure(f sadb.Flow) sadb.Pair {
	r.t.Helper()
	r.send(f)
	in := one[ike.Initiate](r)
	p := pairFor(in.Quick, f.Remote)
	r.establish(in.Request, p)
	return p
}

// events returns the messages of the events of one kind.
func (r *rig) events(kind string) []string {
	r.t.Helper()
	c, err := r.agent.Events(r.t.Context(), false)
	if err != nil {
		r.t.Fatal(err)
	}
	var messages []string
	for e := range c {
		if e.Kind == kind {
			messages = append(messages, e.Message)
		}
	}
	return messages
}

// inBubble runs f with a fresh rig in virtual time.
func inBubble(t *testing.T, f func(t *testing.T, r *rig), edit ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, edit...)
		defer func() {
			if err := r.stop(); err != nil {
				t.Errorf("Run: %v", err)
			}
		}()
		f(t, r)
	})
}

func acquireFor(e sadb.Filter, flow sadb.Flow) driver.Acquire {
	return driver.Acquire{Filter: e.ID, Flow: flow, Clear: e.Action.AllowClear}
}

func failedAuth(in ike.Initiate) ike.Failed {
	return ike.Failed{Request: in.Request, Local: in.Local, Remote: in.Remote, Filter: in.Quick.Filter, Step: "main mode message 5",
		Reason: "preshared key does not match", Code: ike.FailPSK}
}

func addrPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 500) }

// last returns the last input of type T.
func last[T ike.Input](r *rig) T {
	r.t.Helper()
	got := taken[T](r)
	if len(got) == 0 {
		var none T
		r.t.Fatalf("no input %T", none)
	}
	return got[len(got)-1]
}

// assignDocument writes a policy into the folder and assigns it.
func (r *rig) assignDocument(dir, name, document string) {
	r.t.Helper()
	r.write(dir, name, document)
	r.assign(name)
}

func (r *rig) write(dir, name, document string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(document), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func sasOf(p sadb.Pair) []sadb.SA {
	in, out := associationsOf(p)
	return []sadb.SA{in, out}
}
