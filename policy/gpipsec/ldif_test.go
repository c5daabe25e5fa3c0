package gpipsec

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	ldifDN   = "CN=ipsecPolicy{7238523C-70FA-11D1-864C-14A300000000},CN=IP Security,CN=System,DC=example,DC=test"
	ldifRule = "CN=ipsecNFA{594272FD-071D-11D3-AD22-0060B0ECCA17},CN=IP Security,CN=System,DC=example,DC=test"
)

// A policy as ldapsearch prints it, and as ldbsearch and ldifde do.
func ldifStyles(t testing.TB) map[string]string {
	data := base64.StdEncoding.EncodeToString(readHex(t, "testdata/canonical/ipsecPolicy{7238523C-70FA-11D1-864C-14A300000000}.hex"))
	return map[string]string{
		"ldapsearch": "# extended LDIF\n#\n# LDAPv3\n# a comment that is\n  folded\n\n# x, IP Security\ndn: " + ldifDN[:60] + "\n " + ldifDN[60:] +
			"\nobjectClass: top\nobjectClass: ipsecPolicy\ndescription:: " + base64.StdEncoding.EncodeToString([]byte("für alle")) +
			"\nipsecName: Secure\nipsecDataType: 598\nipsecData:: " + data[:10] + "\n " + data[10:] +
			"\nipsecNFAReference: " + ldifRule + "\n\n# search result\nsearch: 2\nresult: 0 Success\n\n# numEntries: 1\n",
		"ldbsearch": "# record 1\ndn: " + ldifDN + "\nipsecName: Secure\ndescription: für alle\nipsecDataType: 598\nipsecData:: " + data + "\nipsecNFAReference: " + ldifRule +
			"\n\n# Referral\nref: ldap://example.test/CN=Configuration\n\n# returned 2 records\n",
		"ldifde": strings.ReplaceAll("dn: "+strings.ToLower(ldifDN)+"\nchangetype: add\nIPSECNAME: Secure\ndescription: für alle\nipsecDataType: 598\nipsecData:: "+data+
			"\n\ndn: CN=IP Security,CN=System\nobjectClass: container\ndescription: not ours\n\ndn: "+ldifDN+"\nchangetype: modify\nadd: ipsecNFAReference\nipsecNFAReference: "+ldifRule+"\n-\n", "\n", "\r\n"),
	}
}

func TestLDIFOfEveryTool(t *testing.T) {
	rule, err := parseDN(ldifRule)
	if err != nil {
		t.Fatal(err)
	}
	styles := ldifStyles(t)
	styles["ldifde -u"] = string(utf16File(styles["ldifde"]))
	for tool, text := range styles {
		all, err := ReadLDIF(strings.NewReader(text))
		if err != nil || len(all) != 1 {
			t.Errorf("%s: %v %+v", tool, err, all)
			continue
		}
		o := all[0]
		if o.Class != ClassPolicy || o.GUID.String() != "{7238523C-70FA-11D1-864C-14A300000000}" || o.Name != "Secure" || o.Description != "für alle" ||
			o.DataType != dataType598 || len(o.Data) != 25 || len(o.Refs) != 1 || o.Refs[0] != rule {
			t.Errorf("%s: %+v", tool, o)
		}
	}
}

func TestLDIFOfAnAssignment(t *testing.T) {
	text := ldifStyles(t)["ldbsearch"] + "\ndn: CN=IPSEC,CN=Windows,CN=Microsoft,CN=Machine,CN={31B2F340-016D-11D2-945F-00C04FB984F9},CN=Policies\nipsecName: Secure\nipsecOwnersReference: " + ldifDN + "\n"
	all, err := ReadLDIF(strings.NewReader(text))
	if err != nil || len(all) != 2 || all[1].Class != ClassAssignment || all[1].Refs[0] != all[0].Ref {
		t.Fatalf("%v %+v", err, all)
	}
	p := Decode(all).Problems
	if want := "the assignment: it names ipsecPolicy{7238523C-70FA-11D1-864C-14A300000000}, which is not there or was left out"; !strings.Contains(fmt.Sprint(p), want) {
		t.Error(p)
	}
}

