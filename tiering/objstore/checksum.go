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
