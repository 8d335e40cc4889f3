package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The guard stands before kmsg, whose decoder trusts counts of tags and lets
// eight bytes cost seconds, and 100 MiB cost eight gigabytes (kafka-compat.md
// §3). It lets a body pass if and only if it is exactly one request of its
// layout, in the encoding that Kafka's specification gives (shortest varints,
// tags ascending, booleans 0 or 1, no null where none is allowed, nothing
// behind the end), and cheap enough to decode.

// What decoding may allocate: decodeFactor times the body plus decodeSlack. The
// frame's buffer and its copy for bodies with byte fields come on top, which
// together stays under ten times the frame.
const (
	decodeFactor = 8
	decodeSlack  = 64 << 10
)

// What a decoded thing costs beside its wire bytes: an allocation's rounding,
// and unknown tags, which kmsg keeps in a map for each struct that has some.
const (
	allocOverhead = 8
	firstTagCost  = 400
	nextTagCost   = 160
)

// ErrMalformed is wrapped by each refusal of the guard.
var ErrMalformed = errors.New("malformed request")

var (
	errShort     = fmt.Errorf("%w: ends early", ErrMalformed)
	errTrailing  = fmt.Errorf("%w: trailing bytes", ErrMalformed)
	errLength    = fmt.Errorf("%w: bad length", ErrMalformed)
	errNull      = fmt.Errorf("%w: null where none is allowed", ErrMalformed)
	errVarint    = fmt.Errorf("%w: bad varint", ErrMalformed)
	errBool      = fmt.Errorf("%w: bad boolean", ErrMalformed)
	errTags      = fmt.Errorf("%w: bad tagged fields", ErrMalformed)
	errExpensive = fmt.Errorf("%w: too many elements for its size", ErrMalformed)
)

// walker is the state of one walk.
type walker struct {
	b           []byte
	memory      int // decoded bytes so far
	maxMemory   int
	elements    int // array entries and tags so far
	maxElements int
}

// walk checks body against p and returns the memory that decoding it takes.
func (p *program) walk(body []byte, maxElements int) (memory int, err error) {
	w := walker{b: body, maxMemory: decodeFactor*len(body) + decodeSlack, maxElements: maxElements}
	if err := w.fields(p); err != nil {
		return 0, err
	}
	if len(w.b) != 0 {
		return 0, errTrailing
	}
	return w.memory, nil
}

// length is where the request at the start of body ends, if walk found no other
// fault than bytes behind it.
func (p *program) length(body []byte, maxElements int) int {
	w := walker{b: body, maxMemory: decodeFactor*len(body) + decodeSlack, maxElements: maxElements}
	if err := w.fields(p); err != nil {
		return len(body)
	}
	return len(body) - len(w.b)
}

func (w *walker) fields(p *program) error {
	for i := range p.ops {
		if err := w.op(&p.ops[i], p.flexible); err != nil {
			return err
		}
	}
	if p.flexible {
		return w.tags(p)
	}
	return nil
}

func (w *walker) op(o *op, flexible bool) error {
	switch o.kind {
	case opSkip:
		return w.skip(o.size)
	case opBool:
		return w.bools(1)
	case opString:
		n, err := w.stringLength(flexible)
		if err != nil {
			return err
		}
		if n < 0 {
			return allowNull(o)
		}
		if err := w.spend(o.memory + n + allocOverhead); err != nil {
			return err
		}
		return w.skip(n)
	case opBytes:
		n, err := w.length(flexible)
		if err != nil {
			return err
		}
		if n < 0 {
			return allowNull(o)
		}
		return w.skip(n)
	case opStruct:
		return w.fields(o.elem)
	case opNullStruct:
		if len(w.b) == 0 {
			return errShort
		}
		mark := int8(w.b[0])
		w.b = w.b[1:]
		switch mark {
		case -1:
			return nil
		case 1:
			if err := w.spend(o.memory + allocOverhead); err != nil {
				return err
			}
			return w.fields(o.elem)
		}
		return errNull
	default: // the arrays
		return w.array(o, flexible)
	}
}

