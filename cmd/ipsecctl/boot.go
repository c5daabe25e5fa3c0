package main

import (
	"errors"
	"fmt"

	"ipsecagent/agent/control"
	"ipsecagent/driver/nft"
	"ipsecagent/driver/user"
)

// orBoot says beside the error that no agent answers what holds in its stead.
func orBoot(err error) error {
	var coded *control.Error
	if !errors.As(err, &coded) || coded.Code != control.NotReachable {
		return err
	}
	words := bootLine()
	if words == "" {
		words = policyLeft()
	}
	if words == "" {
		return err
	}
	return &control.Error{Code: coded.Code, Message: coded.Message + "\n" + words}
}

// bootLine says which boot filters hold; "": none, or the caller may not know.
func bootLine() string {
	b, err := nft.Boot(user.DefaultTable)
	if err != nil || b.Mode == "" {
		return ""
	}
	return fmt.Sprintf("until a policy is in force, the boot filters (%s) hold, which have dropped %d packets out, %d in and %d forwarded; to end them: ipsecagent boot --clear",
		b.Mode, b.Out, b.In, b.Forwarded)
}

// policyLeft says whether an agent has left filters in force; "": the caller may
// not know.
func policyLeft() string {
	in, err := nft.Enforces(user.DefaultTable)
	switch {
	case err != nil:
		return ""
	case in:
		return "what an agent has put in force before stays as it is, and nothing new is negotiated: ipsecctl doctor says more"
	}
	return "no policy is in force on this host: all traffic passes in clear"
}
