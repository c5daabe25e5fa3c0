package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"ipsecagent/agent"
	"ipsecagent/agent/control"
	"ipsecagent/auth"
	"ipsecagent/host"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
)

// openDirectory makes the source of policy from a directory; nil: the settings
// name none.
func openDirectory(s *settings, i *identities) (*directory.Source, error) {
	d := &s.Directory
	if !d.Used() {
		return nil, nil
	}
	c, err := directoryConfig(s, i)
	if err != nil {
		return nil, err
	}
	return directory.NewSource(directory.SourceConfig{Config: c, Refresh: d.Refresh, Jitter: d.RefreshJitter, NoWatch: !d.Watch})
}

// directoryConfig is how to reach the directory: by connections that the policy
// does not touch, with what this host proves itself by.
func directoryConfig(s *settings, i *identities) (directory.Config, error) {
	c, err := s.Directory.Config()
	if err != nil {
		return c, fmt.Errorf("settings: %w", err)
	}
	dialer := s.dialer()
	c.Dial, c.Resolver, c.AllowRC4 = dialer.DialContext, dialer.Resolver, s.Kerberos.AllowRC4
	if c.BindDN == "" {
		c.Tickets = i.kerberos.Ticket
	}
	if c.Kind == directory.ActiveDirectory && c.Domain == "" {
		c.Domain, err = realmOf(i)
	}
	return c, err
}

// checkDirectory reads the files that the settings of the directory name.
func checkDirectory(s *settings) error {
	if !s.Directory.Used() {
		return nil
	}
	_, err := s.Directory.Config()
	return err
}

// realmOf returns the domain that this host's key table is of.
func realmOf(i *identities) (string, error) {
	self, err := i.kerberos.Identity()
	if err != nil {
		return "", fmt.Errorf("settings: directory.domain is not set, and this host has no key table that would say: %w", err)
	}
	_, realm, _ := strings.Cut(string(self), "@")
	return strings.ToLower(realm), nil
}

// refreshWithin bounds how long a reload waits for the directory.
const refreshWithin = 20 * time.Second

// refreshDirectory asks the directory now.
func refreshDirectory(ctx context.Context, source *directory.Source) (warnings []string) {
	if source == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, refreshWithin)
	defer cancel()
	if err := source.Refresh(ctx); err != nil {
		return []string{"the directory is still being asked: ipsecctl status says what it has said"}
	}
	return nil
}

// directoryStatus puts what a source knows into the words of the status.
func directoryStatus(source *directory.Source) control.DirectoryStatus {
	now := source.Status()
	problem := func() string { return hinted(now.Err) + "; what the directory said last stays in force" }
	s := control.DirectoryStatus{State: control.DirectoryFresh, Server: now.Server, Site: now.Site, Since: now.Since, Confirmed: now.Confirmed, Next: now.Next}
	switch {
	case errors.Is(now.Err, directory.ErrPending):
		s.State = control.DirectoryPending
	case errors.Is(now.Err, directory.ErrUnreadable), errors.Is(now.Err, directory.ErrChanging):
		s.State, s.Problem = control.DirectoryUnreadable, problem()
	case now.Err != nil:
		s.State, s.Problem = control.DirectoryUnreachable, problem()
	}
	if now.Deaf != nil {
		s.Warnings = []string{fmt.Sprintf("%s does not tell of changes (%v): they are found when it is asked next", now.Server, now.Deaf)}
	}
	if now.Answer == nil || now.Answer.State != policy.Assigned {
		return s
	}
	s.Warnings = append(s.Warnings, now.Answer.Warnings...)
	s.Assigned, s.Origin = now.Answer.Policy.Name, now.Answer.Origin()
	if w := now.Answer.Result.Won(); w != nil {
		s.GPO, s.Link = cmp.Or(w.Name, w.GPO), w.At
	}
	return s
}

// hinted says an error with what to do about it, where authentication failed.
func hinted(err error) string {
	var e *auth.Error
	if errors.As(err, &e) && e.Hint != "" {
		return err.Error() + "; " + e.Hint
	}
	return err.Error()
}

// directoryExempt lists the connections to the directory that the policy does
// not touch.
func directoryExempt(source *directory.Source) string {
	where := "the servers of the settings, or that DNS names"
	if now := source.Status(); now.Server != "" {
		where = now.Server
	}
	return fmt.Sprintf("LDAP: the agent's own connections to %s and their answers", where)
}

// withDirectory gives the agent the directory, if there is one.
func (w *wiring) withDirectory(c agent.Config) agent.Config {
	source := w.directory
	if source == nil {
		return c
	}
	c.Directory = source
	c.DirectoryStatus = func() control.DirectoryStatus { return directoryStatus(source) }
	c.Exempt = func() []string { return append(w.identities.exempted(), directoryExempt(source)) }
	return c
}

// runDirectory asks the directory until ctx ends.
func (w *wiring) runDirectory(ctx context.Context) error {
	if w.directory == nil {
		<-ctx.Done()
		return nil
	}
	return together(ctx, w.directory.Run, w.watchDirectory)
}

// watchDirectory asks a directory that is away again when it may be in reach now:
// the addresses of this host or its key table have changed. Until ctx ends.
func (w *wiring) watchDirectory(ctx context.Context) error {
	changed, err := host.Watch(ctx)
	if err != nil {
		w.log.Warn("changes of addresses are not watched; 'ipsecctl reload' asks the directory", "error", err.Error())
	}
	look := time.NewTicker(kerberosEvery)
	defer look.Stop()
	keytab := modified(w.settings.Kerberos.Keytab)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case _, more := <-changed:
			if !more {
				changed = nil
				continue
			}
			sleep(ctx, addressesSettle)
		case <-look.C:
			now := modified(w.settings.Kerberos.Keytab)
			if now.Equal(keytab) {
				continue
			}
			keytab = now
		}
		if w.directory.Status().Err != nil {
			_ = w.directory.Refresh(ctx) // it ends with ctx alone
		}
	}
	return nil
}

// modified returns when a file was last written; zero: it is not there.
func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// addressesSettle is how long after a change of addresses a route may be there.
const addressesSettle = 2 * time.Second
