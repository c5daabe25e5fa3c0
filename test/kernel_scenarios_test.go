//go:build esp

package test

import (
	"fmt"
	"os"
	"testing"
)

// behaviour is a test of the whole system that does not care who carries the
// associations.
type behaviour struct {
	name string
	run  func(t *testing.T)
}

// everyday run each time; withFullFigures with the full figures only.
func everyday() []behaviour {
	return []behaviour{
		{"first contact", TestFirstContact},
		{"request goes in clear and stays secured once secured", TestRequestGoesInClearAndStaysSecuredOnceSecured},
		{"assignment survives a restart", TestAssignmentSurvivesARestart},
		{"rekey under traffic loses nothing", func(t *testing.T) { rekeyUnderTraffic(t, "krky", transfers{1, 6}) }},
		leakBehaviour("agent killed"),
		leakBehaviour("nft flush ruleset"),
	}
}

// withFullFigures has the rest of what runs on the userspace driver, but for what
// is the same code beside either driver: peers and floods that are hostile to IKE,
// ways by which a policy comes, and demos. TestExplainAgreesWithPackets sends by raw
// sockets, whose packets have no ports for XFRM (where ports decide, they are
// dropped): it cannot tell.
func withFullFigures() []behaviour {
	all := []behaviour{
		{"wrong key says so and blocks", TestWrongKeySaysSoAndBlocks},
		{"no common proposal says what differs", TestNoCommonProposalSaysWhatDiffers},
		{"permitted traffic of a secured peer passes", TestPermittedTrafficOfASecuredPeerPasses},
		{"peer that is gone", TestPeerThatIsGone},
		{"two hosts with a translator between", TestTwoHostsWithATranslatorBetween},
		{"forwarded traffic is not laundered into my address", TestForwardedTrafficIsNotLaunderedIntoMyAddress},
		{"Kerberos needs no secret by hand", TestKerberosNeedsNoSecretByHand},
		{"default response answers by certificates", TestDefaultResponseAnswersByCertificates},
		{"the bank's server refuses another authority", TestBankServerRefusesAnotherAuthority},
		{"the bank's client is secured on the port asked only", TestBankClientIsSecuredOnThePortAskedOnly},
		{"the bank's server of Windows 2000", TestBankServerOfWindows2000},
		{"boot modes", TestBootModes},
		{"nothing leaves while the policy takes over", TestNothingLeavesWhileThePolicyTakesOver},
		{"an invalid policy keeps the last good one", TestInvalidPolicyKeepsTheLastGoodOne},
		{"refuses to start without what it needs", TestRefusesToStartWithoutWhatItNeeds},
		{"killed agents leak and lose nothing", func(t *testing.T) { killedAgents(t, "kkill", kernelKills()) }},
	}
	for _, c := range leakCases() {
		if c.name != "agent killed" && c.name != "nft flush ruleset" {
			all = append(all, leakBehaviour(c.name))
		}
	}
	return all
}

// kernelKills is how often a whole agent is killed on the kernel driver. In an
// emulated machine 200 times would take hours: there TestKernelKilled of driver/xfrm
// kills so often what drives the kernel alone.
func kernelKills() int {
	if os.Getenv(machineEnv) != "" {
		return batch
	}
	return 200
}

// leakBehaviour is one of leakCases.
func leakBehaviour(name string) behaviour {
	for i, c := range leakCases() {
		if c.name == name {
			return behaviour{"nothing leaks: " + name, func(t *testing.T) { nothingLeaks(t, fmt.Sprintf("klk%d", i), c) }}
		}
	}
	return behaviour{name, func(t *testing.T) { t.Fatal("there is no such case") }}
}

// TestKernelDriver runs on the kernel driver what runs on the userspace driver.
func TestKernelDriver(t *testing.T) {
	t.Setenv(driverEnv, byKernel)
	all := everyday()
	if full() {
		all = append(all, withFullFigures()...)
	}
	for _, s := range all {
		t.Run(s.name, s.run)
	}
}
