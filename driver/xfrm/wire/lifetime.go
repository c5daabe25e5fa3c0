package wire

import (
	"math"
	"time"

	"ipsecagent/sadb"
)

const (
	sizeLimits = 64
	sizeUse    = 32
	infinite   = math.MaxUint64
)

// putLifetime writes struct xfrm_lifetime_cfg. Times count from the entry's
// making and are rounded up to seconds.
func putLifetime(b []byte, l sadb.Lifetime) {
	native.PutUint64(b[0:], orInfinite(l.Soft.Bytes))
	native.PutUint64(b[8:], orInfinite(l.Hard.Bytes))
	native.PutUint64(b[16:], orInfinite(l.Soft.Packets))
	native.PutUint64(b[24:], orInfinite(l.Hard.Packets))
	native.PutUint64(b[32:], seconds(l.Soft.Time))
	native.PutUint64(b[40:], seconds(l.Hard.Time))
}

func orInfinite(v uint64) uint64 {
	if v == 0 {
		return infinite
	}
	return v
}

func finite(v uint64) uint64 {
	if v == infinite {
		return 0
	}
	return v
}

// seconds rounds up: 0 means no limit to the kernel.
func seconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Second - 1) / time.Second)
}

func parseLifetime(b []byte) (l sadb.Lifetime) {
	l.Soft = sadb.Limits{Bytes: finite(native.Uint64(b[0:])), Packets: finite(native.Uint64(b[16:])), Time: duration(native.Uint64(b[32:]))}
	l.Hard = sadb.Limits{Bytes: finite(native.Uint64(b[8:])), Packets: finite(native.Uint64(b[24:])), Time: duration(native.Uint64(b[40:]))}
	return l
}

// duration returns a number of seconds, 0 (no limit) for more than a duration
// can hold.
func duration(s uint64) time.Duration {
	if s > math.MaxInt64/uint64(time.Second) {
		return 0
	}
	return time.Duration(s) * time.Second
}

// Use is struct xfrm_lifetime_cur: what has gone through.
type Use struct {
	Bytes, Packets uint64
	Added, First   time.Time // zero First: not used yet; whole seconds
}

func parseUse(b []byte) Use {
	return Use{Bytes: native.Uint64(b), Packets: native.Uint64(b[8:]),
		Added: instant(native.Uint64(b[16:])), First: instant(native.Uint64(b[24:]))}
}

// instant returns a time in seconds since 1970, the zero time for 0.
func instant(s uint64) time.Time {
	if s == 0 || s > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}
