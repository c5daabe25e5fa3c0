package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ipsecagent/sadb"
)

// snapLen is how much of a packet is reported: the IP header with options or
// extension headers, and the ports.
const snapLen = 256

// Numbers of nfnetlink_log (linux/netfilter/nfnetlink_log.h) that x/sys/unix
// does not have.
const (
	logPacket      = unix.NFNL_SUBSYS_ULOG << 8   // NFULNL_MSG_PACKET
	logConfig      = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG
	logPayload     = 9                            // NFULA_PAYLOAD
	logPrefix      = 10                           // NFULA_PREFIX
	logCommand     = 1                            // NFULA_CFG_CMD
	logMode        = 2                            // NFULA_CFG_MODE
	logThreshold   = 5                            // NFULA_CFG_QTHRESH
	logBind        = 1                            // NFULNL_CFG_CMD_BIND
	logCopyPackets = 2                            // NFULNL_COPY_PACKET
)

// openLog opens a socket that receives what the table logs.
func openLog(group uint16) (*netlink.Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	if err := bindLog(nl, group); err != nil {
		nl.Close()
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("nflog group %d is read by another process: configure another group (%w)", group, err)
		}
		return nil, fmt.Errorf("bind nflog group %d: %w", group, err)
	}
	return nl, nil
}

func bindLog(nl *netlink.Conn, group uint16) error {
	ask := func(f func(attrs)) error {
		data, err := encode(unix.AF_UNSPEC, f)
		if err != nil {
			return err
		}
		binary.BigEndian.PutUint16(data[2:], group)
		_, err = nl.Execute(netlink.Message{
			Header: netlink.Header{Type: logConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   data,
		})
		return err
	}
	if err := ask(func(ae attrs) { ae.Bytes(logCommand, []byte{logBind}) }); err != nil {
		return err
	}
	return ask(func(ae attrs) {
		ae.Bytes(logMode, append(binary.BigEndian.AppendUint32(nil, snapLen), logCopyPackets, 0))
		ae.Uint32(logThreshold, 1) // deliver each at once
	})
}

// readLog hands reports to f until the reader is to end.
func readLog(r reader, f func(Asked)) {
	for {
		msgs, err := r.next()
		if errors.Is(err, errDone) {
			return
		}
		if err != nil {
			continue // reports were lost; packets ask again
		}
		for _, m := range msgs {
			if m.Header.Type != logPacket {
				continue
			}
			if a, err := parseLog(m.Data); err == nil {
				f(a)
			}
		}
	}
}

// parseLog reads one logged packet: the filter's ID is the prefix of its rule.
func parseLog(data []byte) (Asked, error) {
	var a Asked
	var packet []byte
	err := decode(data, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case logPrefix:
			a.Filter = sadb.FilterID(ad.String())
		case logPayload:
			packet = ad.Bytes()
		}
	})
	if err != nil {
		return Asked{}, err
	}
	if a.Flow, err = parseFlow(packet); err != nil {
		return Asked{}, err
	}
	return a, nil
}