func (w *walker) array(o *op, flexible bool) error {
	n, err := w.length(flexible)
	if err != nil {
		return err
	}
	if n < 0 {
		return allowNull(o)
	}
	least := o.size
	switch {
	case o.kind == opStructArray:
		least = o.elem.minSize
	case o.kind == opStringArray && flexible:
		least = 1
	case o.kind == opStringArray:
		least = 2
	}
	// least ≥ 1 unless a classic struct has no fields at this version.
	if n > len(w.b)/max(least, 1) {
		return errShort
	}
	if o.kind == opFixedArray || o.kind == opBoolArray {
		if err := w.spend(n*o.memory + allocOverhead); err != nil {
			return err
		}
		if o.kind == opBoolArray {
			return w.bools(n)
		}
		return w.skip(n * o.size)
	}
	w.elements += n
	if w.elements > w.maxElements {
		return errExpensive
	}
	if err := w.spend(n*o.memory + allocOverhead); err != nil {
		return err
	}
	if o.kind == opStringArray {
		for range n {
			size, err := w.stringLength(flexible)
			if err != nil {
				return err
			}
			if size < 0 {
				return errNull
			}
			if err := w.spend(size + allocOverhead); err != nil {
				return err
			}
			if err := w.skip(size); err != nil {
				return err
			}
		}
		return nil
	}
	for range n {
		if err := w.fields(o.elem); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) tags(p *program) error {
	n, err := w.uvarint()
	if err != nil || n == 0 {
		return err
	}
	if int64(n) > int64(len(w.b)/2) {
		return errTags
	}
	w.elements += int(n)
	if w.elements > w.maxElements {
		return errExpensive
	}
	cost := firstTagCost
	next := uint64(0)
	known := p.tags
	for range n {
		tag, err := w.uvarint()
		if err != nil {
			return err
		}
		size, err := w.uvarint()
		if err != nil {
			return err
		}
		if uint64(tag) < next || int64(size) > int64(len(w.b)) {
			return errTags
		}
		next = uint64(tag) + 1
		for len(known) > 0 && known[0].tag < tag {
			known = known[1:]
		}
		if len(known) == 0 || known[0].tag != tag {
			if err := w.spend(cost); err != nil {
				return err
			}
			cost = nextTagCost
			w.b = w.b[size:]
			continue
		}
		rest := w.b[size:]
		w.b = w.b[:size]
		if err := w.op(&known[0].op, p.flexible); err != nil {
			return err
		}
		if len(w.b) != 0 {
			return errTags
		}
		w.b = rest
	}
	return nil
}

func allowNull(o *op) error {
	if o.nullable {
		return nil
	}
	return errNull
}

func (w *walker) spend(memory int) error {
	w.memory += memory
	if w.memory > w.maxMemory {
		return errExpensive
	}
	return nil
}

func (w *walker) skip(n int) error {
	if n > len(w.b) {
		return errShort
	}
	w.b = w.b[n:]
	return nil
}

func (w *walker) bools(n int) error {
	if n > len(w.b) {
		return errShort
	}
	for _, v := range w.b[:n] {
		if v > 1 {
			return errBool
		}
	}
	w.b = w.b[n:]
	return nil
}

// length reads the length of an array or byte field, -1 for null.
func (w *walker) length(flexible bool) (int, error) {
	if flexible {
		return w.compactLength()
	}
	if len(w.b) < 4 {
		return 0, errShort
	}
	n := int32(binary.BigEndian.Uint32(w.b))
	w.b = w.b[4:]
	if n < -1 {
		return 0, errLength
	}
	return int(n), nil
}

// maxString is the largest string, also of a compact one.
const maxString = 1<<15 - 1

func (w *walker) stringLength(flexible bool) (int, error) {
	if flexible {
		n, err := w.compactLength()
		if n > maxString {
			return 0, errLength
		}
		return n, err
	}
	if len(w.b) < 2 {
		return 0, errShort
	}
	n := int16(binary.BigEndian.Uint16(w.b))
	w.b = w.b[2:]
	if n < -1 {
		return 0, errLength
	}
	return int(n), nil
}

func (w *walker) compactLength() (int, error) {
	n, err := w.uvarint()
	if n > 1<<31-1 {
		return 0, errLength
	}
	return int(n) - 1, err
}

func (w *walker) uvarint() (uint32, error) {
	if len(w.b) > 0 && w.b[0] < 0x80 {
		n := w.b[0]
		w.b = w.b[1:]
		return uint32(n), nil
	}
	n, size := binary.Uvarint(w.b)
	if size == 0 {
		return 0, errShort
	}
	if size < 0 || size > 5 || n > 1<<32-1 || w.b[size-1] == 0 {
		return 0, errVarint
	}
	w.b = w.b[size:]
	return uint32(n), nil
}
