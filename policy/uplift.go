package policy

import (
	"slices"

	"ipsecagent/sadb"
)

// Uplift puts modern methods before old ones of the same class, so that two hosts
// that both can do better under a policy of Windows do. The order between classes,
// lifetimes, PFS and mode stay as listed, and what is listed is still offered and
// accepted. The offer is covered by the authentication; nothing else decides.

func (p *Policy) uplifts(h Host) bool { return p.Uplift && !h.NoUplift }

// class is what a security method does, whatever its algorithms.
type class struct {
	ah, esp, encrypts bool
}

func classOf(suites []sadb.Suite) class {
	var c class
	for _, s := range suites {
		c.ah = c.ah || s.Proto == sadb.AH
		c.esp = c.esp || s.Proto == sadb.ESP
		c.encrypts = c.encrypts || s.Encrypts()
	}
	return c
}

// modern returns the modern methods of a class, the best first.
func (c class) modern() [][]sadb.Suite {
	ah := sadb.Suite{Proto: sadb.AH, Integrity: sadb.HMACSHA256}
	null := sadb.Suite{Proto: sadb.ESP, Encryption: sadb.Null, Integrity: sadb.HMACSHA256}
	switch {
	case !c.esp:
		return [][]sadb.Suite{{ah}}
	case !c.encrypts && c.ah:
		return [][]sadb.Suite{{ah, null}}
	case !c.encrypts:
		return [][]sadb.Suite{{null}}
	}
	var all [][]sadb.Suite
	for _, m := range modernMethods() {
		if c.ah {
			all = append(all, []sadb.Suite{ah, m.Suites[0]})
			continue
		}
		all = append(all, m.Suites)
	}
	return all
}

// old reports whether a suite was known to Windows 2000: DES and 3DES, or MD5
// and SHA-1 without a better cipher.
func old(s sadb.Suite) bool {
	return s.Encryption != sadb.AESGCM && (s.Integrity == sadb.HMACMD5 || s.Integrity == sadb.HMACSHA1 || s.Encryption == sadb.DES || s.Encryption == sadb.TripleDES)
}

// oldMain reports whether every main-mode method is old.
func oldMain(methods []sadb.ISAKMPSuite) bool {
	return !slices.ContainsFunc(methods, func(s sadb.ISAKMPSuite) bool {
		return s.Hash != sadb.MD5 && s.Hash != sadb.SHA1 && s.Encryption == sadb.AESCBC
	})
}

// upliftMethods puts before the first method of each class that has only old
// methods the modern ones of that class, and marks those.
func upliftMethods(methods []SecurityMethod) (all []SecurityMethod, uplifted []bool) {
	done := map[class]bool{}
	for _, m := range methods {
		if c := classOf(m.Suites); slices.ContainsFunc(m.Suites, func(s sadb.Suite) bool { return !old(s) }) {
			done[c] = true // the class has a modern method of its own
		}
	}
	for _, m := range methods {
		if c := classOf(m.Suites); !done[c] {
			done[c] = true
			for _, suites := range c.modern() {
				all = append(all, SecurityMethod{Suites: suites, Lifetime: m.Lifetime, Bytes: m.Bytes})
				uplifted = append(uplifted, true)
			}
		}
		all, uplifted = append(all, m), append(uplifted, false)
	}
	if !slices.Contains(uplifted, true) {
		return methods, nil
	}
	return all, uplifted
}
