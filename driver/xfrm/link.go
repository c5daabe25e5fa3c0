package xfrm

import (
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/driver/xfrm/wire"
	"ipsecagent/sadb"
)

// link is the netlink connection by which requests go.
type link struct {
	c *netlink.Conn
}

// dial opens a socket of XFRM in the calling thread's network namespace.
func dial(groups ...uint32) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_XFRM, nil)
	if err != nil {
		return nil, withoutXFRM(err)
	}
	// Without it errors are numbers only; kernels that cannot are as they are.
	_ = c.SetOption(netlink.ExtendedAcknowledge, true)
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			c.Close()
			return nil, fmt.Errorf("listen to events of XFRM (needs CAP_NET_ADMIN): %w", err)
		}
	}
	return c, nil
}

// withoutXFRM says why there is no socket of XFRM.
func withoutXFRM(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("this kernel has no XFRM (CONFIG_XFRM_USER, module xfrm_user): load the module, or set driver: user: %w", err)
	}
	return fmt.Errorf("open a netlink socket of XFRM: %w", err)
}

// request sends one message and awaits its acknowledgement.
func (l link) request(typ uint16, body []byte) error {
	_, err := l.c.Execute(message(typ, netlink.Acknowledge, body))
	return explained(err)
}

// ask sends one message and returns the one answer.
func (l link) ask(typ uint16, body []byte) ([]byte, error) {
	answers, err := l.c.Execute(message(typ, 0, body))
	if err != nil {
		return nil, explained(err)
	}
	if len(answers) != 1 {
		return nil, fmt.Errorf("%d answers of the kernel, not one", len(answers))
	}
	return answers[0].Data, nil
}

// dump returns the bodies of all entries that a message of a type asks for.
func (l link) dump(typ uint16) ([]netlink.Message, error) {
	all, err := l.c.Execute(message(typ, netlink.Dump, nil))
	return all, explained(err)
}

func message(typ uint16, flags netlink.HeaderFlags, body []byte) netlink.Message {
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | flags}, Data: body}
}

// explained returns what the kernel says in words, if it does, and names the
// privilege where that is missing.
func explained(err error) error {
	var op *netlink.OpError
	if !errors.As(err, &op) {
		return err
	}
	switch {
	case op.Message != "":
		return fmt.Errorf("the kernel refuses: %s: %w", op.Message, op.Err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the kernel refuses (needs CAP_NET_ADMIN): %w", op.Err)
	}
	return fmt.Errorf("the kernel refuses: %w", op.Err)
}

// policies returns the policies of the namespace but those of sockets and those
// that cannot be read: another's, of a kind that this driver never makes.
func (l link) policies() ([]wire.Policy, error) {
	all, err := l.dump(wire.MsgGetPolicy)
	if err != nil {
		return nil, fmt.Errorf("list policies: %w", err)
	}
	var out []wire.Policy
	for _, m := range all {
		p, err := wire.ParsePolicy(m.Data)
		if err == nil && p.Dir < wire.SocketIn && !p.Sub {
			out = append(out, p)
		}
	}
	return out, nil
}

// states returns the states of the namespace but those that cannot be read, which
// are another's.
func (l link) states() ([]wire.State, error) {
	all, err := l.dump(wire.MsgGetSA)
	if err != nil {
		return nil, fmt.Errorf("list states: %w", err)
	}
	var out []wire.State
	for _, m := range all {
		s, err := wire.ParseState(m.Data)
		clear(m.Data) // keys
		if err == nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// deleteState deletes a state. One that is gone is no error.
func (l link) deleteState(id sadb.SAID) error {
	err := l.request(wire.MsgDelSA, wire.AppendStateID(nil, id))
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// deletePolicy deletes a policy. One that is gone is no error.
func (l link) deletePolicy(p wire.Policy) error {
	err := l.request(wire.MsgDelPolicy, p.AppendID(nil))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
