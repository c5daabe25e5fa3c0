package psk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Bounds of what is read.
const (
	maxSize   = 1 << 20 // bytes of one file
	maxGroups = 10000
	maxPeers  = 1000 // of one group
	maxKeys   = 2    // of one group: the new one and the one it replaces
	maxName   = 64   // characters
	maxLength = 1024 // bytes of one key
	minLength = 8
)

// Below these a key is weak, and a warning says so: whoever answers in the
// place of a peer can try keys at leisure afterwards.
const (
	goodLength   = 20 // characters
	goodVariety  = 10 // different characters
	newKeyAdvice = "make one with: openssl rand -base64 32"
)

// Parse reads preshared keys: a YAML document
//
//	apiVersion: ipsecagent/v1
//	kind: PresharedKeys
//	keys:
//	  - name: default
//	    peers: [10.0.0.0/8, any]
//	    keys: ["the new key", "the old key"]
//
// or a single line that is the one key for any peer, with the name "default"; one
// that looks like YAML is refused.
// Without peers, a group is for any. name stands for the file in errors, which
// give the line and never the text there: it might be a key.
func Parse(name string, data []byte) (*Keyring, error) {
	p := &parser{file: name, ring: &Keyring{files: []string{name}}}
	err := p.parse(data)
	if err != nil {
		return nil, fmt.Errorf("auth/psk: read %s: %w", name, err)
	}
	return p.ring, nil
}

// parser collects groups into ring.
type parser struct {
	file string
	ring *Keyring
}

func (p *parser) parse(data []byte) error {
	if len(data) > maxSize {
		return fmt.Errorf("it is larger than %d bytes", maxSize)
	}
	line := strings.TrimRight(string(data), "\r\n")
	if strings.TrimSpace(line) == "" {
		return errors.New("it is empty")
	}
	if !strings.ContainsAny(line, "\r\n") && !strings.Contains(line, "apiVersion") {
		return p.single(line)
	}
	root, err := document(data)
	if err != nil {
		return err
	}
	return p.document(root)
}

// looksLikeYAML is a line of a document that was cut short, or of settings in the
// wrong folder, which as the key of every peer would be one that can be guessed.
var looksLikeYAML = regexp.MustCompile(`^[-{\s]*["']?([A-Za-z]+["']?\s*:(\s|$)|(apiVersion|kind|keys|name|peers)["']?\s*:)`)

func (p *parser) single(line string) error {
	if looksLikeYAML.MatchString(line) {
		return errors.New("line 1: it is the beginning of a YAML document, not a key: its lines are 'apiVersion: ipsecagent/v1', 'kind: PresharedKeys' and 'keys:', with the keys below; " +
			"a key that looks so is written there, too")
	}
	if strings.TrimSpace(line) != line {
		return errors.New("line 1: the key begins or ends with white space; remove it")
	}
	g := &group{name: "default", file: p.file, any: true}
	if err := p.key(g, line); err != nil {
		return fmt.Errorf("line 1: %w", err)
	}
	p.ring.groups = []*group{g}
	return nil
}

// document returns the root of the only YAML document in data. The cause of an
// error is left out: YAML's messages quote the text.
func document(data []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, errors.New("the YAML reader does not start")
	}
	var doc, second yaml.Node
	if err := loader.Load(&doc); err != nil {
		return nil, notYAML(err)
	}
	if err := loader.Load(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one document; write one file for each")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, errors.New("it holds no document")
	}
	return doc.Content[0], nil
}

func notYAML(err error) error {
	line := 0
	var e *yaml.LoadError
	if errors.As(err, &e) {
		line = e.Mark.Line
	}
	return fmt.Errorf("line %d or before: not valid YAML; check indentation and that every key stands in quotes", line)
}

// fail reports a mistake at a node.
func fail(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n.Line, fmt.Errorf(format, args...))
}

// fields returns the values of a mapping by name. Only the known ones are
// allowed, each once.
func fields(n *yaml.Node, known ...string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, fail(n, "fields are expected here (%s)", strings.Join(known, ", "))
	}
	m := map[string]*yaml.Node{}
	for _, name := range known {
		m[name] = nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		have, ok := m[name.Value]
		if !ok {
			return nil, fail(name, "unknown field (known: %s)", strings.Join(known, ", "))
		}
		if have != nil {
			return nil, fail(name, "field %s stands here twice", name.Value)
		}
		m[name.Value] = value
	}
	return m, nil
}

// list returns the elements of a sequence; none for nil.
func list(n *yaml.Node, most int) ([]*yaml.Node, error) {
	if n == nil {
		return nil, nil
	}
	if n.Kind != yaml.SequenceNode {
		return nil, fail(n, "a list is expected here")
	}
	if len(n.Content) > most {
		return nil, fail(n, "the list has more than %d elements", most)
	}
	return n.Content, nil
}

