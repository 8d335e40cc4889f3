package group

import (
	"encoding/binary"
	"fmt"
	"math"
)

// reader takes Kafka's primitive types off a record's bytes. A first fault
// sets failed, after which all reads yield zero values; no claimed length or
// count makes it allocate or loop beyond what the bytes can hold. (kmsg's
// readers trust the count of tagged fields: see kafka-compat §3.)
type reader struct {
	b        []byte
	flexible bool // compact lengths and tagged fields
	failed   bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n < 0 || n > len(r.b) {
		r.failed = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reader) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	if r.failed {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > math.MaxUint32 {
		r.failed = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// compact reads a compact length: one more than the length, 0 for null (-1).
func (r *reader) compact() int { return int(r.uvarint()) - 1 }

// nullString reads a nullable string; ok is false for null.
func (r *reader) nullString() (s string, ok bool) {
	var n int
	if r.flexible {
		n = r.compact()
	} else {
		n = int(r.int16())
	}
	if n < 0 {
		r.failed = r.failed || n < -1
		return "", false
	}
	return string(r.take(n)), true
}

func (r *reader) string() string {
	s, ok := r.nullString()
	r.failed = r.failed || !ok
	return s
}

// bytes reads a byte field as a copy, never nil.
func (r *reader) bytes() []byte {
	var n int
	if r.flexible {
		n = r.compact()
	} else {
		n = int(r.int32())
	}
	return append([]byte{}, r.take(n)...)
}

// count reads the length of an array whose elements take at least a byte.
func (r *reader) count() int {
	var n int
	if r.flexible {
		n = r.compact()
	} else {
		n = int(r.int32())
	}
	if r.failed || n < 0 || n > len(r.b) {
		r.failed = true
		return 0
	}
	return n
}

// tags reads the tagged fields of a flexible version; fn says whether a field
// is well-formed.
func (r *reader) tags(fn func(tag uint64, field []byte) bool) {
	if !r.flexible {
		return
	}
	for n := r.uvarint(); n > 0 && !r.failed; n-- {
		tag := r.uvarint()
		field := r.take(int(r.uvarint()))
		if !r.failed && !fn(tag, field) {
			r.failed = true
		}
	}
}

func skipTag(uint64, []byte) bool { return true }

// end reports a fault, or bytes that are left.
func (r *reader) end() error {
	switch {
	case r.failed:
		return fmt.Errorf("%w: cut off or malformed", ErrCorrupt)
	case len(r.b) > 0:
		return fmt.Errorf("%w: %d bytes left over", ErrCorrupt, len(r.b))
	}
	return nil
}
