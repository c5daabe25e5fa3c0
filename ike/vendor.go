package ike

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/ike/wire"
)

// The vendor IDs this project knows: each the MD5 of the words beside it,
// unless it says otherwise. Some have a version or a capability behind them.
const (
	vidAgent      = "\xf0\x4e\x6b\x48\x41\x2f\xaf\x8e\x25\x74\x1e\x17\x65\xb6\x66\xe9" // "ipsecagent"
	vidRFC3947    = "\x4a\x13\x1c\x81\x07\x03\x58\x45\x5c\x57\x28\xf2\x0e\x95\x45\x2f" // "RFC 3947"
	vidNATDraft3  = "\x7d\x94\x19\xa6\x53\x10\xca\x6f\x2c\x17\x9d\x92\x15\x52\x9d\x56" // "draft-ietf-ipsec-nat-t-ike-03"
	vidNATDraft2n = "\x90\xcb\x80\x91\x3e\xbb\x69\x6e\x08\x63\x81\xb5\xec\x42\x7b\x1f" // "draft-ietf-ipsec-nat-t-ike-02\n"
	vidNATDraft2  = "\xcd\x60\x46\x43\x35\xdf\x21\xf8\x7c\xfd\xb2\xfc\x68\xb6\xa4\x48" // "draft-ietf-ipsec-nat-t-ike-02"
	vidFragments  = "\x40\x48\xb7\xd5\x6e\xbc\xe8\x85\x25\xe7\xde\x7f\x00\xd6\xc2\xd3" // "FRAGMENTATION"
	vidDPD        = "\xaf\xca\xd7\x13\x68\xa1\xf1\xc9\x6b\x86\x96\xfc\x77\x57"         // RFC 3706 §5, no MD5; version behind it
	vidGSSAPI     = "\x62\x1b\x04\xbb\x09\x88\x2a\xc1\xe1\x59\x35\xfe\xfa\x24\xae\xee" // "GSSAPI"
	vidGSSLong    = "\xad\x2c\x0d\xd0\xb9\xc3\x20\x83\xcc\xba\x25\xb8\x86\x1e\xc4\x55" // "A GSS-API Authentication Method for IKE"
	vidGSSLongN   = "\xb4\x6d\x89\x14\xf3\xaa\xa3\xf2\xfe\xde\xb7\xc7\xdb\x29\x43\xca" // the same and "\n"
	vidWindows    = "\x1e\x2b\x51\x69\x05\x99\x1c\x7d\x7c\x96\xfc\xbf\xb5\x87\xe4\x61" // "MS NT5 ISAKMPOAKLEY"
	vidRacoon     = "\x70\x03\xcb\xc1\x09\x7d\xbe\x9c\x26\x00\xba\x69\x83\xbc\x8b\x35" // "KAME/racoon"
	vidStrongSwan = "\x88\x2f\xe5\x6d\x6f\xd2\x0d\xbc\x22\x51\x61\x3b\x2e\xbe\x5b\xeb" // "strongSwan"
	vidLibreswan  = "OE-Libreswan-"                                                    // in letters, a version behind it
)

// ourCapabilities stands behind vidAgent: the version of the form, and what
// this host can do beyond the RFCs. None of it changes what is chosen: the
// offer alone decides, and the offer is authenticated.
const ourCapabilities = "\x01\x00\x00\x00"

// vendors is what a peer says of itself by vendor IDs. Nothing vouches for
// them: they choose between forms that are equally secure, and no more.
type vendors struct {
	agent     []byte // the body of its vidAgent; nil: none
	nat       natForm
	fragments bool // takes fragments of messages (payload 132)
	dpd       bool // RFC 3706
	gssapi    bool // 65001 means Kerberos
	windows   uint32
	name      string // in the administrator's words, "" when nothing tells
}

// readVendors reads the vendor IDs of a message. Unknown ones mean nothing.
func readVendors(c wire.Chain) vendors {
	var v vendors
	for _, body := range c.All(wire.VendorPayload) {
		v.note(body)
	}
	return v
}

func (v *vendors) note(body []byte) {
	id := string(body)
	switch {
	case strings.HasPrefix(id, vidAgent) && len(id) <= maxAgentID:
		v.agent, v.name = body, "ipsecagent"
	case strings.HasPrefix(id, vidFragments):
		v.fragments = true
	case strings.HasPrefix(id, vidDPD):
		v.dpd = true
	case id == vidGSSAPI || id == vidGSSLong || id == vidGSSLongN:
		v.gssapi = true
	case strings.HasPrefix(id, vidWindows) && len(id) >= len(vidWindows)+4:
		v.windows = binary.BigEndian.Uint32(body[len(vidWindows):])
		v.gssapi, v.name = true, windowsName(v.windows)
	default:
		v.nat = max(v.nat, natFormOf(id))
		v.name = firstOf(v.name, implementation(id))
	}
}

// returnsCookies reports whether a peer repeats its first message with the
// cookie that a notify brings.
func (v vendors) returnsCookies() bool { return v.agent != nil || v.windows != 0 }

