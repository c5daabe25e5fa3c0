package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ipsecagent/agent/control"
	"ipsecagent/driver/nft"
)

func (p *program) bootCommand(config *string) *cobra.Command {
	var clear, show bool
	c := &cobra.Command{
		Use:   "boot",
		Short: "Protect the host until the first policy is in force; for service managers",
		Long: `boot puts the boot filters in force, by the settings under boot: what passes from
the start of the host until the agent has put a policy in force, which takes
their place. They stay if the agent never does. Where a policy is in force
already nothing is changed.

With --clear it takes them out of force. With --show it says whether they are.`,
		Example: `  ipsecagent boot
  ipsecagent boot --show
  ipsecagent boot --clear`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := givenSettings(cmd.Flags(), *config)
			switch {
			case show:
				return p.showBoot(&s)
			case clear:
				return p.clearBoot(cmd.Context(), &s)
			case err != nil:
				s = p.bootWithout(&s, err)
			}
			return p.boot(cmd.Context(), &s)
		},
	}
	c.Flags().BoolVar(&clear, "clear", false, "take the boot filters out of force")
	c.Flags().BoolVar(&show, "show", false, "say whether boot filters are in force, and what they have dropped")
	c.MarkFlagsMutuallyExclusive("clear", "show")
	return c
}

// bootWithout returns settings for a start at which the settings do not load: a
// mistake in a file must not open the host.
func (p *program) bootWithout(broken *settings, err error) settings {
	fmt.Fprintln(p.err, "ipsecagent: the settings do not load; the boot filters follow what they say of boot, or else those of the last policy in force:\n"+lines(err))
	s := defaults()
	if filepath.IsAbs(broken.StateDir) {
		s.StateDir = broken.StateDir
	}
	if filepath.IsAbs(broken.RunDir) {
		s.RunDir = broken.RunDir
	}
	s.Boot = broken.Boot.orElse(s.recall())
	return s
}

// boot puts the boot filters in force that settings and memory ask for.
func (p *program) boot(ctx context.Context, s *settings) error {
	if err := needCapabilities(); err != nil {
		return err
	}
	if err := errors.Join(needNFT(), harden()); err != nil {
		return err
	}
	in, err := nft.Enforces(s.DataPath.Table)
	if err != nil {
		return err
	}
	if in {
		fmt.Fprintln(p.out, "A policy's filters are in force: no boot filters are needed, nothing was changed.")
		return nil
	}
	mode, why := s.Boot.bootMode(s.recall())
	if mode == bootPermit {
		fmt.Fprintf(p.out, "Boot mode permit (%s): all traffic passes until a policy is in force; nothing was changed.\n", why)
		return nil
	}
	if err := p.putBoot(ctx, s, nft.BootMode(mode)); err != nil {
		return fmt.Errorf("the boot filters are NOT in force, traffic passes until a policy is: %w", err)
	}
	fmt.Fprintf(p.out, "Boot mode %s (%s): the boot filters are in force until a policy is. To end them: ipsecagent boot --clear\n", mode, why)
	return nil
}

// putBoot puts the boot filters in force and leaves a holder, which keeps
// others from removing them and, before kernel 6.9, the kernel too.
func (p *program) putBoot(_ context.Context, s *settings, mode nft.BootMode) error {
	exemptions, err := s.Boot.exemptions()
	if err != nil {
		return err
	}
	at := s.atBoot()
	if err := os.MkdirAll(at.RunDir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the holder's socket: %w", err)
	}
	socket := newLease(&at, slog.New(slog.DiscardHandler), p.err)
	defer socket.close()
	return nft.PutBoot(nft.BootConfig{Table: s.DataPath.Table, Exempt: s.DataPath.ExemptMark, Mode: mode,
		Exemptions: exemptions, Socket: socket.take})
}

// atBoot is the settings with the run folder of the boot filters, whose holder
// is not the one of the policy's table.
func (s *settings) atBoot() settings {
	at := *s
	at.RunDir = filepath.Join(s.RunDir, "boot")
	return at
}

// endBoot takes the boot filters out of force and ends their holder. was is what
// they were; its mode is "" where there were none.
func (s *settings) endBoot(ctx context.Context) (was nft.BootState, err error) {
	at := s.atBoot()
	var take func() (int, error)
	if _, err := control.Listener(ctx, at.holderSocket()); err == nil {
		socket := newLease(&at, slog.New(slog.DiscardHandler), nil)
		defer socket.close()
		take = socket.take
	} else if !notRunning(err) {
		return was, err
	}
	if was, err = nft.Boot(s.DataPath.Table); err != nil {
		return was, err
	}
	if _, err := nft.ClearBoot(s.DataPath.Table, take); err != nil {
		return was, err
	}
	_, err = endListener(ctx, at.holderSocket(), "the holder of the boot filters")
	return was, err
}

func (p *program) clearBoot(ctx context.Context, s *settings) error {
	if err := needCapabilities(); err != nil {
		return err
	}
	was, err := s.endBoot(ctx)
	if err != nil {
		return err
	}
	if was.Mode == "" {
		fmt.Fprintln(p.out, "No boot filters are in force in this network namespace: nothing was changed.")
		return nil
	}
	fmt.Fprintf(p.out, "The boot filters are out of force. They were of mode %s.\n", bootWords(was))
	return p.warnUnprotected(s)
}

// warnUnprotected says so where no policy is in force either.
func (p *program) warnUnprotected(s *settings) error {
	in, err := nft.Enforces(s.DataPath.Table)
	if err == nil && !in {
		fmt.Fprintln(p.out, "TRAFFIC IS NOT PROTECTED until a policy is in force: systemctl start ipsecagent; ipsecctl status")
	}
	return err
}

func (p *program) showBoot(s *settings) error {
	now, err := nft.Boot(s.DataPath.Table)
	if err != nil {
		return err
	}
	if now.Mode != "" {
		fmt.Fprintf(p.out, "In force now: boot filters of mode %s.\n", bootWords(now))
	} else {
		fmt.Fprintln(p.out, "In force now: no boot filters.")
	}
	mode, why := s.Boot.bootMode(s.recall())
	fmt.Fprintf(p.out, "At the next start: %s (%s).\n", mode, why)
	return nil
}

// bootWords describes boot filters.
func bootWords(b nft.BootState) string {
	return fmt.Sprintf("%s, which have dropped %d packets out, %d in and %d forwarded", b.Mode, b.Out, b.In, b.Forwarded)
}
