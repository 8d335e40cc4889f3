package record

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// DefaultMaxDecompressed bounds in bytes what one batch may decompress to
// where a caller names no bound.
const DefaultMaxDecompressed = 64 << 20

const (
	windowStart = 64 << 10 // bytes of a fresh window
	windowKeep  = 1 << 20  // larger ones do not go back to the pool
)

// malformed says what is wrong with the bytes of a record. Who reads a stored
// batch makes ErrCorrupt of it, who validates a sent one ErrInvalidRecord.
type malformed string

func (m malformed) Error() string { return string(m) }

const (
	errPremature   malformed = "the records end before the count in the header"
	errRecordSize  malformed = "bad record length"
	errRecordField malformed = "a field reaches beyond the record"
	errRecordRest  malformed = "the record is longer than its fields"
	errNegative    malformed = "negative header count or header key length"
	errRemaining   malformed = "bytes remain behind the last record"
)

// window hands out the records of one payload. Uncompressed payloads are read
// where they lie. Others pass piece by piece through a pooled buffer that
// holds at least the record at hand where a caller needs it whole.
//
// INVARIANT: 0 <= pos <= len(buf); buf[pos:] was not read yet.
type window struct {
	buf  []byte
	pos  int
	src  decompressor // nil: buf is the whole payload
	own  []byte       // pooled memory behind buf while src != nil
	left int64        // bytes that src may still produce
	end  error        // io.EOF or what src failed with; sticky
	tee  io.Writer    // where set, gets every decompressed byte once
	rec  Record       // what Records hands out, here for its memory
}

var windows = sync.Pool{New: func() any { return &window{own: make([]byte, 0, windowStart)} }}

// openWindow starts reading the payload of b. The caller calls close once.
// A maxBytes of 0 or less takes DefaultMaxDecompressed. Where tee is not nil
// it receives the whole decompressed payload by the time that finish returns.
func openWindow(b *Batch, maxBytes int64, tee io.Writer) (*window, error) {
	if maxBytes <= 0 {
		maxBytes = DefaultMaxDecompressed
	}
	w := windows.Get().(*window)
	w.pos, w.left, w.tee = 0, maxBytes, tee
	codec := b.Codec()
	if codec == CodecNone {
		w.buf, w.end = b.Payload(), io.EOF
		if tee != nil {
			if _, err := tee.Write(w.buf); err != nil {
				w.close()
				return nil, err
			}
		}
		return w, nil
	}
	if len(b.Payload()) == 0 && b.NumRecords == 0 { // emptied by compaction
		w.buf, w.end = nil, io.EOF
		return w, nil
	}
	src, err := newDecompressor(codec, b.Payload(), maxBytes)
	if err != nil {
		w.close()
		return nil, err
	}
	w.src, w.buf, w.end = src, w.own[:0], nil
	return w, nil
}

// close gives the window and its decompressor back. Slices handed out before
// are dead afterwards.
func (w *window) close() {
	if w.src != nil {
		w.src.release()
		w.own = w.buf[:0]
	}
	if cap(w.own) > windowKeep {
		w.own = make([]byte, 0, windowStart)
	}
	clear(w.rec.Headers[:cap(w.rec.Headers)]) // they hold on to the batch
	*w = window{own: w.own, rec: Record{Headers: w.rec.Headers[:0]}}
	windows.Put(w)
}

// fill tries to have n unread bytes. Fewer mean that the payload ends; a
// failure of the decompressor is in w.end. The buffer grows by doubling while
// bytes arrive, so that a length that lies costs nothing.
func (w *window) fill(n int) {
	if w.end != nil || len(w.buf)-w.pos >= n {
		return
	}
	unread := copy(w.buf, w.buf[w.pos:])
	w.buf, w.pos = w.buf[:unread], 0
	for len(w.buf) < n && w.end == nil {
		if len(w.buf) == cap(w.buf) {
			grown := make([]byte, len(w.buf), 2*cap(w.buf))
			copy(grown, w.buf)
			w.buf = grown
		}
		w.read()
	}
}

// read lets the source fill the free space of buf once.
func (w *window) read() {
	start := len(w.buf)
	got, err := w.src.Read(w.buf[start:cap(w.buf)])
	w.buf = w.buf[:start+got]
	w.left -= int64(got)
	if w.left < 0 {
		w.end = fmt.Errorf("%w: it decompresses to more than the limit", ErrTooLarge)
		return
	}
	w.end = err
	if got > 0 && w.tee != nil {
		if _, err := w.tee.Write(w.buf[start:]); err != nil {
			w.end = err
		}
	}
}

// cut returns why there are not enough bytes.
func (w *window) cut() error {
	if w.end != nil && !errors.Is(w.end, io.EOF) {
		return w.end
	}
	return errPremature
}

// finish returns an error unless the payload ends here.
func (w *window) finish() error {
	w.fill(1)
	if len(w.buf) > w.pos {
		return errRemaining
	}
	if !errors.Is(w.end, io.EOF) {
		return w.end
	}
	return nil
}

// length reads a record's length. The record is not read yet.
func (w *window) length() (int, error) {
	w.fill(maxVarint32)
	size, n := varint32(w.buf[w.pos:])
	if n == 0 {
		if len(w.buf)-w.pos < maxVarint32 {
			return 0, w.cut()
		}
		return 0, errRecordSize
	}
	if size < 0 {
		return 0, errRecordSize
	}
	w.pos += n
	if w.src == nil && int(size) > len(w.buf)-w.pos {
		return 0, errPremature
	}
	return int(size), nil
}

