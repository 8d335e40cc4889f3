package objstore

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of a whole object. The zero value means "unknown".
//
// Why CRC-32C and not SHA-256: S3 verifies and returns either for a single
// PUT, but for a multipart upload it keeps SHA-256 only as a hash of the
// parts' hashes, which nobody can compare with the object's bytes. CRCs are
// kept for the full object however it was uploaded, they compose (so parts
// hashed in parallel give the whole), and cost a twentieth of the CPU. An
// adversary who can write to the bucket is stopped by encryption (AES-GCM in
// the object format), not by this.
type Checksum struct {
	crc   uint32
	valid bool
}

// CRC32C makes the checksum whose value is already known.
func CRC32C(value uint32) Checksum { return Checksum{crc: value, valid: true} }

// ChecksumOf is the checksum of b.
func ChecksumOf(b []byte) Checksum { return CRC32C(crc32.Checksum(b, castagnoli)) }

// ChecksumReader reads r to its end and returns the checksum and the count of
// bytes.
func ChecksumReader(r io.Reader) (Checksum, int64, error) {
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, r)
	if err != nil {
		return Checksum{}, n, err
	}
	return CRC32C(h.Sum32()), n, nil
}

// Valid says whether the checksum is known.
func (c Checksum) Valid() bool { return c.valid }

// Value is the CRC-32C; 0 when not Valid.
func (c Checksum) Value() uint32 { return c.crc }

// String is "crc32c:" and eight hex digits, or "" when not Valid.
func (c Checksum) String() string {
	if !c.valid {
		return ""
	}
	return fmt.Sprintf("crc32c:%08x", c.crc)
}

// Base64 is the form of S3's x-amz-checksum-crc32c header: four bytes, big
// endian; "" when not Valid.
func (c Checksum) Base64() string {
	if !c.valid {
		return ""
	}
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, c.crc))
}

// ParseChecksum reads the form of String; "" is the unknown checksum.
func ParseChecksum(s string) (Checksum, error) {
	if s == "" {
		return Checksum{}, nil
	}
	hex, ok := strings.CutPrefix(s, "crc32c:")
	v, err := strconv.ParseUint(hex, 16, 32)
	if !ok || len(hex) != 8 || err != nil {
		return Checksum{}, fmt.Errorf("checksum %q is not of the form crc32c:<8 hex digits>", s)
	}
	return CRC32C(uint32(v)), nil
}

// ParseBase64 reads the form of Base64. A value of another form, such as the
// "…-3" of a composite checksum, is the unknown checksum.
func ParseBase64(s string) Checksum {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != 4 {
		return Checksum{}
	}
	return CRC32C(binary.BigEndian.Uint32(b))
}

// Join is the checksum of two byte strings put together, from the checksum c
// of the first, that of the second, and the second's length in bytes.
func (c Checksum) Join(second Checksum, secondLen int64) Checksum {
	if !c.valid || !second.valid {
		return Checksum{}
	}
	return CRC32C(shiftCRC(c.crc, secondLen) ^ second.crc)
}

// shiftCRC is the effect on a CRC of n zero bytes after it, less that of the
// initial and final inversion: multiplication by x^(8n) modulo the polynomial
// in GF(2), by squaring. Bits are reflected: the top bit is x^0.
func shiftCRC(crc uint32, n int64) uint32 {
	power := uint32(1) << 23 // x^8: one byte
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			crc = multiplyGF2(crc, power)
		}
		power = multiplyGF2(power, power)
	}
	return crc
}

// multiplyGF2 multiplies two reflected polynomials modulo Castagnoli's.
func multiplyGF2(a, b uint32) uint32 {
	product := uint32(0)
	for ; a != 0; a <<= 1 {
		if a&(1<<31) != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry == 1 {
			b ^= crc32.Castagnoli
		}
	}
	return product
}
