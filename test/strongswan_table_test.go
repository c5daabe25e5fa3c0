package test

// combinations is the table of what is negotiated with strongSwan, each row in
// both roles.
func combinations() []combination {
	psk := func(name, ike, child, main, method, pfs string) combination {
		return combination{name: "psk/" + name, auth: "psk", ike: ike, child: child, main: main, method: method, pfs: pfs}
	}
	v6 := func(c combination) combination {
		c.name, c.v6 = c.name+"/v6", true
		return c
	}
	return []combination{
		psk("aes256gcm", "aes256-sha256-ecp256", "aes256gcm16", "aes256-sha256-ecp256", "esp-aes256gcm", ""),
		psk("aes128gcm-pfs-ecp256", "aes128-sha256-ecp256", "aes128gcm16-ecp256", "aes128-sha256-ecp256", "esp-aes128gcm", "ecp256"),
		psk("aes128-sha1", "aes128-sha1-modp2048", "aes128-sha1", "aes128-sha1-modp2048", "esp-aes128-sha1", ""),
		psk("aes256-sha256-pfs-modp2048", "aes256-sha256-modp2048", "aes256-sha256-modp2048", "aes256-sha256-modp2048", "esp-aes256-sha256", "modp2048"),
		psk("3des-sha1", "3des-sha1-modp1024", "3des-sha1", "3des-sha1-modp1024", "esp-3des-sha1", ""),
		psk("null-sha256", "aes256-sha384-ecp384", "null-sha256", "aes256-sha384-ecp384", "esp-null-sha256", ""),
		v6(psk("aes256gcm-pfs-ecp256", "aes256-sha256-ecp256", "aes256gcm16-ecp256", "aes256-sha256-ecp256", "esp-aes256gcm", "ecp256")),
		v6(psk("aes128-sha256", "aes128-sha256-modp2048", "aes128-sha256", "aes128-sha256-modp2048", "esp-aes128-sha256", "")),
	}
}

// notRun names what strongSwan is not met with, and why.
func notRun() []string {
	return []string{
		"AH and ESP together: strongSwan 5.9.8 proposes one protocol for each child",
		"ESN: strongSwan 5.9.8 negotiates it in IKEv2 only",
	}
}
