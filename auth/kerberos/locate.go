package kerberos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// kdcPort is the port of a KDC that names none (RFC 4120 §7.2).
const kdcPort = "88"

// maxKDCs bounds the KDCs of one realm that are used.
const maxKDCs = 8

// locator finds the KDCs of a realm.
type locator struct {
	conf     *krb5Conf
	resolver *net.Resolver
}

// newLocator asks the name service through dial.
func newLocator(conf *krb5Conf, dial DialFunc) locator {
	return locator{conf, &net.Resolver{PreferGo: true, Dial: dial}}
}

// kdcs returns "host:port" of the KDCs of a realm, the preferred first: those
// of krb5.conf, else those that DNS names (RFC 4120 §7.2.3.2).
func (l locator) kdcs(ctx context.Context, realm string) ([]string, error) {
	var all []string
	for _, s := range l.conf.all("realms", realm, "kdc") {
		if addr, ok := kdcAddress(s); ok {
			all = append(all, addr)
		}
	}
	if len(all) == 0 && l.conf.lookupKDC() {
		var err error
		if all, err = l.fromDNS(ctx, realm); err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: krb5.conf names no KDC of realm %s, and DNS must not be asked", errUnreachable, realm)
	}
	return all[:min(len(all), maxKDCs)], nil
}

// kdcAddress reads the value of a "kdc" line. KDCs behind an HTTPS proxy are
// not used.
func kdcAddress(s string) (string, bool) {
	s, _, _ = strings.Cut(s, " ")
	for _, prefix := range []string{"tcp/", "udp/"} {
		s = strings.TrimPrefix(s, prefix)
	}
	if s == "" || strings.Contains(s, "/") {
		return "", false
	}
	if _, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return net.JoinHostPort(strings.Trim(s, "[]"), kdcPort), true
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return net.JoinHostPort(s, kdcPort), !strings.Contains(s, ":")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", false
	}
	return net.JoinHostPort(host, port), true
}

// fromDNS asks for the service records of TCP and, failing those, of UDP.
func (l locator) fromDNS(ctx context.Context, realm string) ([]string, error) {
	var all []string
	var failed error
	for _, proto := range []string{"tcp", "udp"} {
		_, records, err := l.resolver.LookupSRV(ctx, "kerberos", proto, realm+".")
		if err != nil {
			failed = err
			continue
		}
		for _, r := range records {
			addr := net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			if r.Target != "." && !slices.Contains(all, addr) {
				all = append(all, addr)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: DNS names no KDC of realm %s: %w", errUnreachable, realm, failed)
	}
	return all, nil
}

// addresses resolves "host:port".
func (l locator) addresses(ctx context.Context, kdc string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(kdc)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a, uint16(n))}, nil
	}
	addrs, err := l.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var all []netip.AddrPort
	for _, a := range addrs {
		all = append(all, netip.AddrPortFrom(a.Unmap(), uint16(n)))
	}
	return all, nil
}

// KDCs returns address and port of the KDCs of this host's realm and of the
// trusted ones, from krb5.conf or DNS. The addresses found are returned even
// if there is an error for others.
func (a *Authenticator) KDCs(ctx context.Context) ([]netip.AddrPort, error) {
	f, err := a.facts()
	if err != nil {
		return nil, err
	}
	l := newLocator(f.conf, a.config.Dial)
	var all []netip.AddrPort
	var failed []error
	for _, realm := range f.realms {
		kdcs, err := l.kdcs(ctx, realm)
		failed = append(failed, err)
		for _, kdc := range kdcs {
			addrs, err := l.addresses(ctx, kdc)
			failed = append(failed, err)
			all = append(all, addrs...)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all), errors.Join(failed...)
}
