package doctor

import (
	"encoding/binary"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"ipsecagent/agent/control"
)

const mangle = `table ip mangle { chain output { type route hook output priority mangle; policy accept; `

// marksOf are the agent's bits as they are without settings.
func marksOf(steer uint32) Marks {
	return Marks{Exempt: 0x02000000, Steer: steer, Below: 0x20000000, Anew: "start it anew"}
}

func TestMarksOfOthers(t *testing.T) {
	tests := []struct {
		name  string
		nft   string // rules
		shell string // commands
		steer uint32 // 0: the kernel driver
		want  []string
	}{
		{"none", "", "", 0, []string{"ok: no rule of another program uses the agent's (exempt 0x2000000)"}},
		{"the bit is set", mangle + "tcp dport 80 meta mark set meta mark or 0x02000000 } }", "", 0,
			[]string{"problem: a rule of chain ip mangle output sets bit 0x2000000, the agent's exempt mark: what it marks passes in clear"}},
		{"a whole mark with it", `table inet t { chain p { type filter hook prerouting priority 0; meta mark set 0x03000000 } }`, "", 0,
			[]string{"problem: a rule of chain inet t p sets bit 0x2000000"}},
		{"other bits", mangle + "meta mark set meta mark and 0xffffff00 or 0x1 } }", "", 0x01000000, []string{"ok: "}},
		{"the mark is replaced", mangle + "meta mark set 0x1 } }", "", 0, []string{"problem: a rule of chain ip mangle output may take bit 0x2000000"}},
		{"the mark of some is replaced", mangle + "ip daddr 10.0.0.0/8 meta mark set 0x1 } }", "", 0, []string{"warning: a rule of chain ip mangle output may take bit"}},
		{"that of the web is", mangle + "tcp dport 80 meta mark set 0x1 } }", "", 0, []string{"ok: "}},
		{"that of what comes is", `table ip t { chain p { type filter hook prerouting priority mangle; meta mark set 0x1 } }`, "", 0, []string{"ok: "}},
		{"that of the connection", mangle + "meta mark set ct mark } }", "", 0, []string{"problem: a rule of chain ip mangle output may take bit"}},
		{"a chain of Calico goes by it", `table ip filter { chain cali-OUTPUT { meta mark and 0x02000000 == 0x02000000 accept }
			chain output { type filter hook output priority 0; jump cali-OUTPUT } }`, "", 0,
			[]string{"warning: a rule of chain ip filter cali-OUTPUT, of Calico, goes by bit 0x2000000", "warning: Calico is here, which takes the bits 0xffff0000"}},
		{"kube-proxy", `table ip nat { chain KUBE-POSTROUTING { meta mark and 0x4000 != 0x4000 return; meta mark set meta mark xor 0x4000 }
			chain post { type nat hook postrouting priority 100; jump KUBE-POSTROUTING } }`, "", 0x01000000, []string{"ok: "}},
		{"what has no mark", `table ip nat { chain post { type nat hook postrouting priority 100; meta mark != 0 return } }`, "", 0, []string{"warning: a rule of chain ip nat post goes by bit 0x2000000"}},
		{"the steer mark", mangle + "tcp dport 80 meta mark set 0x01000000 } }", "", 0x01000000, []string{"problem: a rule of chain ip mangle output sets bit 0x1000000, the agent's steer mark"}},
		{"it is not used by the kernel driver", mangle + "tcp dport 80 meta mark set 0x01000000 } }", "", 0, []string{"ok: "}},
		{"iptables sets it", "", "iptables-nft -t mangle -A OUTPUT -p tcp -j MARK --set-xmark 0x2000000/0x2000000", 0, []string{"problem: a rule of chain ip mangle OUTPUT sets bit 0x2000000"}},
		{"iptables restores", "", "iptables-nft -t mangle -A OUTPUT -j CONNMARK --restore-mark", 0, []string{"problem: a rule of chain ip mangle OUTPUT may take bit"}},
		{"iptables restores others", "", "iptables-nft -t mangle -A OUTPUT -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff", 0, []string{"ok: "}},
		{"iptables goes by it", "", "iptables-nft -A OUTPUT -m mark --mark 0x2000000/0x2000000 -j ACCEPT", 0, []string{"warning: a rule of chain ip filter OUTPUT goes by bit"}},
		{"iptables goes by another", "", "iptables-nft -A OUTPUT -m mark --mark 0x80000/0xff0000 -j ACCEPT", 0, []string{"ok: "}},
		{"routing by it", "", "ip rule add fwmark 0x2000000/0xff000000 lookup 77", 0, []string{"problem: ip rule 32765 (fwmark 0x2000000/0xff000000 lookup 77) is about bit 0x2000000, the agent's exempt mark"}},
		{"routing by others, as Tailscale's and Cilium's", "", "ip rule add fwmark 0x80000/0xff0000 lookup 52\nip -6 rule add fwmark 0x200/0xf00 lookup 2004\nip rule add fwmark 7 lookup 8", 0x01000000, []string{"ok: "}},
		{"all but one mark, as wg-quick's", "", "ip rule add not fwmark 51820 lookup 51820", 0, []string{"ok: "}},
		{"routing of what has none of some bits", "", "ip rule add not fwmark 0/0xff000000 lookup 77", 0, []string{"problem: ip rule 32765 (not fwmark 0x0/0xff000000 lookup 77)"}},
		{"that of the data path", "", "ip rule add fwmark 0x1000000/0x1000000 lookup 900 pref 900", 0x01000000, []string{"ok: "}},
		{"one like it", "", "ip rule add fwmark 0x1000000/0x1000000 lookup 901 pref 900", 0x01000000, []string{"problem: ip rule 900 (fwmark 0x1000000/0x1000000 lookup 901) is about bit 0x1000000, the agent's steer mark"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inNamespace(t, func() {
				if tt.nft != "" {
					nft(t, tt.nft)
				}
				for line := range strings.Lines(tt.shell) {
					if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
						t.Errorf("%s: %v\n%s", line, err, out)
					}
				}
				r, err := ReadRuleset("ours")
				if err != nil {
					t.Error(err)
					return
				}
				rules, err := ReadRoutingRules(tt.steer, 900)
				if err != nil {
					t.Error(err)
				}
				expect(t, CheckMarks(marksOf(tt.steer), r, rules), tt.want...)
			})
		})
	}
}

