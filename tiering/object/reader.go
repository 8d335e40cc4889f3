package object

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/google/uuid"
)

// speculativeTail is how much of an object's end the first read asks for when
// the footer's place is not known, bytes.
const speculativeTail = 64 << 10

// Store is what a Reader needs of an object store: a body of exactly n bytes
// beginning at off. The caller closes it.
type Store interface {
	GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)
}

// OpenOptions say where an object is.
type OpenOptions struct {
	Store  Store
	Key    string      // in the store
	Object uuid.UUID   // what it must be; zero accepts any
	Size   int64       // of the whole object, bytes
	Footer int64       // place of the footer if known, else 0; only a hint
	Keys   KeyProvider // needed for encrypted chunks only

	// Buffer, if set, makes the buffers of chunks, of n bytes and any content;
	// Recycle takes back those that the Reader needs no more.
	Buffer  func(n int) []byte
	Recycle func([]byte)
}

// Reader reads one object. It holds the footer and no other resource, so it
// need not be closed.
type Reader struct {
	opts   OpenOptions
	footer *Footer

	mu    sync.Mutex
	aeads map[uint16]cipher.AEAD // by key slot
}

// Open reads and checks the footer: with one ranged read, or two if the footer
// is larger than the speculative tail.
func Open(ctx context.Context, opts OpenOptions) (*Reader, error) {
	if opts.Buffer == nil || opts.Recycle == nil {
		opts.Buffer = func(n int) []byte { return make([]byte, n) }
		opts.Recycle = func([]byte) {}
	}
	r := &Reader{opts: opts}
	f, err := r.open(ctx)
	if err != nil {
		return nil, r.named(err, "open")
	}
	r.footer = f
	return r, nil
}

// Footer returns what the object says about itself.
func (r *Reader) Footer() *Footer { return r.footer }

func (r *Reader) open(ctx context.Context) (*Footer, error) {
	size := r.opts.Size
	if size < headerSize+trailerSize {
		return nil, damaged("object of %d bytes", size)
	}
	// Below a hint there may be megabytes of producer state that is not wanted
	// now, so even a hinted read stays within bounds.
	want := min(size, speculativeTail)
	if hint := r.opts.Footer; hint >= headerSize && hint <= size-trailerSize && size-hint < want {
		want = size - hint
	}
	tail, err := r.read(ctx, size-want, want)
	if err != nil {
		return nil, err
	}
	t, err := parseTrailer(tail[len(tail)-trailerSize:], size)
	if err != nil {
		return nil, err
	}
	if r.opts.Object != uuid.Nil && t.object != r.opts.Object {
		return nil, damaged("object says that it is %s", t.object)
	}
	if tail, err = r.extend(ctx, tail, t.dirPos); err != nil {
		return nil, err
	}
	at := size - int64(len(tail))
	refs, err := parseDirectory(tail[t.dirPos-at:t.dirPos-at+t.dirLen], &t)
	if err != nil {
		return nil, err
	}
	needed := t.dirPos
	for _, ref := range refs {
		if ref.id&^sectionCritical != sectionProducers {
			needed = min(needed, ref.pos)
		}
	}
	if tail, err = r.extend(ctx, tail, needed); err != nil {
		return nil, err
	}
	return parseSections(&t, refs, tail)
}

// extend returns the object's bytes from pos to its end, of which tail has the
// last ones.
func (r *Reader) extend(ctx context.Context, tail []byte, pos int64) ([]byte, error) {
	missing := r.opts.Size - int64(len(tail)) - pos
	if missing <= 0 {
		return tail, nil
	}
	head, err := r.read(ctx, pos, missing)
	if err != nil {
		return nil, err
	}
	return append(head, tail...), nil
}

// parseSections builds the footer. tail is the object's end, from at most the
// place of the first section that is read here.
func parseSections(t *trailer, refs []sectionRef, tail []byte) (*Footer, error) {
	f := &Footer{Object: t.object, Size: t.size, Position: t.footerPos}
	found := make(map[uint16][]byte, len(refs))
	for _, ref := range refs {
		id := ref.id &^ sectionCritical
		if id == 0 || id > sectionKeys {
			if ref.id&sectionCritical != 0 {
				return nil, fmt.Errorf("%w: critical section %d", ErrVersion, id)
			}
			continue
		}
		if _, dup := found[id]; dup {
			return nil, damaged("section %d twice", id)
		}
		if id == sectionProducers {
			f.producers, found[id] = ref, nil
			continue
		}
		from := ref.pos - (t.size - int64(len(tail)))
		b := tail[from : from+ref.len]
		if crcOf(b) != ref.crc {
			return nil, damaged("checksum of section %d", id)
		}
		found[id] = b
	}
	return f, parseFound(f, found)
}

