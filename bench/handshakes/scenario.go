package main

import (
	"fmt"

	"ipsecagent/auth"
)

// scenario is one kind of handshake, in strongSwan's words and in ours.
type scenario struct {
	name     string
	method   auth.Method
	ike, esp string // strongSwan
	main, qm string // ours
}

func scenarios() []scenario {
	const ike, esp, main, qm = "aes256-sha256-ecp256", "aes256gcm16", "aes256-sha256-ecp256", "esp-aes256gcm"
	return []scenario{
		{"psk", auth.PSK, ike, esp, main, qm},
		{"ecdsa", auth.ECDSA256, ike, esp, main, qm},
		{"rsa", auth.RSA, ike, esp, main, qm},
	}
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

func findScenario(name string) (scenario, error) {
	for _, s := range scenarios() {
		if s.name == name {
			return s, nil
		}
	}
	return scenario{}, fmt.Errorf("no authentication %q; there are %v", name, scenarioNames())
}
