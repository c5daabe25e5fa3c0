package cert

import (
	"fmt"
	"testing"
)

// BenchmarkExchange is both ends of an authentication, without IKE.
func BenchmarkExchange(b *testing.B) {
	root := newAuthority(b, "Root", nil)
	for _, m := range methods() {
		b.Run(fmt.Sprint(uint16(m)), func(b *testing.B) {
			host := newHost(b, "a.example", root, m)
			me := side{newKeeper(b, storeOf(b, []*entity{root}, []*entity{host}), Settings{}), under(m, root)}
			for b.Loop() {
				if _, _, err := exchange(me, me); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
