package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain doubles as a caller of another user: see TestStrangersAreRefused.
func TestMain(m *testing.M) {
	socket := os.Getenv("CONTROL_TEST_SOCKET")
	if socket == "" {
		os.Exit(m.Run())
	}
	c := NewClient(socket, 10*time.Second)
	_, look := c.Status(context.Background())
	_, change := c.Unassign(context.Background())
	fmt.Printf("%d %d\n", codeOf(look), codeOf(change))
}

func codeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return OK
}

// asUser asks the server as another user and returns the codes of a look and
// of a change.
func asUser(t *testing.T, socket string, cred *syscall.Credential) string {
	t.Helper()
	exe := filepath.Join(filepath.Dir(filepath.Dir(socket)), "caller")
	if err := copyProgram(exe); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{"CONTROL_TEST_SOCKET=" + socket}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func copyProgram(to string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// openFolder makes a folder that every user can enter.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStrangersAreRefused(t *testing.T) {
	needsRoot(t)
	path := filepath.Join(openFolder(t), "run", "agent.sock")
	ln, err := Listen(path, DefaultGroup)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, newFake())
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	if got := asUser(t, path, nobody); got != "5 5" {
		t.Errorf("a stranger at the closed socket got %s, want 5 5", got)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := asUser(t, path, nobody); got != "5 5" {
		t.Errorf("a stranger at an open socket got %s, want 5 5", got)
	}
}

func TestReadersLookAndChangeNothing(t *testing.T) {
	needsRoot(t)
	const readers = "daemon" // a group every Debian has
	gid, err := groupID(readers)
	if err != nil || gid == noGroup {
		t.Fatalf("group %s: %d, %v", readers, gid, err)
	}
	path := filepath.Join(openFolder(t), "run", "agent.sock")
	ln, err := Listen(path, readers)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, ServerConfig{Backend: newFake(), Log: discard(), Group: readers})
	}()
	primary := asUser(t, path, &syscall.Credential{Uid: 65534, Gid: uint32(gid)})
	supplementary := asUser(t, path, &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{4, uint32(gid)}})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if primary != "0 5" || supplementary != "0 5" {
		t.Errorf("a reader got %s (primary group), %s (supplementary), want 0 5", primary, supplementary)
	}
}

func TestAccess(t *testing.T) {
	tests := []struct {
		name    string
		who     caller
		readers int64
		want    access
	}{
		{"root", caller{}, 100, accessChange},
		{"root without the group", caller{}, noGroup, accessChange},
		{"member", caller{uid: 7, gid: 100}, 100, accessRead},
		{"member by a second group", caller{uid: 7, gid: 7, groups: []uint32{3, 100}}, 100, accessRead},
		{"stranger", caller{uid: 7, gid: 7, groups: []uint32{0}}, 100, accessNone},
		{"stranger of root's group", caller{uid: 7, gid: 0}, 100, accessNone},
		{"no such group", caller{uid: 7, gid: 0xffffffff}, noGroup, accessNone},
	}
	for _, tt := range tests {
		if got := accessOf(tt.who, tt.readers); got != tt.want {
			t.Errorf("%s: access %d, want %d", tt.name, got, tt.want)
		}
	}
}