// body returns the bytes of a whole record that has size bytes. They are
// valid until the next call on w.
func (w *window) body(size int) ([]byte, error) {
	if len(w.buf)-w.pos < size {
		w.fill(size)
		if len(w.buf)-w.pos < size {
			return nil, w.cut()
		}
	}
	b := w.buf[w.pos : w.pos+size : w.pos+size]
	w.pos += size
	return b, nil
}

// head is what every walk needs of a record.
type head struct {
	timestampDelta int64
	offsetDelta    int32
	nullKey        bool
}

// next checks the structure of the next record and skips it. A record that
// does not fit into the window is skipped piece by piece, so that memory does
// not follow its size.
func (w *window) next(h *head) error {
	size, err := w.length()
	if err != nil {
		return err
	}
	if len(w.buf)-w.pos >= size {
		b := w.buf[w.pos : w.pos+size]
		w.pos += size
		return scan(b, h)
	}
	if size <= cap(w.buf) {
		b, err := w.body(size)
		if err != nil {
			return err
		}
		return scan(b, h)
	}
	return w.skim(size, h)
}

// scan checks one record that lies in b, and fills h.
func scan(b []byte, h *head) error {
	if len(b) < 1 {
		return errRecordField
	}
	p := 1 // attributes, of which no bit is in use
	ts, n := varint64(b[p:])
	if n == 0 {
		return errRecordField
	}
	p += n
	delta, n := varint32(b[p:])
	if n == 0 {
		return errRecordField
	}
	p += n
	h.timestampDelta, h.offsetDelta = ts, delta
	size, n := varint32(b[p:])
	if n == 0 {
		return errRecordField
	}
	p += n
	h.nullKey = size < 0
	if size > 0 {
		if int(size) > len(b)-p {
			return errRecordField
		}
		p += int(size)
	}
	if size, n = varint32(b[p:]); n == 0 {
		return errRecordField
	}
	p += n
	if size > 0 {
		if int(size) > len(b)-p {
			return errRecordField
		}
		p += int(size)
	}
	count, n := varint32(b[p:])
	if n == 0 {
		return errRecordField
	}
	p += n
	if count != 0 {
		rest, err := scanHeaders(b[p:], count)
		if err != nil {
			return err
		}
		p = len(b) - rest
	}
	if p != len(b) {
		return errRecordRest
	}
	return nil
}

// scanHeaders checks count headers at the start of b and returns how many
// bytes follow them.
func scanHeaders(b []byte, count int32) (rest int, err error) {
	if count < 0 {
		return 0, errNegative
	}
	if int(count) > len(b)/2 { // a header has two lengths
		return 0, errRecordField
	}
	for ; count > 0; count-- {
		for _, nullable := range [2]bool{false, true} {
			size, n := varint32(b)
			if n == 0 {
				return 0, errRecordField
			}
			b = b[n:]
			if size < 0 {
				if !nullable {
					return 0, errNegative
				}
				continue
			}
			if int(size) > len(b) {
				return 0, errRecordField
			}
			b = b[size:]
		}
	}
	return len(b), nil
}

// skim is scan for a record of size bytes that is larger than the window.
func (w *window) skim(size int, h *head) error {
	s := skimmer{w: w, left: size}
	s.skip(1) // attributes
	h.timestampDelta = s.varint64()
	h.offsetDelta = s.varint32()
	key := s.varint32()
	h.nullKey = key < 0
	s.skip(max(int(key), 0))
	s.skip(max(int(s.varint32()), 0))
	count := s.varint32()
	if count < 0 {
		s.fail(errNegative)
	}
	for ; count > 0 && s.err == nil; count-- {
		key := s.varint32()
		if key < 0 {
			s.fail(errNegative)
		}
		s.skip(max(int(key), 0))
		s.skip(max(int(s.varint32()), 0))
	}
	if s.left != 0 {
		s.fail(errRecordRest)
	}
	return s.err
}

// skimmer reads the fields of one record out of a window that moves on. After
// the first failure all reads return 0.
type skimmer struct {
	w    *window
	left int // bytes of the record not read yet
	err  error
}

func (s *skimmer) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *skimmer) varint32() int32 {
	v, n := varint32(s.peek())
	s.took(n)
	return v
}

func (s *skimmer) varint64() int64 {
	v, n := varint64(s.peek())
	s.took(n)
	return v
}

// peek returns what the longest number at the front may consist of.
func (s *skimmer) peek() []byte {
	if s.err != nil {
		return nil
	}
	s.w.fill(maxVarint64)
	b := s.w.buf[s.w.pos:]
	return b[:min(len(b), s.left, maxVarint64)]
}

// took consumes a number of n bytes; 0 means that there was none.
func (s *skimmer) took(n int) {
	switch {
	case s.err != nil:
	case n > 0:
		s.w.pos += n
		s.left -= n
	case len(s.w.buf)-s.w.pos < min(s.left, maxVarint64):
		s.fail(s.w.cut())
	default:
		s.fail(errRecordField)
	}
}

func (s *skimmer) skip(n int) {
	if s.err == nil && n > s.left {
		s.fail(errRecordField)
	}
	if s.err != nil {
		return
	}
	s.left -= n
	for {
		step := min(n, len(s.w.buf)-s.w.pos)
		s.w.pos += step
		n -= step
		if n == 0 {
			return
		}
		s.w.fill(min(n, cap(s.w.buf)))
		if len(s.w.buf) == s.w.pos {
			s.fail(s.w.cut())
			return
		}
	}
}
