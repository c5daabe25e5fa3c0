package cert

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Bounds of what is read.
const (
	maxFile  = 1 << 20 // bytes of a file of certificates or keys
	maxFiles = 4096    // of a directory
	maxInPEM = 512     // certificates of a file
)

// Load reads a directory of certificates:
//
//	ca/    authorities, and certificates between them and others
//	own/   certificates of this host with their private keys
//	crls/  revocation lists
//
// A file is PEM or DER (.pem, .crt, .cer, .der, .key, .crl, .p7b) or PKCS#12
// (.p12, .pfx), or a PKCS#11 URI of keys on a token (.pkcs11, for programs built
// with the tag pkcs11); others, and hidden ones, are left alone. A certificate and its
// key find each other by the key, in whichever files of own they are. The
// password of FILE.p12 is the first line of FILE.p12.password.
//
// The store returned is never nil and holds what could be read; a file that
// cannot be read now, but was part of previous (nil: none), keeps what it held
// then. The error joins one problem for each file.
func Load(dir string, previous *Store) (*Store, error) {
	s := &Store{dir: dir, files: map[string]*content{}}
	if _, err := os.ReadDir(dir); err != nil {
		if previous != nil {
			s = previous
		}
		return s, fmt.Errorf("auth/cert: read certificates: %w", err)
	}
	var problems []error
	for _, sub := range []string{dirCA, dirOwn, dirLists} {
		problems = append(problems, s.readDir(sub, previous)...)
	}
	problems = append(problems, s.arrange(previous)...)
	return s, errors.Join(problems...)
}

// readDir reads the files of a subdirectory; one that does not exist is empty.
func (s *Store) readDir(sub string, previous *Store) []error {
	entries, err := os.ReadDir(s.path(sub))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > maxFiles {
		err = fmt.Errorf("%s holds %d files, more than %d", s.path(sub), len(entries), maxFiles)
	}
	if err != nil {
		s.keep(sub, previous)
		return []error{fmt.Errorf("auth/cert: read certificates: %w; those read before stay in use", err)}
	}
	var problems []error
	for _, e := range entries {
		if !wanted(e.Name()) {
			continue
		}
		path := filepath.Join(s.path(sub), e.Name())
		c, err := readFile(path, sub, previous)
		if err != nil {
			stays := ""
			if c = previous.content(path); c != nil {
				stays = "; what it held before stays in use"
			}
			problems = append(problems, fmt.Errorf("auth/cert: read %s: %w%s", path, err, stays))
		}
		if c != nil {
			s.files[path] = c
		}
	}
	return problems
}

// keep takes over what the files of a subdirectory held.
func (s *Store) keep(sub string, previous *Store) {
	if previous == nil {
		return
	}
	for _, path := range previous.in(sub) {
		s.files[path] = previous.files[path]
	}
}

// content returns what a file held; nil: nothing. A nil store has no files.
func (s *Store) content(path string) *content {
	if s == nil {
		return nil
	}
	return s.files[path]
}

func wanted(name string) bool {
	kinds := []string{".pem", ".crt", ".cer", ".der", ".key", ".crl", ".p7b", ".p12", ".pfx", ".pkcs11"}
	return !strings.HasPrefix(name, ".") && slices.Contains(kinds, strings.ToLower(filepath.Ext(name)))
}

// readFile reads one file and checks that it may hold what it holds.
func readFile(path, sub string, previous *Store) (*content, error) {
	most := maxFile
	if sub == dirLists {
		most = 2 * maxList // PEM is a third longer
	}
	data, mode, err := readOwned(path, most)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	var c *content
	switch strings.ToLower(filepath.Ext(path)) {
	case ".p12", ".pfx":
		c, err = readPKCS12(path, data)
	case ".pkcs11":
		// The session with the token that is open already goes on.
		if c = previous.content(path); c == nil || c.uri != strings.TrimSpace(string(data)) {
			c, err = readToken(data)
		}
	default:
		c, err = parse(path, data)
	}
	if err != nil {
		return nil, err
	}
	return c, c.belongs(path, sub, mode)
}

// belongs checks what a file holds against where it is and who can read it.
func (c *content) belongs(path, sub string, mode fs.FileMode) error {
	switch {
	case len(c.keys) > 0 && sub != dirOwn:
		return fmt.Errorf("a private key does not belong here; move it to %s", dirOwn)
	case len(c.keys) > 0 && mode&0o077 != 0:
		return fmt.Errorf("its mode %04o lets others than its owner at the private key; run: chmod 600 %s", mode, path)
	case sub == dirCA && len(c.certs) == 0:
		return errors.New("it holds no certificate")
	case sub == dirLists && len(c.lists) == 0:
		return errors.New("it holds no revocation list")
	case len(c.lists) > 0 && sub != dirLists:
		return fmt.Errorf("a revocation list does not belong here; move it to %s", dirLists)
	}
	return nil
}

