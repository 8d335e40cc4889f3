package record

import "encoding/binary"

const (
	maxVarint32 = 5  // bytes of the longest zigzag varint of 32 bits
	maxVarint64 = 10 // and of 64 bits
)

// varint32 decodes a zigzag varint of at most 32 bits at the start of b and
// returns its length, 0 where b is too short or the number too large.
func varint32(b []byte) (int32, int) {
	if len(b) > 0 && b[0] < 0x80 { // most keys, headers and deltas
		u := uint32(b[0])
		return int32(u>>1) ^ -int32(u&1), 1
	}
	if len(b) > 1 && b[1] < 0x80 {
		u := uint32(b[0]&0x7f) | uint32(b[1])<<7
		return int32(u>>1) ^ -int32(u&1), 2
	}
	var u uint32
	for i := 0; i < len(b) && i < maxVarint32; i++ {
		c := b[i]
		if i == maxVarint32-1 && c > 0x0f {
			return 0, 0
		}
		u |= uint32(c&0x7f) << (7 * i)
		if c < 0x80 {
			return int32(u>>1) ^ -int32(u&1), i + 1
		}
	}
	return 0, 0
}

// varint64 is varint32 for 64 bits.
func varint64(b []byte) (int64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		u := uint64(b[0])
		return int64(u>>1) ^ -int64(u&1), 1
	}
	v, n := binary.Varint(b) // the same zigzag encoding
	if n < 0 {
		return 0, 0
	}
	return v, n
}

// appendVarint appends v as a zigzag varint.
func appendVarint(dst []byte, v int64) []byte { return binary.AppendVarint(dst, v) }

// sizeVarint returns the bytes that appendVarint adds.
func sizeVarint(v int64) int {
	u := uint64(v<<1) ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}