// maxAgentID bounds what is kept of a vendor ID of our own form.
const maxAgentID = 64

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// implementation names the peers that do nothing but name themselves.
func implementation(id string) string {
	switch {
	case id == vidRacoon:
		return "racoon"
	case id == vidStrongSwan:
		return "strongSwan"
	case strings.HasPrefix(id, vidLibreswan):
		return "libreswan"
	}
	return ""
}

// windowsName names a version of Windows by the number behind its vendor ID
// (MS-IKEE §1.7).
func windowsName(version uint32) string {
	names := []string{2: "Windows 2000", 3: "Windows XP", 4: "Windows Server 2003", 5: "Windows Vista",
		6: "Windows Server 2008", 7: "Windows 7", 8: "Windows Server 2008 R2", 9: "Windows 8 or later"}
	if version >= 2 && version < uint32(len(names)) {
		return names[version]
	}
	return fmt.Sprintf("Windows (version %d)", version)
}

// natForm is a form of NAT traversal, the preferred one highest.
type natForm uint8

// The forms. Windows up to Server 2003 knows the draft alone.
const (
	noNAT natForm = iota
	natDraft2
	natDraft2n
	natDraft3
	natRFC3947
)

func natFormOf(id string) natForm {
	switch id {
	case vidRFC3947:
		return natRFC3947
	case vidNATDraft3:
		return natDraft3
	case vidNATDraft2n:
		return natDraft2n
	case vidNATDraft2:
		return natDraft2
	}
	return noNAT
}

func (f natForm) vendorID() string {
	return [...]string{"", vidNATDraft2, vidNATDraft2n, vidNATDraft3, vidRFC3947}[f]
}

// vendorPayloads makes payloads of vendor IDs.
func vendorPayloads(ids ...string) []wire.Payload {
	var all []wire.Payload
	for _, id := range ids {
		all = append(all, wire.Payload{Type: wire.VendorPayload, Body: []byte(id)})
	}
	return all
}

// offeredVendors is what this host says of itself in message 1.
func (m *Machine) offeredVendors(kerberos bool) []wire.Payload {
	if m.anonymous {
		return nil
	}
	ids := []string{vidAgent + ourCapabilities, vidRFC3947, vidNATDraft3, vidNATDraft2n, vidNATDraft2, ourFragments, ourDPD}
	if kerberos {
		ids = append(ids, vidGSSAPI)
	}
	return vendorPayloads(ids...)
}

// ourFragments says that fragments are taken in main mode (and so everywhere).
const ourFragments = vidFragments + "\x80\x00\x00\x00"

// ourDPD says that R-U-THERE is answered, as of version 1.0.
const ourDPD = vidDPD + "\x01\x00"

// answeredVendors is what this host says of itself in message 2: of what the
// peer has said too, and of NAT traversal one form.
func (m *Machine) answeredVendors(peer vendors) []wire.Payload {
	if m.anonymous {
		return nil
	}
	var ids []string
	if peer.nat != noNAT {
		ids = append(ids, peer.nat.vendorID())
	}
	if peer.fragments {
		ids = append(ids, ourFragments)
	}
	if peer.dpd {
		ids = append(ids, ourDPD)
	}
	if peer.agent != nil {
		ids = append(ids, vidAgent+ourCapabilities)
	}
	return vendorPayloads(ids...)
}

// provenVendor repeats our vendor ID beside the proof of identity, where
// nobody on the way can take it out. An initiator does so whatever the peer has
// said of itself in clear: its vendor ID may have been taken out, and that of an
// implementation that has none of ours put in.
func (m *Machine) provenVendor(peer vendors, initiator bool) []wire.Payload {
	if m.anonymous || peer.agent == nil && !initiator {
		return nil
	}
	return vendorPayloads(vidAgent + ourCapabilities)
}

// errVendor is what a vendor ID means that is not the same in clear and under
// encryption.
var errVendor = errors.New("the peer's vendor ID under encryption is not the one that came in clear: somebody on the way changes the negotiation")

// notWelcome is the failure of a main mode whose peer has proven itself.
func notWelcome(err error) Failed {
	if errors.Is(err, errVendor) {
		return Failed{Code: FailAltered, Reason: err.Error(),
			Hint: "find the device between the hosts that takes vendor IDs out of IKE messages or puts them in"}
	}
	return Failed{Code: FailPrincipal, Reason: err.Error(), Hint: "compare the authentication of the rule on both hosts, method, authority and acceptPrincipals, with who has proven itself here; or see who answers at that address"}
}

// checkVendor compares what a peer says of itself beside its proof with what
// came in clear.
func checkVendor(inClear vendors, proof wire.Chain) error {
	if !bytes.Equal(inClear.agent, readVendors(proof).agent) {
		return errVendor
	}
	return nil
}

// fit leaves out of what is optional what would make an answer larger than the
// question: the asker's address is not known to be its own.
func fit(answer, optional []wire.Payload, room int) []wire.Payload {
	size := wire.HeaderLen
	for _, p := range answer {
		size += wire.PayloadLen(p)
	}
	answer = slices.Clip(answer)
	for _, p := range optional {
		if size += wire.PayloadLen(p); size > room {
			break
		}
		answer = append(answer, p)
	}
	return answer
}