// TestAFreeMarkIsNamed: what is to be set is a bit that nobody uses.
func TestAFreeMarkIsNamed(t *testing.T) {
	r := &Ruleset{Chains: []*nftables.Chain{{Name: "cali-x", Table: &nftables.Table{}}}}
	got := CheckMarks(marksOf(0x01000000), r, nil)
	if len(got) != 2 || !strings.Contains(got[0].Do, "dataPath.exemptMark: 0x2000,") || !strings.Contains(got[1].Do, "dataPath.steerMark: 0x1000,") ||
		!strings.Contains(got[0].Do, "FelixConfiguration") || got[0].State != control.CheckWarning {
		t.Errorf("%+v", got)
	}
	all := CheckMarks(marksOf(0), &Ruleset{}, []RoutingRule{{1, "ip rule 1", test{0x2000000, 0xfffffffe, false}}, {2, "ip rule 2", test{1, 1, false}}})
	if len(all) != 1 || !strings.Contains(all[0].Do, "free a bit") {
		t.Errorf("%+v", all)
	}
}

func FuzzMarkingOf(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 2, 0}, "mark", []byte{1, 2, 3, 4}, []byte{0xff, 0, 0, 0})
	f.Add([]byte("0123456789abc"), "CONNMARK", []byte{}, []byte{1})
	f.Add([]byte{0, 0, 0, 2, 0, 0, 0, 2}, "MARK", []byte{1, 2, 3, 4}, []byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, info []byte, name string, data, mask []byte) {
		u := xt.Unknown(info)
		mark := &expr.Meta{Key: expr.MetaKeyMARK, Register: 1}
		m := markingOf(&nftables.Rule{Exprs: []expr.Any{&expr.Match{Name: name, Info: &u}, &expr.Target{Name: name, Rev: 2, Info: &u},
			mark, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
			mark, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Mask: mask, Xor: data}, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}}})
		last := m.turns[len(m.turns)-1] // an operation that cannot be read is one that may set anything
		if len(data) == 4 && len(mask) == 4 {
			x, and := binary.NativeEndian.Uint32(data), binary.NativeEndian.Uint32(mask)
			if got := last.of(0x02000000); got != 0x02000000&and^x {
				t.Errorf("%#x", got)
			}
		} else if !last.unknown {
			t.Errorf("%+v is taken for known", last)
		}
	})
}
