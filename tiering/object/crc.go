package object

import "hash/crc32"

func updateCRC(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// combineCRC returns the CRC-32C of a followed by b from the CRC of each and
// b's length in bytes, so that the checksum of the whole object costs no
// further pass over its data.
//
// Appending zero bytes to a multiplies its CRC, as a polynomial over GF(2), by
// x^(8·lenB); the rest is addition.
func combineCRC(a, b uint32, lenB int64) uint32 {
	// Bit 31 is x^0: CRC-32C is reflected.
	square := uint32(1) << (31 - 8) // x^8: one byte
	shift := uint32(1) << 31        // x^0
	for n := lenB; n > 0; n >>= 1 {
		if n&1 != 0 {
			shift = multiply(shift, square)
		}
		square = multiply(square, square)
	}
	return multiply(a, shift) ^ b
}

// multiply returns x·y modulo the Castagnoli polynomial, reflected.
func multiply(x, y uint32) uint32 {
	var p uint32
	for ; x != 0; x <<= 1 {
		if x&(1<<31) != 0 {
			p ^= y
		}
		if y&1 != 0 {
			y = y>>1 ^ crc32.Castagnoli
		} else {
			y >>= 1
		}
	}
	return p
}
