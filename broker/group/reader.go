package group

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"
)

// reader takes Kafka's primitive types off a record's bytes, in the classic or the
// flexible form. After a first fault it is not Ok, and all reads yield zero values;
// no claimed length or count makes it allocate or loop beyond what the bytes can
// hold. (kmsg's own readers trust the count of tagged fields: see kafka-compat §3.)
type reader struct {
	kbin.Reader
	flexible bool // compact lengths and tagged fields
}

func newReader(b []byte) *reader { return &reader{Reader: kbin.Reader{Src: b}} }

// spoil makes the reader bad.
func (r *reader) spoil() { r.Span(-1) }

// nullString reads a nullable string, nil for null.
func (r *reader) nullString() *string {
	if r.flexible {
		return r.CompactNullableString()
	}
	return r.NullableString()
}

func (r *reader) string() string {
	if r.flexible {
		return r.CompactString()
	}
	return r.String()
}

// bytes reads a byte field as a copy, never nil.
func (r *reader) bytes() []byte {
	if r.flexible {
		return append([]byte{}, r.CompactBytes()...)
	}
	return append([]byte{}, r.Bytes()...)
}

// count reads the length of an array whose elements take at least a byte.
func (r *reader) count() int32 {
	var n int32
	if r.flexible {
		n = r.CompactArrayLen()
	} else {
		n = r.ArrayLen()
	}
	if n < 0 {
		r.spoil()
		return 0
	}
	return n
}

// tags reads the tagged fields of a flexible version; fn says whether a field
// is well-formed.
func (r *reader) tags(fn func(tag uint32, field []byte) bool) {
	if !r.flexible {
		return
	}
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		tag := r.Uvarint()
		field := r.Span(int(r.Uvarint()))
		if r.Ok() && !fn(tag, field) {
			r.spoil()
		}
	}
}

func skipTag(uint32, []byte) bool { return true }

// end reports a fault, or bytes that are left.
func (r *reader) end() error {
	switch {
	case !r.Ok():
		return fmt.Errorf("%w: cut off or malformed", ErrCorrupt)
	case len(r.Src) > 0:
		return fmt.Errorf("%w: %d bytes left over", ErrCorrupt, len(r.Src))
	}
	return nil
}
