package bench

import "testing"

// BenchmarkHandshake makes one main mode and one quick mode, both ends in this
// process and without a network: what is left when system calls and hand-overs
// between goroutines are taken away.
func BenchmarkHandshake(b *testing.B) {
	b.ReportAllocs()
	var initiator, responder *host
	for n := 0; b.Loop(); n++ {
		if n%1000 == 0 {
			initiator, responder = newHost(b), newHost(b)
		}
		talk(initiator, responder, initiator.take(wish(b, there(n%1000), here())))
		if responder.book.Len() != n%1000+1 {
			b.Fatal("no pair was made")
		}
	}
}
