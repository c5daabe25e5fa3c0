package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// DefaultSocket is where the agent listens.
const DefaultSocket = "/run/ipsecagent/agent.sock"

// DefaultGroup is the group whose members may look.
const DefaultGroup = "ipsec"

// Listen makes the control socket: mode 0660, of the group if it exists. A
// socket that nobody answers on is replaced; one that answers is another agent
// and refused.
func Listen(path, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("control: make the folder of socket %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control: listen on socket %s: %w", path, err)
	}
	if err := restrict(path, group); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// restrict sets mode and group of the socket. Until then the credentials of
// each connection decide alone, as they do afterwards.
func restrict(path, group string) error {
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("control: restrict socket %s: %w", path, err)
	}
	gid, err := groupID(group)
	if err != nil || gid == noGroup {
		return err
	}
	if err := os.Chown(path, -1, int(gid)); err != nil {
		return fmt.Errorf("control: give socket %s to group %s: %w", path, group, err)
	}
	return nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control: look at socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control: %s is in the way and is no socket: remove it or choose another --socket", path)
	}
	if answers(path) {
		return fmt.Errorf("control: another agent answers on socket %s: stop it first, or give this one its own --socket and --state-dir", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("control: remove the old socket %s: %w", path, err)
	}
	return nil
}

func answers(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// The most connections at once, for root and for all others: others cannot
// keep root out.
const (
	maxStreams     = 8
	maxConnections = 16 + maxStreams
)

// gate is a listener that knows each caller and closes what is too much.
type gate struct {
	net.Listener
	root   chan struct{} // one token for each open connection
	others chan struct{}
}

func newGate(ln net.Listener) *gate {
	return &gate{ln, make(chan struct{}, maxConnections), make(chan struct{}, maxConnections)}
}

// Accept returns the next connection there is room for.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if admitted := g.admit(conn); admitted != nil {
			return admitted, nil
		}
		conn.Close()
	}
}

// admit returns nil for a caller that is unknown or has no room.
func (g *gate) admit(conn net.Conn) net.Conn {
	who, err := peerOf(conn)
	if err != nil {
		return nil
	}
	who.began = time.Now()
	tokens := g.others
	if who.uid == 0 {
		tokens = g.root
	}
	select {
	case tokens <- struct{}{}:
		return &admitted{Conn: conn, who: who, tokens: tokens}
	default:
		return nil
	}
}

// admitted is a connection with its caller. Its first Close gives the token
// back; the HTTP server may close twice.
type admitted struct {
	net.Conn
	who    caller
	tokens chan struct{}
	closed atomic.Bool
}

// Close closes the connection.
func (a *admitted) Close() error {
	if a.closed.CompareAndSwap(false, true) {
		<-a.tokens
	}
	return a.Conn.Close()
}
