package nft

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// replyRules accept what answers the agent's own connections, to KDCs, name
// servers and places of revocation lists: a packet whose receiving socket bears
// the exempt mark. Those sockets are connected, so the kernel finds them for the
// other end's address and port alone; a port by itself opens nothing.
func (c Config) replyRules() []rule {
	toMe := daddrType(expr.CmpOpEq, typeLocal)
	var out []rule
	for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		out = append(out, join(protocolIs(p), toMe, socketHas(c.Exempt), accept()))
	}
	return out
}
