package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/auth/cert"
	"ipsecagent/auth/kerberos"
	"ipsecagent/host"
)

// identities is what this host proves itself by: preshared keys, certificates
// and a key table.
type identities struct {
	keys     *keys
	certs    *cert.Keeper
	kerberos *kerberos.Authenticator
	// exempt is what of the agent's own connections the status lists.
	exempt atomic.Pointer[[]string]
	// changed hints that there is something new to prove oneself by.
	changed chan struct{}
	look    chan struct{} // a hint to look for what expires
}

// openIdentities reads what there is. What does not load is no reason not to
// start: policy is enforced all the same. replayCache is the file of the replay
// cache of Kerberos; "": in memory alone.
func openIdentities(s *settings, k *keys, replayCache string) (*identities, error, error) {
	store, problem := loadCertificates(s)
	set, err := s.Certificates.settings(s.dialer())
	if err != nil {
		return nil, nil, err
	}
	keeper, err := cert.New(store, set)
	if err != nil {
		return nil, nil, err
	}
	krb, err := kerberos.New(s.Kerberos.config(s, replayCache))
	if err != nil {
		return nil, nil, err
	}
	return &identities{keys: k, certs: keeper, kerberos: krb, changed: make(chan struct{}, 1), look: make(chan struct{}, 1)}, problem, nil
}

// loadCertificates reads the folder of certificates; one that is not there is
// empty.
func loadCertificates(s *settings) (*cert.Store, error) {
	store, err := cert.Load(s.Certificates.Dir, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return store, nil
	}
	return store, err
}

func (i *identities) authenticators() []auth.Authenticator {
	return append(i.certs.Authenticators(), i.kerberos, i.keys.method)
}

// unusable says why this host cannot satisfy a requirement; "": it can.
func (i *identities) unusable(r auth.Requirement) string {
	switch r.Method {
	case auth.PSK:
		return ""
	case auth.Kerberos:
		if _, err := i.kerberos.Identity(); err != nil {
			return words(err)
		}
		return ""
	}
	able, err := i.certs.Methods(r.CA)
	switch {
	case err != nil:
		return words(err)
	case !slices.Contains(able, r.Method):
		return fmt.Sprintf("no certificate of this host under %s is for %s", r.CA, r.Method)
	}
	return ""
}

// words says an error of an authentication with what to do about it.
func words(err error) string {
	var e *auth.Error
	if errors.As(err, &e) && e.Hint != "" {
		return e.Error() + "; " + e.Hint
	}
	return err.Error()
}

// hint says that identities may have changed; it waits for nobody.
func (i *identities) hint() {
	select {
	case i.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// reporter is the agent as identities speak to it.
type reporter interface {
	Problem(ctx context.Context, kind, words string) error
	Report(ctx context.Context, kind, severity, words string, fields map[string]string) error
}

// expiryEvery is how often it is looked whether something expires.
const expiryEvery = time.Hour

// watchCertificates keeps the certificates as their folder has them, until ctx
// ends. Where the watching ends (there is no folder) it begins anew.
func (i *identities) watchCertificates(ctx context.Context, to reporter, log *slog.Logger) {
	for ctx.Err() == nil {
		err := i.certs.Watch(ctx, func(problem error) { i.reread(ctx, to, log, problem) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("the folder of certificates is not watched; 'ipsecctl reload' reads it", "error", err.Error())
		}
		sleep(ctx, rewatch)
	}
}

// reread reports a reading of the folder of certificates.
func (i *identities) reread(ctx context.Context, to reporter, log *slog.Logger, problem error) {
	i.hint()
	i.lookAgain()
	text := ""
	if problem != nil && !errors.Is(problem, fs.ErrNotExist) {
		text = "certificates do not load, what was read before stays in use: " + problem.Error()
	}
	if err := to.Problem(ctx, "certificates", text); err != nil {
		log.Debug("certificates were not reported", "error", err.Error())
	}
}

// lookAgain has what expires reported soon.
func (i *identities) lookAgain() {
	select {
	case i.look <- struct{}{}:
	default: // one is waiting already
	}
}

// watchExpiry reports what expires, well ahead: at once, after each reading and
// every hour, until ctx ends.
func (i *identities) watchExpiry(ctx context.Context, to reporter, log *slog.Logger) {
	noticed := map[string]bool{}
	tick := time.NewTicker(expiryEvery)
	defer tick.Stop()
	for {
		if err := i.reportExpiry(ctx, to, time.Now(), noticed); err != nil {
			log.Debug("what expires was not reported", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			i.hint() // what has expired since is no longer offered
		case <-i.look:
		}
	}
}

// reportExpiry makes an event of each certificate or list that expires within
// 30, 14, 7 or 1 days or has expired, once for each of those; noticed remembers
// them. What has expired is a problem of this host.
func (i *identities) reportExpiry(ctx context.Context, to reporter, now time.Time, noticed map[string]bool) error {
	var errs []error
	var expired []string
	for _, n := range i.certs.Expiring(now) {
		severity := "warning"
		if n.Days == 0 {
			severity = "error"
			expired = append(expired, n.String())
		}
		key := fmt.Sprintf("%s %s %d %d", n.File, n.Name, n.Ends.Unix(), n.Days)
		if noticed[key] {
			continue
		}
		noticed[key] = true
		errs = append(errs, to.Report(ctx, control.EventCertificate, severity, n.String(),
			map[string]string{"file": n.File, "name": n.Name, "what": n.What, "ends": n.Ends.UTC().Format(time.RFC3339), "days": fmt.Sprint(max(0, int(n.Ends.Sub(now).Hours())/24))}))
	}
	errs = append(errs, to.Problem(ctx, "expiry", strings.Join(expired, "; ")))
	return errors.Join(errs...)
}

// dialTimeout bounds one connection to a KDC, a name server or a place of
// revocation lists.
const dialTimeout = 5 * time.Second

// dialer makes the agent's own connections: marked, so that they and their
// answers pass whatever the filters say.
func (s *settings) dialer() *net.Dialer {
	prepare := s.prepareSocket()
	mark := func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			var family int
			if family, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); failed == nil {
				failed = prepare(int(fd), family)
			}
		})
		return errors.Join(err, failed)
	}
	d := &net.Dialer{Timeout: dialTimeout, Control: mark}
	d.Resolver = &net.Resolver{PreferGo: true, Dial: (&net.Dialer{Timeout: dialTimeout, Control: mark}).DialContext}
	return d
}

