package test

import "slices"

// combinations is the table of what is negotiated with strongSwan, each row in
// both roles.
func combinations() []combination {
	return slices.Concat(presharedRows(), certificateRows(), tunnelRows(), headerRows(), oldRows())
}

// row is a combination in transport mode over IPv4.
func row(auth, name, ike, child, method, pfs string) combination {
	return combination{name: auth + "/" + name, auth: auth, ike: ike, main: ike, child: child, method: method, pfs: pfs}
}

func overIPv6(c combination) combination {
	c.name, c.v6 = c.name+"/v6", true
	return c
}

func inTunnel(c combination) combination {
	c.name, c.tunnel = c.name+"/tunnel", true
	return c
}

func byHeader(c combination) combination {
	c.ah = true
	return c
}

func presharedRows() []combination {
	return []combination{
		row("psk", "aes256gcm", "aes256-sha256-ecp256", "aes256gcm16", "esp-aes256gcm", ""),
		row("psk", "aes128gcm-pfs-ecp256", "aes128-sha256-ecp256", "aes128gcm16-ecp256", "esp-aes128gcm", "ecp256"),
		row("psk", "aes128-sha1", "aes128-sha1-modp2048", "aes128-sha1", "esp-aes128-sha1", ""),
		row("psk", "aes256-sha256-pfs-modp2048", "aes256-sha256-modp2048", "aes256-sha256-modp2048", "esp-aes256-sha256", "modp2048"),
		row("psk", "3des-sha1", "3des-sha1-modp1024", "3des-sha1", "esp-3des-sha1", ""),
		row("psk", "null-sha256", "aes256-sha384-ecp384", "null-sha256", "esp-null-sha256", ""),
		overIPv6(row("psk", "aes256gcm-pfs-ecp256", "aes256-sha256-ecp256", "aes256gcm16-ecp256", "esp-aes256gcm", "ecp256")),
		overIPv6(row("psk", "aes128-sha256", "aes128-sha256-modp2048", "aes128-sha256", "esp-aes128-sha256", "")),
	}
}

func certificateRows() []combination {
	return []combination{
		row("rsa", "aes256gcm", "aes256-sha256-ecp256", "aes256gcm16", "esp-aes256gcm", ""),
		row("rsa", "3des-sha1-pfs-modp2048", "3des-sha1-modp2048", "3des-sha1-modp2048", "esp-3des-sha1", "modp2048"),
		overIPv6(row("rsa", "aes128-sha256-pfs-ecp256", "aes128-sha256-modp2048", "aes128-sha256-ecp256", "esp-aes128-sha256", "ecp256")),
		row("ecdsa256", "aes128gcm-pfs-ecp256", "aes128-sha256-ecp256", "aes128gcm16-ecp256", "esp-aes128gcm", "ecp256"),
		overIPv6(row("ecdsa256", "aes256-sha256", "aes256-sha256-ecp256", "aes256-sha256", "esp-aes256-sha256", "")),
		row("ecdsa384", "aes256gcm-pfs-ecp384", "aes256-sha384-ecp384", "aes256gcm16-ecp384", "esp-aes256gcm", "ecp384"),
		row("ecdsa521", "aes256gcm-pfs-ecp521", "aes256-sha512-ecp521", "aes256gcm16-ecp521", "esp-aes256gcm", "ecp521"),
	}
}

func tunnelRows() []combination {
	return []combination{
		inTunnel(row("psk", "aes256gcm", "aes256-sha256-ecp256", "aes256gcm16", "esp-aes256gcm", "")),
		inTunnel(row("psk", "aes128-sha1-pfs-modp2048", "aes128-sha1-modp2048", "aes128-sha1-modp2048", "esp-aes128-sha1", "modp2048")),
		inTunnel(overIPv6(row("psk", "aes128gcm", "aes128-sha256-ecp256", "aes128gcm16", "esp-aes128gcm", ""))),
		inTunnel(row("rsa", "aes256gcm-pfs-ecp256", "aes256-sha256-ecp256", "aes256gcm16-ecp256", "esp-aes256gcm", "ecp256")),
		inTunnel(row("ecdsa256", "aes256-sha256", "aes256-sha256-ecp256", "aes256-sha256", "esp-aes256-sha256", "")),
	}
}

func headerRows() []combination {
	return []combination{
		byHeader(row("psk", "ah-sha256", "aes256-sha256-ecp256", "sha256", "ah-sha256", "")),
		byHeader(overIPv6(row("psk", "ah-sha1-pfs-ecp256", "aes128-sha1-ecp256", "sha1-ecp256", "ah-sha1", "ecp256"))),
		byHeader(inTunnel(row("psk", "ah-sha256", "aes256-sha256-ecp256", "sha256", "ah-sha256", ""))),
		byHeader(row("rsa", "ah-sha1", "aes256-sha1-modp2048", "sha1", "ah-sha1", "")),
	}
}

// oldRows are the algorithms of Windows 2000, and others that are rare.
func oldRows() []combination {
	return []combination{
		row("psk", "des-md5", "des-md5-modp768", "des-md5", "esp-des-md5", ""),
		row("psk", "3des-md5-pfs-modp1024", "3des-md5-modp1024", "3des-md5-modp1024", "esp-3des-md5", "modp1024"),
		row("rsa", "des-sha1", "3des-sha1-modp1024", "des-sha1", "esp-des-sha1", ""),
		row("psk", "aes256-sha384", "aes256-sha512-ecp521", "aes256-sha384", "esp-aes256-sha384", ""),
		overIPv6(row("psk", "aes256-sha512", "aes192-sha256-modp3072", "aes256-sha512", "esp-aes256-sha512", "")),
	}
}

// notRun names what strongSwan is not met with, and why.
func notRun() []string {
	return []string{
		"AH and ESP together: strongSwan 5.9.8 proposes one protocol for each child",
		"ESN: strongSwan 5.9.8 negotiates it in IKEv2 only",
	}
}
