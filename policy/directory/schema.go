package directory

import _ "embed"

//go:embed schema/ipsec.schema
var schemaConf string

//go:embed schema/ipsec.ldif
var schemaLDIF string

// Schema returns the schema for OpenLDAP: the classes of Active Directory with
// their object identifiers, and the class that assigns a policy. As LDIF it is
// for cn=config, else for slapd.conf.
func Schema(ldif bool) string {
	if ldif {
		return schemaLDIF
	}
	return schemaConf
}
