package host

import (
	"net/netip"
	"testing"
)

func TestSourceOfTheLoopbackIsTheLoopback(t *testing.T) {
	for _, s := range []string{"127.0.0.1", "127.0.0.9"} {
		got, err := Source(netip.MustParseAddr(s))
		if err != nil || !got.IsLoopback() {
			t.Errorf("source towards %s is %v, %v", s, got, err)
		}
	}
}
