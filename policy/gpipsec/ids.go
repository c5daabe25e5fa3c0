package gpipsec

// The GUIDs of the format. They are functions and not variables so that nothing
// can change them.

// classID returns what a value of the class begins with.
func classID(c Class) GUID {
	switch c {
	case ClassPolicy:
		return knownGUID("{22202163-4F4C-11D1-863B-00A0248D3021}")
	case ClassISAKMP:
		return knownGUID("{80DC20B8-2EC8-11D1-A89E-00A0248D3021}")
	case ClassNegotiation:
		return knownGUID("{80DC20B9-2EC8-11D1-A89E-00A0248D3021}")
	case ClassFilter:
		return knownGUID("{80DC20B5-2EC8-11D1-A89E-00A0248D3021}")
	case ClassNFA:
		return knownGUID("{11BBAC00-498D-11D1-8639-00A0248D3021}")
	}
	return GUID{}
}

// What a filter action does (iPSECNegotiationPolicyAction).
func actionBlock() GUID     { return knownGUID("{3F91A819-7647-11D1-864D-D46A00000000}") }
func actionPass() GUID      { return knownGUID("{3F91A81A-7647-11D1-864D-D46A00000000}") } // negotiate, inbound pass-through
func actionPermit() GUID    { return knownGUID("{8A171DD2-77E3-11D1-8659-A04F00000000}") }
func actionNegotiate() GUID { return knownGUID("{8A171DD3-77E3-11D1-8659-A04F00000000}") }

// What a filter action is for (iPSECNegotiationPolicyType).
func typeStandard() GUID { return knownGUID("{62F49E10-6C37-11D1-864C-14A300000000}") }
func typeResponse() GUID { return knownGUID("{62F49E13-6C37-11D1-864C-14A300000000}") } // the default response rule's

// versionObject stands among the rules of every Active Directory and is none.
func versionObject() GUID { return knownGUID("{6A1F5C6F-72B7-11D2-ACF0-0060B0ECCA17}") }

// Records that follow the first version of a value.
func recordAuth() GUID      { return knownGUID("{01010101-0101-0101-0101-010101010101}") }
func recordAuthFlags() GUID { return knownGUID("{01010101-0101-0101-0101-010101010102}") }
func recordTunnel6() GUID   { return knownGUID("{01010101-0101-0101-0101-010101010103}") }
func recordFilters2() GUID  { return knownGUID("{35FECD3D-AE29-4373-8A6A-C5D8FAB2FB08}") }

// recordOurs is the extension record of this project.
func recordOurs() GUID { return knownGUID("{C1D9C9E6-53B7-4B0B-9C2E-6E0B7A4F2D51}") }
