package auth

import "testing"

// TestWhatAProofSatisfies: what a stronger rule asks for is not satisfied by
// what a weaker one was content with, nor the other way round where the weaker
// one asks for something else.
func TestWhatAProofSatisfies(t *testing.T) {
	listed := func(m Method, names ...string) Requirement {
		return Requirement{Method: m, CA: map[Method]string{RSA: "CN=Root"}[m], AcceptPrincipals: names}
	}
	rule := func(mapped bool, names ...string) Requirement {
		r := listed(RSA, names...)
		r.MapToAccount = mapped
		return r
	}
	subject := Proof{Method: RSA, Principal: "CN=a", CA: "CN=Root"}
	account := Proof{Method: RSA, Principal: "a$@R", CA: "CN=Root", Mapped: true}
	both := account
	both.Subject = "CN=a"
	computer, person := Proof{Method: Kerberos, Principal: "host/a@R"}, Proof{Method: Kerberos, Principal: "alice@F", Listed: true}
	meant, named := Proof{Method: PSK, Principal: "psk:a"}, Proof{Method: PSK, Principal: "psk:a", Named: true}
	cases := []struct {
		name  string
		proof Proof
		rule  Requirement
		want  bool
	}{
		{"a subject where any of the authority will do", subject, rule(false), true},
		{"a subject where an account is wanted", subject, rule(true), false},
		{"a subject that is listed as an account", subject, rule(true, "CN=a"), false},
		{"a subject that is listed", subject, rule(false, "CN=b", "CN=a"), true},
		{"an account", account, rule(true), true},
		{"an account that is listed", account, rule(true, "a$@R"), true},
		{"an account that is not listed", account, rule(true, "b$@R"), false},
		{"an account where any of the authority will do", account, rule(false), true},
		{"an account listed as a subject", account, rule(false, "a$@R"), false},
		{"an account of an unknown subject", account, rule(false, ""), false},
		{"an account of a subject that is listed", both, rule(false, "CN=a"), true},
		{"a subject listed as an account", both, rule(true, "CN=a"), false},
		{"another authority", subject, Requirement{Method: RSA, CA: "CN=Other"}, false},
		{"another method", subject, Requirement{Method: ECDSA256, CA: "CN=Root"}, false},
		{"a computer", computer, listed(Kerberos), true},
		{"a computer that is listed", computer, listed(Kerberos, "host/a@R"), true},
		{"a person that another rule lists", person, listed(Kerberos), false},
		{"a person that is listed", person, listed(Kerberos, "alice@F"), true},
		{"the key meant for the peer", meant, Requirement{Method: PSK}, true},
		{"the key meant for the peer, by name", meant, Requirement{Method: PSK, Key: "a"}, true},
		{"a key of another rule", named, Requirement{Method: PSK}, false},
		{"a key by name", named, Requirement{Method: PSK, Key: "a"}, true},
		{"another key by name", named, Requirement{Method: PSK, Key: "b"}, false},
		{"nothing", Proof{}, Requirement{Method: PSK}, false},
	}
	for _, c := range cases {
		if got := c.proof.Satisfies(c.rule); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if err := c.proof.Welcome([]Requirement{{Method: 99}, c.rule}); (err == nil) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