func (p *parser) document(root *yaml.Node) error {
	f, err := fields(root, "apiVersion", "kind", "keys")
	if err != nil {
		return err
	}
	if v := f["apiVersion"]; v == nil || v.Value != "ipsecagent/v1" {
		return fail(root, "apiVersion: ipsecagent/v1 is expected")
	}
	if k := f["kind"]; k == nil || k.Value != "PresharedKeys" {
		return fail(root, "kind: PresharedKeys is expected")
	}
	groups, err := list(f["keys"], maxGroups)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, n := range groups {
		g, err := p.group(n)
		if err != nil {
			return err
		}
		if seen[g.name] {
			return fail(n, "key %q is already defined above", g.name)
		}
		seen[g.name] = true
		p.ring.groups = append(p.ring.groups, g)
	}
	return nil
}

func (p *parser) group(n *yaml.Node) (*group, error) {
	f, err := fields(n, "name", "peers", "keys")
	if err != nil {
		return nil, err
	}
	g := &group{file: p.file, any: f["peers"] == nil}
	if g.name, err = groupName(n, f["name"]); err != nil {
		return nil, err
	}
	if err := g.parsePeers(f["peers"]); err != nil {
		return nil, err
	}
	keys, err := list(f["keys"], maxKeys)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fail(n, "key %q has no keys; write one or two under keys:", g.name)
	}
	for _, k := range keys {
		if k.Kind != yaml.ScalarNode || k.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0 {
			return nil, fail(k, "a key of %q does not stand in quotes; without them YAML may read another text", g.name)
		}
		if err := p.key(g, k.Value); err != nil {
			return nil, fail(k, "%w", err)
		}
	}
	return g, nil
}

// groupName reads a name, which becomes part of a principal and of messages.
func groupName(group, n *yaml.Node) (string, error) {
	if n == nil {
		return "", fail(group, "name is missing")
	}
	odd := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_.", r)
	}
	if n.Kind != yaml.ScalarNode || n.Value == "" || len(n.Value) > maxName || strings.ContainsFunc(n.Value, odd) {
		return "", fail(n, "a name is 1 to %d letters, digits, '-', '_' and '.'", maxName)
	}
	return n.Value, nil
}

func (g *group) parsePeers(n *yaml.Node) error {
	peers, err := list(n, maxPeers)
	if err != nil {
		return err
	}
	if n != nil && len(peers) == 0 {
		return fail(n, "the list of peers of %q is empty; leave it out for any peer", g.name)
	}
	for _, peer := range peers {
		if peer.Kind == yaml.ScalarNode && peer.Value == "any" {
			g.any = true
			continue
		}
		prefix, err := parsePeer(peer)
		if err != nil {
			return err
		}
		g.peers = append(g.peers, prefix)
	}
	return nil
}

// parsePeer reads an address or a prefix.
func parsePeer(n *yaml.Node) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(n.Value); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(n.Value)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, fail(n, "a peer is an address (192.0.2.1), a prefix (10.0.0.0/8, 2001:db8::/32) or any")
	}
	if prefix != prefix.Masked() {
		return netip.Prefix{}, fail(n, "the prefix has bits set behind its length; %s is meant?", prefix.Masked())
	}
	return prefix, nil
}

// key adds a key to a group, with warnings if it is weak.
func (p *parser) key(g *group, text string) error {
	if len(text) < minLength || len(text) > maxLength {
		return fmt.Errorf("a key of %q has %d bytes, and %d to %d are allowed; %s", g.name, len(text), minLength, maxLength, newKeyAdvice)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return fmt.Errorf("a key of %q holds a control character or is not UTF-8; %s", g.name, newKeyAdvice)
	}
	for _, w := range weaknesses(text) {
		p.ring.warnings = append(p.ring.warnings, fmt.Sprintf("%s: a key of %q %s", p.file, g.name, w))
	}
	g.keys = append(g.keys, newKey([]byte(text)))
	return nil
}

// weaknesses returns what is weak or surprising about a key, without a word of
// it.
func weaknesses(text string) []string {
	var all []string
	if utf8.RuneCountInString(text) < goodLength {
		all = append(all, fmt.Sprintf("is shorter than %d characters and can be guessed by who attacks a negotiation; %s", goodLength, newKeyAdvice))
	}
	different := map[rune]bool{}
	for _, r := range text {
		different[r] = true
	}
	if len(different) < goodVariety {
		all = append(all, fmt.Sprintf("has fewer than %d different characters and can be guessed; %s", goodVariety, newKeyAdvice))
	}
	if strings.HasPrefix(text, "0x") || strings.HasPrefix(text, "0s") {
		all = append(all, "begins with 0x or 0s, which other IKE programs decode; here it is taken as it stands")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII }) {
		all = append(all, "has characters outside ASCII, which Windows encodes differently")
	}
	return all
}