func TestLDIFRefuses(t *testing.T) {
	head := "dn: " + ldifDN + "\n"
	for name, c := range map[string]struct{ text, want string }{
		"a file":             {head + "ipsecData:< file:///etc/shadow\n", `line 2: ipsecData is to be read from "file:///etc/shadow"; values of other files are not read`},
		"no attribute":       {head + "\n\nnonsense\n", "line 4: not LDIF"},
		"wrong base64":       {head + "ipsecData:: a\n\n", "line 2: ipsecData is not base64"},
		"half base64":        {head + "ipsecData:: AAA\n\n", "is not base64"},
		"before any dn":      {"ipsecName: x\n", "line 1: ipsecName stands before any dn"},
		"a partial value":    {head + "ipsecNFAReference;range=0-1499: " + ldifRule + "\n", "is a part of its values only"},
		"a wrong reference":  {head + "ipsecNFAReference: CN=x,DC=y\n", `ipsecNFAReference: "x" is not the name of an IPSec policy object`},
		"a wrong GUID":       {head + "ipsecNFAReference: CN=ipsecNFA{12345},DC=y\n", "is not a GUID"},
		"a wrong number":     {head + "ipsecDataType: many\n", "ipsecDataType: "},
		"a delete":           {head + "changetype: delete\n", `a change record of kind "delete" is not read here`},
		"a replace":          {head + "changetype: modify\nreplace: ipsecName\nipsecName: x\n", `a change record does "replace"`},
		"another attribute":  {head + "changetype: modify\nadd: ipsecName\ndescription: x\n", "adds ipsecName and says description"},
		"Latin-1":            {head + "ipsecName: f\xfcr\n", "ipsecName is not UTF-8"},
		"nothing of ours":    {"dn: CN=x\nipsecName: y\n", "holds no IPSec policy objects"},
		"nothing":            {"", "holds no IPSec policy objects"},
		"blank in attribute": {head + "ipsec Name: x\n", "not LDIF"},
	} {
		_, err := ReadLDIF(strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", name, err, c.want)
		}
	}
	if _, err := ReadLDIF(iotest.ErrReader(errors.New("the disk is gone"))); err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Error(err)
	}
	if _, err := ReadReg(iotest.ErrReader(errors.New("the disk is gone"))); err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Error(err)
	}
}

func TestLDIFIsWrittenByTheBook(t *testing.T) {
	o := Object{Ref: Ref{ClassPolicy, testGUID(1)}, Name: " blank", Description: strings.Repeat("long ", 40) + "\nand two lines", DataType: dataType, Data: make([]byte, 300)}
	o.Owners = []Ref{{ClassNFA, testGUID(2)}}
	var text bytes.Buffer
	if err := WriteLDIF(&text, DefaultBaseDN+",DC=example,DC=test", []Object{o}); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(text.String(), "\n") {
		if len(line) > 76 {
			t.Errorf("%d columns: %s", len(line), line)
		}
		for _, c := range line {
			if c < ' ' || c > 126 {
				t.Errorf("%q", line)
			}
		}
	}
	sameInLDIF(t, []Object{o})
	for _, base := range []string{"", "IP Security", "CN=x\ndn: CN=y"} {
		if err := WriteLDIF(&text, base, nil); err == nil {
			t.Errorf("base %q is taken", base)
		}
	}
}

func TestReadEntryPassesOverOwnersThatWereDeleted(t *testing.T) {
	const guid = "{72385232-70FA-11D1-864C-14A300000000}"
	o, err := ReadEntry("CN=ipsecFilter"+guid+",CN=IP Security", map[string][][]byte{
		"ipsecName": {[]byte("a list")}, "IPSECDATATYPE": {[]byte("256")}, "ipsecData": {{1, 2}}, "objectSid": {{0xff, 0xfe}},
		"ipsecOwnersReference": {[]byte("CN=ipsecNFA{D152B42A-0C56-8A96-8CFE-391C4AADB14C}\\0ADEL:71496d6f-7170-413d-ad2a-79c3015efe6e,CN=Deleted Objects"), []byte("CN=ipsecNFA" + guid + ",CN=IP Security")},
	})
	if err != nil || o.Class != ClassFilter || o.Name != "a list" || o.DataType != 256 || len(o.Owners) != 1 || o.Owners[0].String() != "ipsecNFA"+guid {
		t.Errorf("%+v, %v", o, err)
	}
	for name, value := range map[string]string{"ipsecDataType": "many", "ipsecFilterReference": "CN=x", "iPSECNegotiationPolicyType": "{}"} {
		if o, err := ReadEntry("CN=ipsecNFA"+guid, map[string][][]byte{name: {[]byte(value)}}); err == nil {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if o, err := ReadEntry("CN=Computers,DC=x", nil); err == nil {
		t.Errorf("%+v", o)
	}
}
