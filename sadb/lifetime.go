package sadb

import "time"

// Limits ends something after a time, a number of bytes or of packets,
// whichever comes first. Zero: no limit of that kind.
type Limits struct {
	Time    time.Duration
	Bytes   uint64
	Packets uint64
}

// Lifetime of an association: at Soft a replacement is negotiated, at Hard it
// is deleted (RFC 4301 §4.4.2.1).
type Lifetime struct {
	Soft, Hard Limits
}

// Reached reports whether age, bytes or packets have reached l.
func (l Limits) Reached(age time.Duration, bytes, packets uint64) bool {
	return l.Time > 0 && age >= l.Time ||
		l.Bytes > 0 && bytes >= l.Bytes ||
		l.Packets > 0 && packets >= l.Packets
}

// IsZero reports whether there is no limit at all.
func (l Limits) IsZero() bool { return l == Limits{} }

// Min returns the shorter of two limits, kind by kind.
func (l Limits) Min(m Limits) Limits {
	return Limits{
		Time:    minSet(l.Time, m.Time),
		Bytes:   minSet(l.Bytes, m.Bytes),
		Packets: minSet(l.Packets, m.Packets),
	}
}

// minSet returns the smaller of two values where zero means none.
func minSet[T time.Duration | uint64](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Fraction returns l times num/den, for soft limits out of hard ones. A limit
// that is set stays at least 1.
func (l Limits) Fraction(num, den uint64) Limits {
	f := func(v uint64) uint64 {
		if v == 0 {
			return 0
		}
		return max(1, v/den*num+v%den*num/den)
	}
	return Limits{Time: time.Duration(f(uint64(l.Time))), Bytes: f(l.Bytes), Packets: f(l.Packets)}
}