func parseFound(f *Footer, found map[uint16][]byte) (err error) {
	for _, id := range []uint16{sectionRuns, sectionChunks} {
		if _, ok := found[id]; !ok {
			return damaged("section %d is missing", id)
		}
	}
	if b, ok := found[sectionKeys]; ok {
		if f.keys, err = parseKeys(b); err != nil {
			return err
		}
	}
	if f.Runs, err = parseRuns(found[sectionRuns]); err != nil {
		return err
	}
	if f.Chunks, err = parseChunks(found[sectionChunks], f.Runs, len(f.keys), f.Position); err != nil {
		return err
	}
	for id, parse := range map[uint16]func([]byte) error{
		sectionAborted:    func(b []byte) error { return parseAborted(b, f.Runs) },
		sectionEpochs:     func(b []byte) error { return parseEpochs(b, f.Runs) },
		sectionTopics:     func(b []byte) error { return parseTopics(b, f.Runs) },
		sectionProvenance: func(b []byte) error { return parseProvenance(b, &f.Provenance, f.Runs) },
	} {
		if b, ok := found[id]; ok {
			if err := parse(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// ProducerState reads the producer state of one run, at exactly its end: the
// bytes that were given to Build, nil if there were none.
func (r *Reader) ProducerState(ctx context.Context, run int) ([]byte, error) {
	ref := r.footer.producers
	if ref.len == 0 {
		return nil, nil
	}
	b, err := r.read(ctx, ref.pos, ref.len)
	if err != nil {
		return nil, r.named(err, "read producer state of")
	}
	if crcOf(b) != ref.crc {
		return nil, r.named(damaged("checksum of section %d", sectionProducers), "")
	}
	states, err := parseProducers(b, len(r.footer.Runs))
	if err != nil {
		return nil, r.named(err, "")
	}
	return states[run], nil
}

// ReadChunks fetches count adjacent chunks, beginning with number first, with
// one ranged read, and calls each with their batches in order. The bytes are
// the callee's to keep. Only what passed every check is handed out.
func (r *Reader) ReadChunks(ctx context.Context, first, count int, each func(chunk int, raw []byte) error) error {
	if count == 0 {
		return nil
	}
	c, err := r.Chunks(ctx, first, first+count)
	for n := first; err == nil && n < first+count; n++ {
		var raw []byte
		if raw, err = c.Next(ctx); err == nil {
			err = each(n, raw)
		}
	}
	if c != nil {
		if cerr := c.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// Chunks are adjacent chunks that are read one by one from one ranged read.
type Chunks struct {
	r    *Reader
	body io.ReadCloser
	next int
}

// Chunks begins a ranged read of the chunks [first, end), which ends with the
// context. The caller closes it, at any time.
func (r *Reader) Chunks(ctx context.Context, first, end int) (*Chunks, error) {
	from, last := r.footer.Chunks[first].Position, &r.footer.Chunks[end-1]
	body, err := r.opts.Store.GetRange(ctx, r.opts.Key, from, last.Position+last.StoredLen-from)
	if err != nil {
		return nil, r.named(err, "read")
	}
	return &Chunks{r: r, body: body, next: first}, nil
}

// Next returns the next chunk's batches, which passed every check and belong to
// the caller. After an error only Close is of use. REQUIRES: there is one left.
func (c *Chunks) Next(ctx context.Context) ([]byte, error) {
	n := c.next
	c.next++
	return c.r.readChunk(ctx, c.body, n)
}

// Close ends the ranged read, be it at its end or not.
func (c *Chunks) Close() error {
	if err := c.body.Close(); err != nil {
		return c.r.named(err, "read")
	}
	return nil
}

// pieceBytes is how much of a chunk is read and then added to its checksum, while
// the processor's cache still has it.
const pieceBytes = 256 << 10

// readChunk reads the n-th chunk from body, which is there, and decodes it.
func (r *Reader) readChunk(ctx context.Context, body io.Reader, n int) ([]byte, error) {
	stored := r.opts.Buffer(int(r.footer.Chunks[n].StoredLen))
	var crc uint32
	for at := 0; at < len(stored); {
		got, err := io.ReadFull(body, stored[at:min(at+pieceBytes, len(stored))])
		if err != nil {
			r.opts.Recycle(stored)
			return nil, r.named(cutOff(err), "read")
		}
		crc = updateCRC(crc, stored[at:at+got])
		at += got
	}
	raw, err := r.decode(ctx, n, stored, crc)
	if err != nil {
		r.opts.Recycle(stored)
	}
	return raw, err
}

// DecodeChunk verifies, decrypts and decompresses a chunk's stored bytes. The
// result may alias stored, which must not be used afterwards.
func (r *Reader) DecodeChunk(ctx context.Context, n int, stored []byte) ([]byte, error) {
	return r.decode(ctx, n, stored, crcOf(stored))
}

// decode is DecodeChunk of bytes whose CRC-32C is known. After an error stored is
// the caller's.
func (r *Reader) decode(ctx context.Context, n int, stored []byte, crc uint32) ([]byte, error) {
	k := &r.footer.Chunks[n]
	bad := func(detail string) error {
		return &CorruptError{Object: r.footer.Object, Chunk: n, Detail: detail}
	}
	if int64(len(stored)) != k.StoredLen || crc != k.StoredCRC {
		return nil, bad("checksum of stored bytes")
	}
	raw := stored
	if k.KeySlot != NoKey {
		aead, err := r.aead(ctx, k.KeySlot)
		if err != nil {
			return nil, r.named(err, "find key of")
		}
		nonce, aad := nonceAndData(r.footer.Object, n)
		if raw, err = aead.Open(stored[:0], nonce[:], stored, aad[:]); err != nil {
			return nil, bad("does not decrypt: " + err.Error())
		}
	}
	switch {
	case k.Codec == CodecZstd:
		packed := raw
		raw = r.opts.Buffer(int(k.RawLen))
		if err := decompress(raw, packed); err != nil {
			r.opts.Recycle(raw)
			return nil, bad(err.Error())
		}
		if crcOf(raw) != k.RawCRC {
			r.opts.Recycle(raw)
			return nil, bad("checksum of raw bytes")
		}
		r.opts.Recycle(stored)
	case k.KeySlot == NoKey:
		// The same bytes, checked above.
	case int64(len(raw)) != k.RawLen || crcOf(raw) != k.RawCRC:
		return nil, bad("checksum of raw bytes")
	}
	return raw, nil
}

func (r *Reader) aead(ctx context.Context, slot uint16) (cipher.AEAD, error) {
	r.mu.Lock()
	a := r.aeads[slot]
	r.mu.Unlock()
	if a != nil {
		return a, nil
	}
	if r.opts.Keys == nil {
		return nil, errors.New("encrypted, and no key provider is configured")
	}
	key := &r.footer.keys[slot]
	master, err := r.opts.Keys.Key(ctx, key.ID)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", key.ID, err)
	}
	if a, err = newAEAD(master, key.Salt[:], r.footer.Object); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.aeads == nil {
		r.aeads = make(map[uint16]cipher.AEAD, 1)
	}
	r.aeads[slot] = a
	return a, nil
}

// Verify reads the whole object once, in order, and checks header, every chunk
// and the footer's bytes. It returns the CRC-32C of the object as read.
func (r *Reader) Verify(ctx context.Context) (uint32, error) {
	b, err := r.read(ctx, 0, headerSize)
	if err != nil {
		return 0, r.named(err, "verify")
	}
	id, err := parseHeader(b)
	if err == nil && id != r.footer.Object {
		err = damaged("header names object %s", id)
	}
	if err != nil {
		return 0, r.named(err, "verify")
	}
	crc := crcOf(b)
	for i := range r.footer.Chunks {
		if err := r.ReadChunks(ctx, i, 1, func(_ int, raw []byte) error { r.opts.Recycle(raw); return nil }); err != nil {
			return 0, err
		}
		k := &r.footer.Chunks[i]
		crc = combineCRC(crc, k.StoredCRC, k.StoredLen)
	}
	for run := range r.footer.Runs {
		if _, err := r.ProducerState(ctx, run); err != nil {
			return 0, err
		}
	}
	pos := r.footer.Position
	if b, err = r.read(ctx, pos, r.footer.Size-pos); err != nil {
		return 0, r.named(err, "verify")
	}
	return updateCRC(crc, b), nil
}

// read returns n bytes at off. REQUIRES: the range lies in the object and n is
// bounded by something other than the object's own word for it.
func (r *Reader) read(ctx context.Context, off, n int64) ([]byte, error) {
	body, err := r.opts.Store.GetRange(ctx, r.opts.Key, off, n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(body, b)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, cutOff(err)
	}
	return b, nil
}

// cutOff makes a body that ended early, which a retry may repair, look like
// what it is.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// named gives an error the object it is about.
func (r *Reader) named(err error, op string) error {
	id := r.opts.Object
	if r.footer != nil {
		id = r.footer.Object
	}
	var c *CorruptError
	if errors.As(err, &c) {
		if c.Object == uuid.Nil {
			c.Object = id
		}
		return err
	}
	if id == uuid.Nil {
		return fmt.Errorf("%s object %s: %w", op, r.opts.Key, err)
	}
	return fmt.Errorf("%s object %s: %w", op, id, err)
}
