package gpipsec

import (
	"bytes"
	"strings"
	"testing"
)

const regHead = "Windows Registry Editor Version 5.00\r\n\r\n"

func regKey(class Class) string {
	return regHead + "[" + RegistryKey + `\` + Ref{class, testGUID(1)}.String() + "]\r\n"
}

func TestRegistryExportsOfEveryKind(t *testing.T) {
	text := regFile(xpStore(t))
	want := readRegBytes(t, utf16File(text))
	for name, file := range map[string][]byte{
		"UTF-8":         []byte(text),
		"with a mark":   []byte("\xef\xbb\xbf" + text),
		"LF":            []byte(strings.ReplaceAll(text, "\r\n", "\n")),
		"capitals":      utf16File(strings.ReplaceAll(text, RegistryKey, strings.ToUpper(RegistryKey))),
		"other keys":    utf16File(text + "\r\n[HKEY_LOCAL_MACHINE\\SOFTWARE\\X]\r\n\"ipsecData\"=nonsense\r\n@=\"y\"\r\n; a comment\r\n"),
		"the cache too": utf16File(text + "\r\n[" + strings.Replace(RegistryKey, "Local", "Cache", 1) + `\` + xpStore(t)[0].String() + "]\r\n\"ipsecName\"=\"other\"\r\n"),
	} {
		if d := diff(want, readRegBytes(t, file)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestRegistryValues(t *testing.T) {
	text := regKey(ClassPolicy) + `@="nothing"` + "\r\n" +
		`"ipsecName"="a \"name\" \\ with ; [all]"` + "\r\n" +
		"\"description\"=\"two\r\n  lines\\\\\r\nthree\"\r\n" +
		`"ipsecDataType"=hex(4):56,02,00,00` + "\r\n" +
		`"ipsecData"=hex(3):1,02,\` + "\r\n  03\r\n" +
		`"whenChanged"=hex(b):00,00,00,00,00,00,00,00` + "\r\n"
	o := readRegBytes(t, utf16File(text))[0]
	if o.Name != `a "name" \ with ; [all]` || o.Description != "two\n  lines\\\nthree" || o.DataType != dataType598 || !bytes.Equal(o.Data, []byte{1, 2, 3}) {
		t.Errorf("%+v", o)
	}
	// Windows 9x style: strings are bytes.
	path := `SOFTWARE\x\` + Ref{ClassNFA, testGUID(2)}.String()
	text = strings.Replace(regKey(ClassPolicy), "Windows Registry Editor Version 5.00", "REGEDIT4", 1) + `"ipsecNFAReference"=hex(7):` + regBytes([]byte(path+"\x00"+path+"\x00\x00"))
	if o = readRegBytes(t, []byte(text))[0]; len(o.Refs) != 2 || o.Refs[1] != (Ref{ClassNFA, testGUID(2)}) {
		t.Errorf("%+v", o)
	}
}

func TestRegistryExportsRefuses(t *testing.T) {
	key := regKey(ClassPolicy)
	for name, c := range map[string]struct{ text, want string }{
		"another file":     {"dn: x", "does not begin with Windows Registry Editor Version 5.00 or REGEDIT4"},
		"nothing":          {"", "does not begin with"},
		"nothing of ours":  {regHead, "holds no IPSec policy objects"},
		"a deletion":       {regHead + "[-" + RegistryKey + "]\r\n", "line 3: the file deletes keys; it is no export"},
		"a deleted value":  {key + "\"ipsecName\"=-\r\n", "ipsecName: the file deletes it"},
		"an open key":      {regHead + "[" + RegistryKey, "a key without its closing bracket"},
		"a key twice":      {key + "\r\n" + strings.TrimPrefix(key, regHead), "is there twice"},
		"an open string":   {key + "\"ipsecName\"=\"x\r\n", "the file ends within a value"},
		"an open value":    {key + "\"ipsecData\"=hex:01,\\\r\n", `"" is not a byte`},
		"no quotes":        {key + "ipsecName=x\r\n", "not in quotes"},
		"no value":         {key + "\"ipsecName\"\r\n", "ipsecName has no value"},
		"what":             {key + "\"ipsecName\"=qword:1\r\n", "neither a string nor a dword nor hex bytes"},
		"text after":       {key + "\"ipsecName\"=\"x\"y\r\n", "text after its closing quote"},
		"a wrong byte":     {key + "\"ipsecData\"=hex:0g\r\n", "invalid byte"},
		"three digits":     {key + "\"ipsecData\"=hex:001\r\n", `"001" is not a byte`},
		"a wrong number":   {key + "\"ipsecDataType\"=dword:xyz\r\n", "ipsecDataType: "},
		"no type":          {key + "\"ipsecData\"=hex(\r\n", "hex bytes without their type"},
		"odd UTF-16":       {key + "\"ipsecNFAReference\"=hex(7):41,00,42\r\n", "UTF-16 of an odd number of bytes"},
		"half a character": {key + "\"ipsecNFAReference\"=hex(7):00,d8,00,00\r\n", "surrogate"},
		"a wrong path":     {key + "\"ipsecNFAReference\"=hex(7):41,00,00,00\r\n", `"A" is not the name`},
		"a wrong policy":   {regHead + "[" + RegistryKey + "]\r\n\"ActivePolicy\"=\"x\"\r\n", `"x" is not the name`},
	} {
		for form, file := range map[string][]byte{"UTF-16": utf16File(c.text), "UTF-8": []byte(c.text)} {
			_, err := ReadReg(bytes.NewReader(file))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s in %s: %v does not say %q", name, form, err, c.want)
			}
		}
	}
	for name, file := range map[string]string{"odd": "\xff\xfea", "Latin-1": "REGEDIT4\r\n\xfc", "NUL": "\xff\xfeW\x00\x00\x00", "half": "\xff\xfe\x00\xd8"} {
		if _, err := ReadReg(strings.NewReader(file)); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}
