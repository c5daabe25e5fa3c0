package gpipsec

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
)

// regFile writes objects as regedit exports the local store, which is all that a
// test needs of a writer.
func regFile(objects []Object) string {
	var b strings.Builder
	b.WriteString("Windows Registry Editor Version 5.00\r\n\r\n[" + RegistryKey + "]\r\n")
	path := func(r Ref) string { return strings.TrimPrefix(RegistryKey, `HKEY_LOCAL_MACHINE\`) + `\` + r.String() }
	quote := func(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) }
	for _, o := range objects {
		if o.Class == ClassAssignment {
			fmt.Fprintf(&b, "\"ActivePolicy\"=\"%s\"\r\n", quote(path(o.Refs[0])))
		}
	}
	for _, o := range objects {
		if o.Class == ClassAssignment {
			continue
		}
		fmt.Fprintf(&b, "\r\n[%s\\%s]\r\n\"ClassName\"=\"%s\"\r\n\"name\"=\"%s\"\r\n", RegistryKey, o.Ref, o.Class, o.Ref)
		for _, a := range o.attributes() {
			switch {
			case a.bytes != nil:
				fmt.Fprintf(&b, "\"%s\"=hex:%s\r\n", a.name, regBytes(a.bytes))
			case a.name == attrDataType:
				fmt.Fprintf(&b, "\"%s\"=dword:%08x\r\n", a.name, o.DataType)
			default:
				fmt.Fprintf(&b, "\"%s\"=\"%s\"\r\n", a.name, quote(a.text))
			}
		}
		b.WriteString("\"whenChanged\"=dword:4a000000\r\n")
		for name, refs := range o.byAttribute() {
			var all []byte
			for _, r := range refs {
				all = append(all, NewWide(path(r))...)
			}
			fmt.Fprintf(&b, "\"%s\"=hex(7):%s\r\n", name, regBytes(append(all, 0, 0)))
		}
	}
	return b.String()
}

func (o *Object) byAttribute() map[string][]Ref {
	all := map[string][]Ref{}
	for _, r := range o.Refs {
		all[refAttribute(r.Class)] = append(all[refAttribute(r.Class)], r)
	}
	if len(o.Owners) > 0 {
		all[attrOwners] = o.Owners
	}
	return all
}

// regBytes writes bytes with the continuation lines of regedit.
func regBytes(data []byte) string {
	var b strings.Builder
	for i, c := range data {
		if i > 0 {
			b.WriteString(",")
		}
		if i%25 == 24 {
			b.WriteString("\\\r\n  ")
		}
		fmt.Fprintf(&b, "%02x", c)
	}
	return b.String()
}

// utf16File is how regedit saves text.
func utf16File(s string) []byte {
	b := []byte{0xff, 0xfe}
	for _, c := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return b
}

func testGUID(n byte) GUID { return GUID{15: n} }

// linked writes the references back.
func linked(objects []Object) []Object {
	at := map[Ref]*Object{}
	for i := range objects {
		at[objects[i].Ref] = &objects[i]
	}
	for i := range objects {
		for _, r := range objects[i].Refs {
			if objects[i].Class == ClassAssignment {
				continue
			}
			if to := at[r]; to != nil {
				to.Owners = append(to.Owners, objects[i].Ref)
			}
		}
	}
	return objects
}

// sampleObject is an object around a sample.
func sampleObject(t testing.TB, c Class, n byte, file, name string, refs ...Ref) Object {
	t.Helper()
	o := Object{Ref: Ref{c, testGUID(n)}, Name: name, DataType: dataType, Refs: refs}
	if o.Data = readHex(t, "testdata/"+file+".hex"); classOf(o.Data) != c {
		t.Fatalf("%s is no %s", file, string(c))
	}
	if c == ClassNegotiation {
		o.Type, o.Action = typeStandard(), actionNegotiate()
	}
	return o
}

// xpStore is the local policy of an XP host with an L2TP server.
func xpStore(t testing.TB) []Object {
	policy, settings, list := Ref{ClassPolicy, testGUID(1)}, Ref{ClassISAKMP, testGUID(2)}, Ref{ClassFilter, testGUID(3)}
	action, rule := Ref{ClassNegotiation, testGUID(4)}, Ref{ClassNFA, testGUID(5)}
	responseAction, response := Ref{ClassNegotiation, testGUID(6)}, Ref{ClassNFA, testGUID(7)}
	all := []Object{
		sampleObject(t, ClassPolicy, 1, "windows-xp/ipsecPolicy", "L2TP", settings, rule, response),
		sampleObject(t, ClassISAKMP, 2, "windows-xp/ipsecISAKMPPolicy", ""),
		sampleObject(t, ClassFilter, 3, "windows-xp/ipsecFilter", "server"),
		sampleObject(t, ClassNegotiation, 4, "windows-xp/negpol_3des_md5", "3DES"),
		sampleObject(t, ClassNFA, 5, "windows-xp/nfa_rule_psk", "to the \"server\"", action, list),
		sampleObject(t, ClassNegotiation, 6, "windows-xp/negpol_default_response", ""),
		sampleObject(t, ClassNFA, 7, "windows-xp/nfa_default_response_kerberos", "", responseAction),
		{Ref: Ref{Class: ClassAssignment}, Refs: []Ref{policy}},
	}
	all[5].Type = typeResponse()
	return linked(all)
}

// win10Store is a policy that Windows 10 wrote.
func win10Store(t testing.TB) []Object {
	settings, blocked, allIP := Ref{ClassISAKMP, testGUID(2)}, Ref{ClassFilter, testGUID(3)}, Ref{ClassFilter, testGUID(4)}
	block, rule, remote := Ref{ClassNegotiation, testGUID(5)}, Ref{ClassNFA, testGUID(6)}, Ref{ClassNFA, testGUID(7)}
	responseAction, response := Ref{ClassNegotiation, testGUID(8)}, Ref{ClassNFA, testGUID(9)}
	all := []Object{
		sampleObject(t, ClassPolicy, 1, "windows10/ipsecPolicy", "Quarantine", settings, rule, remote, response),
		sampleObject(t, ClassISAKMP, 2, "windows10/ipsecISAKMPPolicy", ""),
		sampleObject(t, ClassFilter, 3, "windows10/ipsecFilter_32_blocked", "blocked"),
		sampleObject(t, ClassFilter, 4, "windows10/ipsecFilter_all_ip", "all"),
		sampleObject(t, ClassNegotiation, 5, "windows10/negpol_block", "Block"),
		sampleObject(t, ClassNFA, 6, "windows10/nfa_rule_all", "blocked", block, blocked),
		sampleObject(t, ClassNFA, 7, "windows10/nfa_rule_remote_access", "dial-up", block, allIP),
		sampleObject(t, ClassNegotiation, 8, "windows10/negpol_default_response", ""),
		sampleObject(t, ClassNFA, 9, "windows10/nfa_default_response", "", responseAction),
		sampleObject(t, ClassFilter, 10, "netsh-written/ipsecFilter_any_any_tcp8080", "tcp 8080"),
	}
	all[4].Action, all[7].Type = actionBlock(), typeResponse()
	return linked(all)
}

func readRegBytes(t testing.TB, file []byte) []Object {
	t.Helper()
	objects, err := ReadReg(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}
