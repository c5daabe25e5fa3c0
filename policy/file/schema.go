package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/sadb"
)

// SchemaID is how documents of the schema call it.
const SchemaID = "https://ipsecagent.example/schema/policy.json"

// Schema returns the JSON Schema (draft 7) of the documents of this package,
// policies and shared ones: for editors, which complete and check by it. It
// says what the language is; whether a policy is right, Parse says alone.
func Schema() ([]byte, error) {
	root := object{
		"$schema":     "http://json-schema.org/draft-07/schema#",
		"$id":         SchemaID,
		"title":       "ipsecagent policy document",
		"if":          object{"properties": object{"kind": object{"const": sharedKind}}, "required": []string{"kind"}},
		"then":        reference("shared"),
		"else":        reference("policy"),
		"definitions": definitions(),
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(root); err != nil {
		return nil, fmt.Errorf("file: write schema: %w", err)
	}
	return b.Bytes(), nil
}

// object is a schema, or a mapping inside one. Its keys are written in their
// order of the alphabet.
type object map[string]any

func definitions() object {
	return object{
		"policy": policySchema(), "shared": sharedSchema(), "keyExchange": keyExchangeSchema(),
		"filterLists": listsSchema(), "filterActions": actionsSchema(),
		"filter": filterSchema(), "endpoint": endpointSchema(), "negotiate": negotiateSchema(), "method": methodSchema(),
		"rule": ruleSchema(), "authentication": authenticationSchema(), "defaultResponse": defaultResponseSchema(), "test": testSchema(),
		"duration":   pattern(`^([0-9]+d)?([0-9]+(\.[0-9]+)?(h|ms|m|s))*$`, "A duration: 90s, 30m, 8h, 1d, 1d12h.", "8h", "1h", "30m", "3s"),
		"size":       pattern(`^[0-9]+(TB|GB|MB|KB|kB|TiB|GiB|MiB|KiB|B)$`, "A size: 100MB, 100GB (powers of ten), 1GiB (powers of two).", "100GB", "100MB"),
		"ports":      numbers("A port, a range such as 8000-8100, or any.", 1, 65535),
		"octets":     numbers("A number, a range such as 0-4, or any.", 0, 255),
		"mode":       enum("enforce, or report: what a rule asks to be secured is never blocked, and what would be is counted, until reportUntil.", policy.Enforce.String(), policy.ReportOnly.String()),
		"deadline":   pattern(`^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:]+(Z|[+-][0-9:]+))?$`, "When report mode ends: a date, or a time as 2030-12-01T08:00:00Z.", "2030-12-01"),
		"guid":       text("Identity of the directory object it came from."),
		"group":      enum("A Diffie-Hellman group.", groups()...),
		"mainMode":   enum("A main-mode method: CIPHER-HASH-GROUP.", mainModes()...),
		"suite":      enum("A suite of ESP or AH.", suites("", "")...),
		"espSuite":   enum("A suite of ESP, with or without esp-.", suites("esp-", "esp-")...),
		"ahSuite":    enum("A suite of AH, with or without ah-.", suites("ah-", "ah-")...),
		"principals": object{"type": "array", "description": "The identities that may stand at the other end; left out: every one that the method trusts.", "items": object{"type": "string"}},
	}
}

func reference(name string) object { return object{"$ref": "#/definitions/" + name} }

// described refers to a definition and says what it is for. The description
// stands beside a list of one, because draft 7 reads nothing beside $ref.
func described(name, description string) object {
	return object{"description": description, "allOf": []object{reference(name)}}
}

func text(description string) object { return object{"type": "string", "description": description} }

func onOff(description string) object { return object{"type": "boolean", "description": description} }

func enum(description string, values ...string) object {
	return object{"type": "string", "description": description, "enum": values}
}

func pattern(expression, description string, examples ...string) object {
	return object{"type": "string", "minLength": 1, "pattern": expression, "description": description, "examples": examples}
}

// numbers is a number, a range of them, or any.
func numbers(description string, least, most int) object {
	return object{"description": description, "anyOf": []object{
		{"type": "integer", "minimum": least, "maximum": most},
		{"type": "string", "pattern": "^(any|[0-9]+(-[0-9]+)?)$"},
	}}
}

func array(of, description string) object {
	return object{"type": "array", "description": description, "items": reference(of)}
}

func either(schemas ...object) object { return object{"anyOf": schemas} }

// fieldsOf is a mapping of known fields, some of which are required.
func fieldsOf(properties object, required ...string) object {
	o := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func policySchema() object {
	o := fieldsOf(object{
		"apiVersion":      object{"const": apiVersion},
		"kind":            enum("What the document is.", kind, sharedKind),
		"guid":            reference("guid"),
		"name":            text("What commands call it; unique in a folder."),
		"description":     text("Free text."),
		"pollingInterval": described("duration", "How often the source is asked for changes; 3h."),
		"mode":            reference("mode"),
		"reportUntil":     reference("deadline"),
		"uplift":          onOff("Modern methods are offered before old ones of the same class."),
		"keyExchange":     reference("keyExchange"),
		"filterLists":     reference("filterLists"),
		"filterActions":   reference("filterActions"),
		"rules":           array("rule", "Which list is treated by which action; nobody orders them."),
		"defaultResponse": reference("defaultResponse"),
		"tests":           array("test", "Flows and the decision expected."),
	}, "apiVersion", "kind", "name")
	o["description"] = "Which traffic of a host passes, is blocked, or must be secured."
	return o
}

func sharedSchema() object {
	o := fieldsOf(object{
		"apiVersion":    object{"const": apiVersion},
		"kind":          object{"const": sharedKind},
		"filterLists":   reference("filterLists"),
		"filterActions": reference("filterActions"),
	}, "apiVersion", "kind")
	o["description"] = "Filter lists and filter actions for every policy of the folder."
	return o
}

func keyExchangeSchema() object {
	o := fieldsOf(object{
		"methods":      array("mainMode", "In order of preference."),
		"lifetime":     described("duration", "Of a main mode, 1m to 48h; 8h."),
		"sessions":     object{"type": "integer", "minimum": 0, "description": "Quick modes under one main mode; 0: no limit."},
		"masterKeyPFS": onOff("One quick mode for each main mode."),
		"guid":         reference("guid"),
		"identity":     text("Identity of the settings in Windows' own format."),
	})
	o["description"] = "Main mode: how two hosts prove who they are."
	return o
}

func listsSchema() object {
	filters := array("filter", "The filters of the list.")
	return object{
		"type": "object", "description": "Lists of filters by name.",
		"additionalProperties": either(filters, fieldsOf(object{
			"guid": reference("guid"), "description": text("Free text."), "filters": filters,
		})),
	}
}

func filterSchema() object {
	o := fieldsOf(object{
		"guid":            reference("guid"),
		"description":     text("Free text."),
		"from":            described("endpoint", "Source."),
		"to":              described("endpoint", "Destination."),
		"protocol":        protocolSchema(),
		"sourcePort":      reference("ports"),
		"destinationPort": reference("ports"),
		"icmpType":        reference("octets"),
		"icmpCode":        reference("octets"),
		"mirrored":        onOff("Also the filter with addresses and ports exchanged; true."),
	}, "from", "to")
	o["description"] = "Traffic by addresses, protocol and ports."
	return o
}

func protocolSchema() object {
	names := []string{"any"}
	for _, p := range []uint8{sadb.TCP, sadb.UDP, sadb.SCTP, sadb.DCCP, sadb.ICMP, sadb.ICMPv6} {
		names = append(names, sadb.ProtoName(p))
	}
	o := either(enum("", names...), object{"type": "integer", "minimum": 1, "maximum": 255})
	o["description"] = "A protocol by its name or number; any."
	return o
}

func endpointSchema() object {
	var words []string
	for _, k := range []policy.EndpointKind{policy.Me, policy.Any, policy.DNSServers, policy.WINSServers, policy.DHCPServers, policy.DefaultGateway} {
		words = append(words, k.String())
	}
	return either(
		enum("me: every address of this host; any: every address; or a set of this host's configuration.", words...),
		object{"type": "string", "pattern": "^[0-9a-fA-F]*[.:][0-9a-fA-F.:]*(/[0-9]+|-[0-9a-fA-F.:]+)?$", "description": "An address, a prefix, or a range a-b."},
		fieldsOf(object{"name": text("A DNS name.")}, "name"),
	)
}

func actionsSchema() object {
	simple := enum("permit passes traffic in clear, block drops it.", sadb.Permit.String(), sadb.Block.String())
	return object{
		"type": "object", "description": "What to do with traffic, by name; permit and block are there without a definition.",
		"additionalProperties": either(simple, fieldsOf(object{
			"guid": reference("guid"), "description": text("Free text."), "action": simple, "negotiate": reference("negotiate"),
		})),
	}
}

func negotiateSchema() object {
	o := fieldsOf(object{
		"methods":         array("method", "Security methods in order of preference."),
		"acceptUnsecured": onOff("Accept unsecured communication, but always respond using IPsec."),
		"allowClear":      onOff("Allow unsecured communication with computers that are not IPsec-aware."),
		"clearDelay":      described("duration", "How long traffic waits before it may go in clear, at most 1m."),
		"sessionKeyPFS":   pfsSchema(),
	})
	o["description"] = "Secure the traffic."
	return o
}

func pfsSchema() object {
	o := either(object{"type": "boolean"}, reference("group"))
	o["description"] = "A Diffie-Hellman exchange for every quick mode: true, or a group."
	return o
}

func methodSchema() object {
	return either(reference("suite"), fieldsOf(object{
		"esp":      reference("espSuite"),
		"ah":       reference("ahSuite"),
		"lifetime": described("duration", "Of the keys, 1m to 48h; 1h."),
		"bytes":    described("size", "That one key protects; 100GB."),
	}))
}

func ruleSchema() object {
	tunnel := either(text("The address of the other gateway."), fieldsOf(object{"name": text("Its DNS name.")}, "name"))
	tunnel["description"] = "The other gateway of a tunnel."
	o := fieldsOf(object{
		"guid":           reference("guid"),
		"name":           text("Unique in the policy."),
		"description":    text("Free text."),
		"mode":           reference("mode"),
		"reportUntil":    reference("deadline"),
		"disabled":       onOff("The rule is kept and not enforced."),
		"filterList":     text("A filter list by name."),
		"filterAction":   text("A filter action by name, or permit, block."),
		"authentication": array("authentication", "In order of preference."),
		"tunnel":         tunnel,
		"connections":    enum("The connections it holds for; all.", sadb.AllConnections.String(), sadb.LAN.String(), sadb.RemoteAccess.String()),
	}, "name", "filterList", "filterAction")
	o["description"] = "A filter list, and how its traffic is treated."
	return o
}

func authenticationSchema() object {
	principals := object{"acceptPrincipals": reference("principals")}
	one := func(name string, properties object, required ...string) object {
		return fieldsOf(object{name: fieldsOf(properties, required...)}, name)
	}
	return either(
		enum("kerberos, or psk: the preshared key meant for the peer.", "kerberos", "psk"),
		one("kerberos", principals),
		one("psk", object{"key": text("Name of the key among the host's secrets."), "acceptPrincipals": reference("principals")}),
		one("certificate", object{
			"ca":               text("Distinguished name of the authority: CN=Bank Root CA,O=Bank."),
			"excludeCAName":    onOff("The peer is not told the authority's name."),
			"mapToAccount":     onOff("The identity is the account that the certificate maps to."),
			"acceptPrincipals": reference("principals"),
		}, "ca"),
	)
}

func defaultResponseSchema() object {
	o := fieldsOf(object{
		"guid":           reference("guid"),
		"actionGuid":     reference("guid"),
		"active":         onOff("Answer peers that ask for security where no rule speaks."),
		"sessionKeyPFS":  pfsSchema(),
		"methods":        array("method", "Security methods in order of preference."),
		"authentication": array("authentication", "In order of preference."),
	})
	o["description"] = "The default response rule: it never asks and answers who does."
	return o
}

func testSchema() object {
	return fieldsOf(object{
		"flow":   text("The headers of one packet, sender to the left: tcp me:1433 -> 10.1.2.3"),
		"expect": enum("The decision expected.", "permit", "block", "negotiate", "none"),
	}, "flow", "expect")
}

// suites returns the names of the suites with a prefix, and again with that
// cut.
func suites(prefix, cut string) []string {
	var whole, short []string
	for _, s := range sadb.Suites() {
		if name := s.String(); strings.HasPrefix(name, prefix) {
			whole, short = append(whole, name), append(short, strings.TrimPrefix(name, cut))
		}
	}
	if cut == "" {
		return whole
	}
	return slices.Concat(short, whole)
}

// groups returns the names of the Diffie-Hellman groups, elliptic curves first.
func groups() []string {
	var names []string
	for g := sadb.ECP521; g > 0; g-- {
		if _, err := sadb.ParseGroup(g.String()); err == nil {
			names = append(names, g.String())
		}
	}
	return names
}

// mainModes returns every main-mode method, those of AES first.
func mainModes() []string {
	var names []string
	for _, cipher := range []string{"aes256", "aes192", "aes128", "3des", "des"} {
		for _, hash := range []string{"sha512", "sha384", "sha256", "sha1", "md5"} {
			for _, group := range groups() {
				names = append(names, cipher+"-"+hash+"-"+group)
			}
		}
	}
	return names
}
