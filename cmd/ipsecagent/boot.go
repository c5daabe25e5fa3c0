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

With --clear it takes them out of force. With --show it says whether they are, and
what the next start of the host would put in force.`,
		Example: `  ipsecagent boot
  ipsecagent boot --show
  ipsecagent boot --clear`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if clear && show {
				return misuse{errors.New("boot: --clear changes what --show only looks at: give one of them")}
			}
			s, err := givenSettings(cmd.Flags(), *config)
			start := startOf(s, *config, err)
			if err != nil {
				fmt.Fprintln(p.err, "ipsecagent: the settings do not load:\n"+lines(err))
			}
			switch {
			case show:
				return p.showBoot(&start, err)
			case clear:
				return p.clearBoot(cmd.Context(), &start.settings)
			}
			return p.boot(cmd.Context(), &start)
		},
	}
	c.Flags().BoolVar(&clear, "clear", false, "take the boot filters out of force")
	c.Flags().BoolVar(&show, "show", false, "say whether boot filters are in force, what they have dropped, and what the next start would do")
	return c
}

// boot puts the boot filters in force that settings and memory ask for. It opens
// nothing that is closed.
func (p *program) boot(ctx context.Context, start *bootStart) error {
	if err := needCapabilities(); err != nil {
		return err
	}
	if err := errors.Join(needNFT(), harden()); err != nil {
		return err
	}
	table := start.settings.DataPath.Table
	in, err := nft.Enforces(table)
	if err != nil {
		return err
	}
	now, err := nft.Boot(table)
	if err != nil {
		return err
	}
	switch {
	case in:
		fmt.Fprintln(p.out, "A policy's filters are in force: no boot filters are needed, nothing was changed."+staying(now))
		return nil
	case start.mode == bootPermit && now.Mode == "":
		fmt.Fprintf(p.out, "Boot mode permit (%s): all traffic passes until a policy is in force; nothing was changed.\n", start.why)
		return nil
	case start.mode == bootPermit:
		fmt.Fprintf(p.out, "Boot mode permit (%s): nothing was changed.%s\n", start.why, staying(now))
		return nil
	}
	if err := p.putBoot(ctx, &start.settings, nft.BootMode(start.mode)); err != nil {
		return fmt.Errorf("%s: %w", notPut(now), err)
	}
	fmt.Fprintf(p.out, "Boot mode %s (%s): the boot filters are in force until a policy is. To end them: ipsecagent boot --clear\n", start.mode, start.why)
	return nil
}

// staying says that boot filters that are in force stay; "": there are none.
func staying(now nft.BootState) string {
	if now.Mode == "" {
		return ""
	}
	return fmt.Sprintf(" Boot filters of mode %s are in force and stay; to end them: ipsecagent boot --clear", now.Mode)
}

// notPut says what holds where boot filters could not be put in force.
func notPut(now nft.BootState) string {
	if now.Mode == "" {
		return "the boot filters are NOT in force, traffic passes until a policy is"
	}
	return fmt.Sprintf("the boot filters could not be changed, those of mode %s stay in force", now.Mode)
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

// showBoot says the same of the next start as the start will: errSettings is why
// the settings do not load.
func (p *program) showBoot(start *bootStart, errSettings error) error {
	now, err := nft.Boot(start.settings.DataPath.Table)
	if err != nil {
		return err
	}
	in, err := nft.Enforces(start.settings.DataPath.Table)
	if err != nil {
		return err
	}
	if now.Mode != "" {
		fmt.Fprintf(p.out, "In force now: boot filters of mode %s.\n", bootWords(now))
	} else {
		fmt.Fprintln(p.out, "In force now: no boot filters.")
	}
	if in {
		fmt.Fprintln(p.out, "A policy's filters are in force.")
	}
	fmt.Fprintf(p.out, "At the next start: %s (%s).\n", start.mode, start.why)
	if errSettings != nil {
		return invalid{errors.New("correct the settings: ipsecagent --check")}
	}
	return nil
}

// bootWords describes boot filters.
func bootWords(b nft.BootState) string {
	return fmt.Sprintf("%s, which have dropped %d packets out, %d in and %d forwarded", b.Mode, b.Out, b.In, b.Forwarded)
}
