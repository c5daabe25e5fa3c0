package gss

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"

	"github.com/jcmturner/gokrb5/v8/types"
)

// checksumType is that of the authenticator's checksum, which is none but
// carries flags and channel bindings (RFC 4121 §4.1.1).
const checksumType = 0x8003

// Bindings returns the hash of channel bindings without addresses (RFC 4121
// §4.1.1.2), as it stands in the authenticator: for TLS, data is
// "tls-server-end-point:" and the certificate's hash (RFC 5929 §4).
func Bindings(data []byte) [16]byte {
	b := make([]byte, 16, 20+len(data)) // two addresses of type 0 and length 0
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return md5.Sum(append(b, data...))
}

// authChecksum returns the checksum field of an authenticator.
func authChecksum(bindings [16]byte, flags uint32) types.Checksum {
	b := binary.LittleEndian.AppendUint32(nil, 16)
	b = append(b, bindings[:]...)
	b = binary.LittleEndian.AppendUint32(b, flags)
	return types.Checksum{CksumType: checksumType, Checksum: b}
}

// authFlags returns the flags of a received authenticator's checksum. What may
// follow them, a delegated credential or extensions, is not looked at; nor are
// the bindings, for no acceptor here has a channel to bind to.
func authFlags(c types.Checksum) (uint32, error) {
	b := c.Checksum
	if c.CksumType != checksumType || len(b) < 24 || binary.LittleEndian.Uint32(b) != 16 {
		return 0, fmt.Errorf("%w: the authenticator has no GSS-API checksum", ErrMalformed)
	}
	return binary.LittleEndian.Uint32(b[20:]), nil
}
