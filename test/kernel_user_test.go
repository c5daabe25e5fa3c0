//go:build esp

package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// mixedRows are what a host with the kernel driver and one with the userspace
// driver secure between them.
func mixedRows() []combination {
	all := []combination{
		row("psk", "aes256gcm", "aes256-sha256-ecp256", "", "esp-aes256gcm", ""),
		inTunnel(overIPv6(row("psk", "aes128-sha256", "aes256-sha256-ecp256", "", "esp-aes128-sha256", ""))),
		byHeader(row("psk", "ah-sha256", "aes256-sha256-ecp256", "", "ah-sha256", "")),
	}
	if !full() {
		return all
	}
	return append(all,
		overIPv6(row("psk", "aes128gcm", "aes128-sha256-ecp256", "", "esp-aes128gcm", "")),
		row("psk", "aes128-sha256", "aes128-sha256-ecp256", "", "esp-aes128-sha256", ""),
		row("psk", "3des-sha1", "aes128-sha1-modp2048", "", "esp-3des-sha1", ""),
		row("psk", "null-sha256", "aes128-sha256-ecp256", "", "esp-null-sha256", ""),
		inTunnel(row("psk", "aes256gcm", "aes256-sha256-ecp256", "", "esp-aes256gcm", "")),
		byHeader(overIPv6(row("psk", "ah-sha1", "aes256-sha256-ecp256", "", "ah-sha1", ""))),
		byHeader(inTunnel(row("psk", "ah-sha256", "aes256-sha256-ecp256", "", "ah-sha256", ""))),
	)
}

// inTurn is c's policy under a name of its own.
func (c combination) inTurn(us, peer *host, i int) (name, document string) {
	name = fmt.Sprintf("row%d", i)
	return name, strings.Replace(c.policy(us, peer, identity{}), "name: peer\n", "name: "+name+"\n", 1)
}

// TestKernelMeetsUser: the two drivers carry each other's packets, whoever begins.
func TestKernelMeetsUser(t *testing.T) {
	kernel, user := newPair(t, "mix")
	startMixed(t, kernel, user)
	key := aKey("mix")
	for i, c := range mixedRows() {
		t.Run(c.name, func(t *testing.T) {
			kernel.t, user.t = t, t
			name, _ := c.inTurn(kernel, user, i)
			for _, first := range []*host{kernel, user} {
				mixedRow(t, kernel, user, first, c, name, key)
			}
		})
	}
}

// startMixed starts the agents with the policies of all rows.
func startMixed(t *testing.T, kernel, user *host) {
	t.Helper()
	kernel.driver, user.driver = byKernel, byUser
	for _, v6 := range []bool{false, true} {
		c := combination{tunnel: true, v6: v6}
		c.addInner(kernel, user)
		c.addInner(user, kernel)
	}
	for h, far := range map[*host]*host{kernel: user, user: kernel} {
		documents := map[string]string{}
		for i, c := range mixedRows() {
			name, doc := c.inTurn(h, far, i)
			documents[name+".yaml"] = doc
		}
		h.startAgent(documents)
		h.serve(100_000)
	}
}

// mixedRow secures traffic by one row, begun by one of the two, and looks at
// what leaves both.
func mixedRow(t *testing.T, kernel, user, first *host, c combination, name, key string) {
	t.Helper()
	other := user
	if first == user {
		other = kernel
	}
	hosts := []*host{kernel, user}
	for _, h := range hosts {
		h.mustCtl("unassign")
	}
	for _, h := range hosts {
		h.assign(name, key)
	}
	wires := []*capture{kernel.captureSent(name), user.captureSent(name)}
	eventually(t, 60*time.Second, "traffic begun by "+first.ns+" is secured", func() bool { return first.ping(c.inner(other), 1) == 1 })
	passesBothWays(t, kernel, user, c)
	for _, wire := range wires {
		c.judge(t, wire)
	}
	kernel.explain(t)
	user.explain(t)
}

// TestKernelMeetsUserThroughATranslator: each of the two stands behind it once.
func TestKernelMeetsUserThroughATranslator(t *testing.T) {
	for _, behindIt := range []string{byKernel, byUser} {
		t.Run(behindIt+" behind it", func(t *testing.T) {
			inner, outer, _ := newTranslated(t, "mxn"+behindIt[:1])
			inner.driver, outer.driver = byKernel, byUser
			if behindIt == byUser {
				inner.driver, outer.driver = byUser, byKernel
			}
			wire := translatorBetween(t, inner, outer)
			all := wire.end()
			if found := leaks(all, translated(20000)); len(found) > 0 {
				t.Errorf("outside: %v", found)
			}
			if n := count(all, translated(20000)); n < 20 {
				t.Errorf("%d datagrams outside", n)
			}
		})
	}
}