// readOwned reads a file that nobody but root and this user can write: whoever
// writes here decides whom this host trusts. It checks the open file, not its
// name, which could be another file a moment later.
func readOwned(path string, most int) ([]byte, fs.FileMode, error) {
	// Without waiting: the file might be a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	mode := info.Mode().Perm()
	if !info.Mode().IsRegular() {
		return nil, mode, errors.New("it is not a regular file")
	}
	if mode&0o022 != 0 {
		return nil, mode, fmt.Errorf("its mode %04o lets others than its owner write it; run: chmod go-w %s", mode, path)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && int(owner) != os.Geteuid() {
		return nil, mode, fmt.Errorf("it belongs to user %d, who can change it; run: chown root %s", owner, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	return data, mode, err
}

// parse reads PEM, or one object in DER.
func parse(path string, data []byte) (*content, error) {
	c := &content{}
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return c, c.addDER(path, data)
	}
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if err := c.addBlock(path, block); err != nil {
			return nil, err
		}
		clear(block.Bytes)
		data = rest
	}
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		return nil, errors.New("a PEM block is cut off or damaged")
	}
	if len(c.certs)+len(c.keys)+len(c.lists) == 0 {
		return nil, errors.New("it holds no certificate, private key or revocation list")
	}
	if len(c.certs) > maxInPEM {
		return nil, fmt.Errorf("it holds more than %d certificates", maxInPEM)
	}
	return c, nil
}

// addBlock adds one PEM block. The bytes are cleared afterwards, so certificates
// and lists take a copy.
func (c *content) addBlock(path string, block *pem.Block) error {
	switch block.Type {
	case "CERTIFICATE", "X509 CERTIFICATE":
		return c.addCert(bytes.Clone(block.Bytes))
	case "PKCS7":
		return c.addPKCS7(bytes.Clone(block.Bytes))
	case "X509 CRL":
		return c.addList(path, bytes.Clone(block.Bytes))
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return errEncrypted
		}
		return c.addKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return errEncrypted
	case "EC PARAMETERS":
		return nil // the key names its curve itself
	}
	return fmt.Errorf("a PEM block of type %.40q is not known here", block.Type)
}

var errEncrypted = errors.New("its private key is encrypted; the agent starts without asking for passwords: " +
	"store it decrypted (openssl pkey -in FILE -out NEW) with mode 0600, or as PKCS#12 with a password file")

// addDER adds an object by what it turns out to be.
func (c *content) addDER(path string, data []byte) error {
	der := bytes.Clone(data)
	if c.addCert(der) == nil || c.addList(path, der) == nil || c.addPKCS7(der) == nil || c.addKey(der) == nil {
		return nil
	}
	return errors.New("it is neither PEM nor DER of a certificate, private key, PKCS#7 or revocation list")
}

func (c *content) addCert(der []byte) error {
	if len(der) > maxCertSize {
		return fmt.Errorf("a certificate of %d bytes, more than %d", len(der), maxCertSize)
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	c.certs = append(c.certs, x)
	return nil
}

func (c *content) addPKCS7(der []byte) error {
	ders, err := unwrapPKCS7(der)
	if err == nil && len(ders) == 0 {
		err = errors.New("a PKCS#7 wrapping without certificates")
	}
	for _, one := range ders {
		err = errors.Join(err, c.addCert(one))
	}
	return err
}

func (c *content) addList(path string, der []byte) error {
	l, err := parseList(path, der)
	if err != nil {
		return err
	}
	c.lists = append(c.lists, l)
	return nil
}

// errKey hides the cause: a parser's message could quote the key.
var errKey = errors.New("a private key that is none of PKCS#8, PKCS#1 and SEC 1")

func (c *content) addKey(der []byte) error {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return c.addPrivate(k)
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return c.addPrivate(k)
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return c.addPrivate(k)
	}
	return errKey
}

// addPrivate adds a key that can sign for one of the methods.
func (c *content) addPrivate(private any) error {
	s, ok := private.(crypto.Signer)
	if !ok {
		return fmt.Errorf("a private key of type %T, which does not sign", private)
	}
	sign, method, err := newSigner(s)
	if err != nil {
		return err
	}
	if err := checkKey(s.Public(), leastRSA); err != nil {
		return err
	}
	c.keys = append(c.keys, key{public: s.Public(), method: method, sign: sign})
	return nil
}
