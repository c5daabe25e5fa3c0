package gpipsec

import (
	"reflect"
	"strings"
	"testing"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// A field that the model gains must be carried by this package, and then stands
// here, or be refused or warned of.
func TestEveryFieldOfTheModelIsKnown(t *testing.T) {
	for typ, want := range map[reflect.Type]string{
		reflect.TypeFor[policy.Policy]():          "GUID Name Description PollingInterval KeyExchange FilterLists FilterActions Rules DefaultResponse Tests Mode ReportUntil Uplift",
		reflect.TypeFor[policy.KeyExchange]():     "GUID Identity Methods Lifetime Sessions MasterKeyPFS",
		reflect.TypeFor[policy.FilterList]():      "GUID Name Description Filters",
		reflect.TypeFor[policy.Filter]():          "GUID Description From To Protocol FromPorts ToPorts ICMPType ICMPCode Mirrored",
		reflect.TypeFor[policy.Endpoint]():        "Kind Addrs Name",
		reflect.TypeFor[policy.FilterAction]():    "GUID Name Description Kind Methods AcceptUnsecured AllowClear ClearDelay SessionKeyPFS PFSGroup",
		reflect.TypeFor[policy.SecurityMethod]():  "Suites Lifetime Bytes",
		reflect.TypeFor[policy.AuthMethod]():      "Kind CA Key AcceptPrincipals ExcludeCAName MapToAccount",
		reflect.TypeFor[policy.Rule]():            "GUID Name Description Disabled FilterList FilterAction Authentication Tunnel Connections Mode ReportUntil",
		reflect.TypeFor[policy.TunnelSetting]():   "Endpoint Name",
		reflect.TypeFor[policy.DefaultResponse](): "GUID ActionGUID Active Methods Authentication SessionKeyPFS PFSGroup",
		reflect.TypeFor[policy.Test]():            "Flow Expect",
		reflect.TypeFor[policy.Store]():           "Policies FilterLists FilterActions Assigned",
		reflect.TypeFor[sadb.Ports]():             "From To",
		reflect.TypeFor[sadb.Octets]():            "From To Set",
	} {
		var names []string
		for i := range typ.NumField() {
			names = append(names, typ.Field(i).Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%v has the fields\n%s, not\n%s", typ, got, want)
		}
	}
}

func TestReportModeIsWarnedOf(t *testing.T) {
	p := *policy.Server()
	p.Mode, p.Rules[1].Mode = policy.ReportOnly, policy.ReportOnly
	objects, warnings, err := Encode(policy.Store{Policies: []policy.Policy{p}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, w := range warnings {
		if strings.Contains(w.Message, "report mode is not written") {
			told++
		}
	}
	if told != 2 {
		t.Error(warnings)
	}
	if back := Decode(objects).Store.Policies[0]; back.Mode != policy.Unsaid || back.Rules[1].Mode != policy.Unsaid {
		t.Error("report mode is read")
	}
}
