package directory

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
)

// estate plays a domain with a computer, cn=me,ou=s,dc=x, and a group policy
// object that assigns a policy.
type estate struct {
	t        *testing.T
	link     string // of the organizational unit
	unseen   bool   // the account may not see the computer
	noGroups bool   // nor its groups
}

const (
	estateGPO    = "CN={5EC0FFEE-0000-4000-8000-000000000001},CN=Policies,CN=System,DC=x"
	estatePolicy = "CN=ipsecPolicy{72385236-70FA-11D1-864C-14A300000000},CN=IP Security,CN=System,DC=x"
)

// session connects to it.
func (d *estate) session() *Session {
	s := newToy(d.t)
	s.answer = d.answer
	session := s.connect(soon(d.t))
	kind := *session.config
	kind.Kind, kind.Computer = ActiveDirectory, "ME$"
	session.config = &kind
	return session
}

// entry encodes an entry.
func entry(dn string, namesAndValues ...string) []byte {
	var all [][]byte
	for i := 0; i < len(namesAndValues); i += 2 {
		all = append(all, tlv(tagSequence, tlv(tagOctetString, []byte(namesAndValues[i])), tlv(0x31, tlv(tagOctetString, []byte(namesAndValues[i+1])))))
	}
	return tlv(0x64, tlv(tagOctetString, []byte(dn)), tlv(tagSequence, all...))
}

func (d *estate) answer(w io.Writer, id []byte, request element) {
	defer func() { reply(w, id, result(0x65, 0)) }()
	base, _ := enter(request.content, 0)
	asked := func(attribute string) bool { return bytes.Contains(request.content, []byte(attribute)) }
	sid, _ := hex.DecodeString("010100000000000512000000")
	switch at := strings.ToLower(string(base.content)); {
	case asked("highestCommittedUSN"):
		reply(w, id, entry("", "highestCommittedUSN", "100"))
	case asked("tokenGroups") && d.noGroups:
		reply(w, id, entry("cn=me,ou=s,dc=x", "objectSid", string(sid)))
	case asked("tokenGroups"):
		reply(w, id, entry("cn=me,ou=s,dc=x", "objectSid", string(sid), "tokenGroups", string(sid)))
	case asked("sAMAccountName") && !d.unseen:
		reply(w, id, entry("cn=me,ou=s,dc=x", "sAMAccountName", "ME$"))
	case asked("gPLink") && at == "ou=s,dc=x":
		reply(w, id, entry("ou=s,dc=x", attrClass, "organizationalUnit", "gPLink", d.link))
	case asked("gPLink"):
		reply(w, id, entry("dc=x", attrClass, "domain"))
	case asked("gPCWQLFilter"):
		reply(w, id, entry(estateGPO, "displayName", "servers", "flags", "0", "versionNumber", "1", "gPCFunctionalityVersion", "2",
			"gPCMachineExtensionNames", "["+extension+toolExtension+"]", "nTSecurityDescriptor", string(aGPO(d.t))))
	case strings.HasPrefix(at, strings.ToLower(assignmentPath)):
		reply(w, id, entry(assignmentPath+estateGPO, attrClass, "ipsecPolicy", attrOwners, estatePolicy))
	}
}

// TestALinkIsFollowedHoweverItIsWritten: scripts write it otherwise than the
// server does the name of the group policy object.
func TestALinkIsFollowedHoweverItIsWritten(t *testing.T) {
	for _, link := range []string{
		estateGPO, strings.ToLower(estateGPO), strings.ReplaceAll(estateGPO, ",", ", "), strings.Replace(estateGPO, "CN=System", `CN=S\79stem`, 1),
	} {
		d := &estate{t: t, link: "[LDAP://" + link + ";0]"}
		r, err := d.session().Resolve(soon(t), "", "")
		if err != nil || r.Won() == nil || r.Won().Policy != estatePolicy {
			t.Errorf("%s: %+v, %v", link, r.Considered, err)
		}
	}
}

// TestWhatIsSaidOfThisHostIsAnAnswer: a directory that was asked is not
// unreachable.
func TestWhatIsSaidOfThisHostIsAnAnswer(t *testing.T) {
	for name, d := range map[string]*estate{"no account": {unseen: true}, "no groups": {noGroups: true}} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			session := d.session()
			a, err := session.Fetch(soon(t))
			if !errors.Is(err, ErrUnreadable) || a == nil {
				t.Errorf("%v, %v", a, err)
			}
			select {
			case <-session.Ended():
				t.Error("the connection has ended")
			default:
			}
		})
	}
	identity := func(name string) []byte {
		return tlv(0x78, tlv(tagEnumerated, []byte{0}), tlv(tagOctetString), tlv(tagOctetString), tlv(0x8b, []byte(name)))
	}
	for name, who := range map[string][]byte{"refused": result(0x78, 53), "no entry": identity("u:me")} {
		t.Run(name, func(t *testing.T) {
			s := newToy(t)
			s.answer = func(w io.Writer, id []byte, request element) {
				if request.tag == 0x77 {
					reply(w, id, who)
					return
				}
				reply(w, id, found("dc=x", "contextCSN", []byte("1")))
				reply(w, id, result(0x65, 0))
			}
			session := s.connect(soon(t))
			kind := *session.config
			kind.Computer = ""
			session.config = &kind
			if _, err := session.Fetch(soon(t)); !errors.Is(err, ErrUnreadable) {
				t.Errorf("%v", err)
			}
		})
	}
}
