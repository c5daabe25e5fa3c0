package main

import (
	"context"
	"errors"
	"time"

	"ipsecagent/agent/control"
	"ipsecagent/agent/doctor"
	"ipsecagent/policy"
	"ipsecagent/policy/directory"
)

const directoryName = "directory"

// doctorWithin bounds the doctor's look at the directory.
const doctorWithin = 30 * time.Second

// directory asks the directory what it assigns, as the agent does.
func (p *patient) directory(ctx context.Context) []control.Check {
	if !p.settings.Directory.Used() {
		return []control.Check{doctor.Fine(directoryName, "none is configured: policies come from this host")}
	}
	ctx, cancel := context.WithTimeout(ctx, doctorWithin)
	defer cancel()
	answer, server, err := askDirectory(ctx, p.settings)
	switch {
	case errors.Is(err, directory.ErrUnreadable):
		return []control.Check{doctor.Problem(directoryName, "give the computers the right to read what is named, or repair it", "%s: %v", server, err)}
	case err != nil:
		return []control.Check{doctor.Problem(directoryName, "see whether name servers, KDC and LDAP port are in reach, the clock is right and the key table is current; what the directory said last stays in force", "%s", hinted(err))}
	case answer.State != policy.Assigned:
		return []control.Check{doctor.Fine(directoryName, "%s answers and assigns no policy", server)}
	}
	found := []control.Check{doctor.Fine(directoryName, "%s answers and assigns %q by %s", server, answer.Policy.Name, answer.Origin())}
	for _, w := range answer.Warnings {
		found = append(found, doctor.Warning(directoryName, "correct it in the directory", "%s", w))
	}
	return found
}

// askDirectory connects and reads once.
func askDirectory(ctx context.Context, s *settings) (answer *directory.Answer, server string, err error) {
	i, _, err := openIdentities(s, newKeys(s), "")
	if err != nil {
		return nil, "", err
	}
	defer i.kerberos.Close()
	c, err := directoryConfig(s, i)
	if err != nil {
		return nil, "", err
	}
	session, err := directory.Connect(ctx, c)
	if err != nil {
		return nil, "", err
	}
	defer session.Close()
	answer, err = session.Fetch(ctx)
	return answer, session.Server(), err
}
