package wire

import "fmt"

// Default is what becomes of packets that no policy matches (Linux 5.14).
type Default struct {
	In, Forward, Out Verdict
}

// Verdict of the default policy.
type Verdict uint8

// Keep leaves the direction as it is; the kernel starts with Accept.
const (
	Keep Verdict = iota
	Refuse
	Accept
)

const sizeDefault = 3

// Append appends the body of a request of type MsgSetDefault.
func (d Default) Append(b []byte) []byte {
	return append(b, byte(d.In), byte(d.Forward), byte(d.Out))
}

// ParseDefault reads a message of type MsgGetDefault.
func ParseDefault(b []byte) (Default, error) {
	if err := need(b, sizeDefault, "default policy"); err != nil {
		return Default{}, err
	}
	d := Default{In: Verdict(b[0]), Forward: Verdict(b[1]), Out: Verdict(b[2])}
	if max(d.In, d.Forward, d.Out) > Accept {
		return Default{}, fmt.Errorf("wire: default policy %d %d %d", b[0], b[1], b[2])
	}
	return d, nil
}

// Count is how many policies there are, of everybody.
type Count struct {
	In, Out, Forward             uint32
	SocketIn, SocketOut, SockFwd uint32
}

const (
	attrSPDInfo = 1
	sizeSPDInfo = 24
	sizeFlags   = 4
)

// AppendSPDInfo appends the body of a request of type MsgGetSPDInfo.
func AppendSPDInfo(b []byte) []byte { return append(b, 0, 0, 0, 0) }

// ParseSPDInfo reads a message of type MsgNewSPDInfo.
func ParseSPDInfo(b []byte) (c Count, err error) {
	if err := need(b, sizeFlags, "count of policies"); err != nil {
		return c, err
	}
	found := false
	err = eachAttr(b[sizeFlags:], func(typ uint16, p []byte) error {
		if typ != attrSPDInfo {
			return nil
		}
		if err := need(p, sizeSPDInfo, "count"); err != nil {
			return err
		}
		found = true
		c = Count{native.Uint32(p), native.Uint32(p[4:]), native.Uint32(p[8:]), native.Uint32(p[12:]), native.Uint32(p[16:]), native.Uint32(p[20:])}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("wire: no count of policies in the answer")
	}
	return c, err
}
