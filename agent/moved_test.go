package agent

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ipsecagent/driver"
	"ipsecagent/ike"
	"ipsecagent/sadb"
)

// TestMovesDoNotFillTheLog: the key exchange hears of every move of a peer, the
// log has ten lines of it in a second, and says what it has left out.
func TestMovesDoNotFillTheLog(t *testing.T) {
	var log bytes.Buffer
	inBubble(t, func(t *testing.T, r *rig) {
		move := func(n int) {
			for i := range n {
				r.inject(driver.Moved{ID: sadb.SAID{Dst: alice(), Proto: sadb.ESP, SPI: 0x1000}, From: netip.AddrPortFrom(bob(), uint16(1024+i))})
			}
			if got := len(taken[ike.Moved](r)); got != n {
				t.Errorf("the key exchange hears of %d moves of %d", got, n)
			}
		}
		move(40)
		if n := strings.Count(log.String(), "another UDP port"); n != movesPerSecond {
			t.Errorf("%d lines", n)
		}
		log.Reset()
		time.Sleep(time.Second)
		move(1)
		if !strings.Contains(log.String(), "omitted=30") {
			t.Errorf("%q", log.String())
		}
	}, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
}