// kerberosEvery is how often it is looked whether the key table or the KDCs have
// changed.
const kerberosEvery = time.Minute

// kdcsWithin bounds the look for KDCs.
const kdcsWithin = 10 * time.Second

// watchKerberos notices that this host has got a key table, or has one no more,
// and which KDCs and name servers the agent asks, until ctx ends.
func (i *identities) watchKerberos(ctx context.Context) {
	former := "never looked"
	for ctx.Err() == nil {
		if now := i.unusable(auth.Requirement{Method: auth.Kerberos}); now != former {
			former = now
			i.hint()
		}
		i.listExempt(ctx)
		sleep(ctx, kerberosEvery)
	}
}

// listExempt lists the connections of the agent's own that the policy does not
// touch.
func (i *identities) listExempt(ctx context.Context) {
	list := []string{}
	add := func(what string, places []netip.AddrPort) {
		for _, p := range places {
			list = append(list, fmt.Sprintf("%s: the agent's own connections to %s and their answers", what, p))
		}
	}
	if _, err := i.kerberos.Identity(); err == nil {
		ctx, cancel := context.WithTimeout(ctx, kdcsWithin)
		defer cancel()
		kdcs, _ := i.kerberos.KDCs(ctx) // those that were found
		add("Kerberos", kdcs)
	}
	add("DNS", host.Nameservers())
	i.exempt.Store(&list)
}

// exempted returns what listExempt has found, and where revocation lists come
// from.
func (i *identities) exempted() []string {
	var all []string
	if list := i.exempt.Load(); list != nil {
		all = slices.Clone(*list)
	}
	places, fetched := i.certs.Places()
	if !fetched {
		return all
	}
	for _, p := range places {
		all = append(all, fmt.Sprintf("revocation lists: the agent's own connections to %s and their answers", p))
	}
	return append(all, "revocation lists: the agent's own connections, by HTTP, to what other places certificates of a trusted chain name, and to where a place redirects, and their answers")
}

// kerberosSettings is the settings of authentication by Kerberos.
type kerberosSettings struct {
	Keytab    string   `yaml:"keytab"`
	Krb5Conf  string   `yaml:"krb5conf"`
	Principal string   `yaml:"principal"`
	Realms    []string `yaml:"realms"`
	AllowRC4  bool     `yaml:"allowRC4"`
	LooseID   bool     `yaml:"looseID"`
}

func (k kerberosSettings) config(s *settings, replayCache string) kerberos.Config {
	return kerberos.Config{Keytab: k.Keytab, Krb5Conf: k.Krb5Conf, Principal: k.Principal, Realms: k.Realms, AllowRC4: k.AllowRC4,
		LooseID: k.LooseID, ReplayCache: replayCache, Dial: s.dialer().DialContext}
}

// certificates is the settings of authentication by certificates.
type certificates struct {
	Dir             string            `yaml:"dir"`
	Revocation      string            `yaml:"revocation"`
	Usage           string            `yaml:"usage"`
	Identity        string            `yaml:"identity"`
	LeastRSA        int               `yaml:"leastRSA"`
	WrapPKCS7       bool              `yaml:"wrapPKCS7"`
	AllowLocalLists bool              `yaml:"allowLocalLists"`
	Accounts        map[string]string `yaml:"accounts"`
	AccountRealms   []string          `yaml:"accountRealms"`
}

// settings returns the settings in the words of the package that uses them.
func (c certificates) settings(d *net.Dialer) (cert.Settings, error) {
	s := cert.Settings{LeastRSA: c.LeastRSA, WrapPKCS7: c.WrapPKCS7, AllowLocalLists: c.AllowLocalLists, Dialer: d, Accounts: cert.MapAccounts(c.Accounts, c.AccountRealms)}
	var errs []error
	var err error
	s.Revocation, err = oneOf("certificates.revocation", c.Revocation, map[string]cert.Revocation{
		"off": cert.RevocationOff, "known": cert.RevocationKnown, "strict": cert.RevocationStrict})
	errs = append(errs, err)
	s.Usage, err = oneOf("certificates.usage", c.Usage, map[string]cert.Usage{
		"windows": cert.UsageWindows, "rfc4945": cert.UsageRFC4945, "any": cert.UsageAny})
	errs = append(errs, err)
	s.IDCheck, err = oneOf("certificates.identity", c.Identity, map[string]cert.IDCheck{
		"strict": cert.IDStrict, "chain-only": cert.IDChainOnly})
	return s, errors.Join(append(errs, err)...)
}

// oneOf reads a setting that is one of some words.
func oneOf[T any](name, word string, values map[string]T) (T, error) {
	v, ok := values[word]
	if ok {
		return v, nil
	}
	var known []string
	for w := range values {
		known = append(known, w)
	}
	slices.Sort(known)
	return v, wrong(name, " %q: it is one of %s%s", word, strings.Join(known, ", "), meantWord(word, known))
}
