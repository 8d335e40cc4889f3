package group

import "unicode/utf8"

// PartitionFor returns the offsets partition, in [0, partitions), that
// coordinates the group: Java's String.hashCode over UTF-16 units, with the
// sign bit cleared as Kafka's Utils.abs does (the minimum int becomes 0),
// modulo the number of partitions.
//
// REQUIRES: partitions > 0.
func PartitionFor(groupID string, partitions int32) int32 {
	return abs(javaHash(groupID)) % partitions
}

// abs is Kafka's Utils.abs: the minimum int, which has no positive
// counterpart, is 0.
func abs(h int32) int32 {
	switch {
	case h == -1<<31:
		return 0
	case h < 0:
		return -h
	}
	return h
}

// javaHash is Java's String.hashCode: 31-polynomial over UTF-16 units. Bytes
// that are not UTF-8 count as U+FFFD, which is how a JVM decodes them.
func javaHash(s string) int32 {
	var h int32
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		if r >= 0x10000 {
			r -= 0x10000
			h = 31*h + (0xd800 + (r >> 10))
			r = 0xdc00 + (r & 0x3ff)
		}
		h = 31*h + r
	}
	return h
}

// utf16Len is Java's String.length.
func utf16Len(s string) int {
	n := 0
	for _, r := range s {
		n++
		if r >= 0x10000 {
			n++
		}
	}
	return n
}
