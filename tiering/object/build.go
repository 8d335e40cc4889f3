package object

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/firnlog/firn/record"
	"github.com/google/uuid"
)

// DefaultChunkBytes is where a chunk is closed, raw bytes.
const DefaultChunkBytes = 4 << 20

// ErrSource is matched when what is to be built is not a sequence of whole,
// intact, ascending batches within the run's range.
var ErrSource = errors.New("object: bad source")

// Extent is a range of a local file that holds whole batches.
type Extent struct {
	File io.ReaderAt
	Pos  int64 // bytes
	Len  int64 // bytes
}

// RunSource is one partition's part of an object to build. Of Run, FirstChunk
// and Chunks are filled in by Build; the rest is the caller's.
type RunSource struct {
	Run
	// Extents are read in order, at least once by Build and again on each read
	// of the Built object. Their files must stay unchanged until Built.Close.
	Extents []Extent
	// Producers is the producer state at exactly Run.End, opaque to this package.
	Producers []byte
}

// Source is what an object is made of.
type Source struct{ Runs []RunSource }

// Meta says how an object is made and where it comes from.
type Meta struct {
	Object     uuid.UUID // fresh for each attempt to write the object
	Provenance Provenance
	Codec      Codec
	Keys       KeyProvider // nil: not encrypted
	ChunkBytes int64       // default DefaultChunkBytes
	SpoolDir   string      // for compressed or encrypted objects; default os.TempDir()
}

// Built is an object ready to be uploaded. ReadAt may be called any number of
// times, concurrently, until Close.
type Built struct {
	parts  []part // ascending by off, without gaps
	size   int64
	crc    uint32
	footer *Footer
	spool  *os.File
}

// part is a range of the object that is read from somewhere else.
type part struct {
	off  int64 // in the object
	len  int64
	from io.ReaderAt
	pos  int64 // in from
}

// Size is the length of the whole object in bytes.
func (b *Built) Size() int64 { return b.size }

// CRC32C is the CRC-32C (Castagnoli) of the whole object.
func (b *Built) CRC32C() uint32 { return b.crc }

// Footer describes the object as a Reader of it would see it.
func (b *Built) Footer() *Footer { return b.footer }

// Close removes the spool file, if there is one. The source's files stay open.
func (b *Built) Close() error {
	if b.spool == nil {
		return nil
	}
	return closeAndRemove(b.spool)
}

func closeAndRemove(f *os.File) error {
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// ReadAt implements io.ReaderAt over header, local files or spool, and footer.
func (b *Built) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("object: read at %d", off)
	}
	n := 0
	for n < len(p) && off < b.size {
		at := &b.parts[b.find(off)]
		in := off - at.off
		want := min(int64(len(p)-n), at.len-in)
		got, err := at.from.ReadAt(p[n:int64(n)+want], at.pos+in)
		n += got
		off += int64(got)
		if int64(got) == want {
			continue
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // a source file became shorter
		}
		return n, fmt.Errorf("object %s: read source: %w", b.footer.Object, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (b *Built) find(off int64) int {
	lo, hi := 0, len(b.parts)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; b.parts[mid].off <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

func (b *Built) add(from io.ReaderAt, pos, n int64) {
	if n > 0 {
		b.parts = append(b.parts, part{off: b.size, len: n, from: from, pos: pos})
		b.size += n
	}
}

// bytesAt is an io.ReaderAt over bytes of which no read passes the end.
type bytesAt []byte

// ReadAt implements io.ReaderAt.
func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if n := copy(p, b[off:]); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

// Build reads the source once, checks every batch's CRC, and lays the object
// out. Errors match ErrSource when the source is at fault; else they come from
// the files, the key provider, or ctx. The caller closes the result.
func Build(ctx context.Context, src Source, meta Meta) (*Built, error) {
	b, err := newBuilder(ctx, meta)
	if err == nil {
		err = b.runs(src.Runs)
	}
	if err == nil {
		err = b.finish(src.Runs)
	}
	if err != nil {
		if b != nil && b.out.spool != nil {
			err = errors.Join(err, closeAndRemove(b.out.spool))
		}
		return nil, fmt.Errorf("build object %s: %w", meta.Object, err)
	}
	return b.out, nil
}

// builder is the state of one Build.
type builder struct {
	ctx   context.Context
	meta  Meta
	out   *Built
	foot  *Footer
	aead  cipher.AEAD // nil: not encrypted
	spool *os.File    // nil: the object reads through to the source

	chunk  Chunk  // the open one; RawLen 0 if none
	raw    []byte // its bytes, if they go to the spool
	buf    []byte // reused by scan and by seal
	sealed []byte
}

func newBuilder(ctx context.Context, meta Meta) (*builder, error) {
	if meta.Object == uuid.Nil {
		return nil, fmt.Errorf("%w: no object UUID", ErrSource)
	}
	if meta.Codec > CodecZstd {
		return nil, fmt.Errorf("%w: %s", ErrSource, meta.Codec)
	}
	if meta.ChunkBytes <= 0 {
		meta.ChunkBytes = DefaultChunkBytes
	}
	meta.ChunkBytes = min(meta.ChunkBytes, maxChunkSize/2)
	b := &builder{ctx: ctx, meta: meta, buf: make([]byte, 512<<10)}
	b.foot = &Footer{Object: meta.Object, Provenance: meta.Provenance}
	b.out = &Built{footer: b.foot}
	if meta.Keys != nil {
		id, key, err := meta.Keys.Current(ctx)
		if err != nil {
			return nil, fmt.Errorf("encryption key: %w", err)
		}
		slot := keySlot{ID: id}
		rand.Read(slot.Salt[:])
		if b.aead, err = newAEAD(key, slot.Salt[:], meta.Object); err != nil {
			return nil, err
		}
		b.foot.keys = []keySlot{slot}
	}
	if meta.Codec != CodecNone || meta.Keys != nil {
		f, err := os.CreateTemp(meta.SpoolDir, "firn-object-*.spool")
		if err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
		b.spool, b.out.spool = f, f
	}
	header := appendHeader(nil, meta.Object)
	b.out.add(bytesAt(header), 0, headerSize)
	b.out.crc = crcOf(header)
	return b, nil
}

func (b *builder) runs(runs []RunSource) error {
	for i := range runs {
		src := &runs[i]
		run := src.Run
		run.FirstChunk = len(b.foot.Chunks)
		if run.Start < 0 || run.End < run.Start || run.Partition < 0 {
			return fmt.Errorf("%w: run %s has offsets %d to %d", ErrSource, run.TopicPartition, run.Start, run.End)
		}
		last := record.Offset(0)
		for j := range src.Extents {
			if err := b.scan(&src.Extents[j], &run, &last); err != nil {
				return fmt.Errorf("run %s: %w", run.TopicPartition, err)
			}
		}
		if err := b.closeChunk(); err != nil {
			return err
		}
		run.Chunks = len(b.foot.Chunks) - run.FirstChunk
		b.foot.Runs = append(b.foot.Runs, run)
	}
	return nil
}

// scan adds the batches of one extent. last is the end of the batch before.
func (b *builder) scan(e *Extent, run *Run, last *record.Offset) error {
	pos, end := e.Pos, e.Pos+e.Len
	held := b.buf[:0] // bytes of the file from pos on
	for pos < end {
		if err := b.ctx.Err(); err != nil {
			return err
		}
		want := min(int64(cap(held)), end-pos)
		n, err := e.File.ReadAt(held[len(held):want], pos+int64(len(held)))
		if held = held[:len(held)+n]; int64(len(held)) < want {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read source at %d: %w", pos, err)
		}
		used := 0
		for len(held)-used >= record.HeaderSize {
			h, err := record.ReadHeader(held[used:])
			if err != nil {
				return fmt.Errorf("%w: at %d: %w", ErrSource, pos+int64(used), err)
			}
			if int64(h.Size()) > end-pos-int64(used) || h.Size() > maxChunkSize/2 {
				return fmt.Errorf("%w: batch of %d bytes at %d is cut off or too large", ErrSource, h.Size(), pos+int64(used))
			}
			if h.Size() > len(held)-used {
				break
			}
			if err := b.batch(&h, held[used:used+h.Size()], run, last); err != nil {
				return err
			}
			b.source(e.File, pos+int64(used), int64(h.Size()))
			used += h.Size()
		}
		if used == 0 {
			if held, err = b.grow(held, end-pos); err != nil {
				return fmt.Errorf("at %d: %w", pos, err)
			}
			continue
		}
		pos += int64(used)
		held = held[:copy(held, held[used:])]
	}
	return nil
}

// grow makes the buffer large enough for the batch that held begins with.
func (b *builder) grow(held []byte, left int64) ([]byte, error) {
	h, err := record.ReadHeader(held)
	if err != nil || int64(h.Size()) > left {
		return nil, fmt.Errorf("%w: a batch is cut off", ErrSource)
	}
	b.buf = make([]byte, max(h.Size(), 2*cap(b.buf)))
	return b.buf[:copy(b.buf, held)], nil
}

// batch adds one batch to the open chunk, closing the one before if it is full.
func (b *builder) batch(h *record.Header, raw []byte, run *Run, last *record.Offset) error {
	batch := record.Batch{Header: *h, Raw: raw}
	if err := batch.VerifyCRC(); err != nil {
		return fmt.Errorf("%w: batch at offset %d: %w", ErrSource, h.BaseOffset, err)
	}
	if h.BaseOffset < *last || h.LastOffsetDelta < 0 || h.NextOffset() <= run.Start || h.NextOffset() > run.End {
		return fmt.Errorf("%w: batch %d to %d after %d in run %d to %d", ErrSource, h.BaseOffset, h.NextOffset(), *last, run.Start, run.End)
	}
	*last = h.NextOffset()
	k := &b.chunk
	if k.RawLen > 0 && k.RawLen+int64(len(raw)) > b.meta.ChunkBytes {
		if err := b.closeChunk(); err != nil {
			return err
		}
	}
	if k.RawLen == 0 {
		*k = Chunk{Base: h.BaseOffset, MinTimestamp: math.MaxInt64, MaxTimestamp: record.NoTimestamp, KeySlot: NoKey}
	}
	k.End = h.NextOffset()
	k.RawLen += int64(len(raw))
	k.MaxTimestamp = max(k.MaxTimestamp, h.MaxTimestamp)
	k.MinTimestamp = min(k.MinTimestamp, leastTimestamp(h))
	if b.spool != nil {
		b.raw = append(b.raw, raw...)
	} else {
		k.RawCRC = updateCRC(k.RawCRC, raw)
	}
	return nil
}

// leastTimestamp is the batch's base timestamp where that is one: LogAppendTime
// overrides it, and compaction may have put a delete horizon in its place.
func leastTimestamp(h *record.Header) int64 {
	if h.IsLogAppendTime() || h.HasDeleteHorizon() {
		return h.MaxTimestamp
	}
	return min(h.BaseTimestamp, h.MaxTimestamp)
}

// source makes the object's next n bytes read through to the file, unless they
// go to the spool.
func (b *builder) source(f io.ReaderAt, pos, n int64) {
	if b.spool != nil {
		return
	}
	if p := &b.out.parts[len(b.out.parts)-1]; p.from == f && p.pos+p.len == pos {
		p.len += n
		b.out.size += n
		return
	}
	b.out.add(f, pos, n)
}

// closeChunk puts the open chunk, if there is one, into the index.
func (b *builder) closeChunk() error {
	k := &b.chunk
	if k.RawLen == 0 {
		return nil
	}
	k.Position = headerSize
	if n := len(b.foot.Chunks); n > 0 {
		k.Position = b.foot.Chunks[n-1].Position + b.foot.Chunks[n-1].StoredLen
	}
	k.StoredLen, k.StoredCRC = k.RawLen, k.RawCRC
	if b.spool != nil {
		stored, err := b.encode(len(b.foot.Chunks))
		if err != nil {
			return err
		}
		k.StoredLen, k.StoredCRC = int64(len(stored)), crcOf(stored)
		if _, err := b.spool.WriteAt(stored, b.out.size-headerSize); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		b.out.add(b.spool, b.out.size-headerSize, k.StoredLen)
		b.raw = b.raw[:0]
	}
	b.out.crc = combineCRC(b.out.crc, k.StoredCRC, k.StoredLen)
	b.foot.Chunks = append(b.foot.Chunks, *k)
	*k = Chunk{}
	return nil
}

// encode compresses and encrypts the open chunk's bytes, valid until the next
// call. A chunk that would not get smaller stays uncompressed.
func (b *builder) encode(n int) ([]byte, error) {
	k, stored := &b.chunk, b.raw
	k.RawCRC = crcOf(b.raw)
	if b.meta.Codec == CodecZstd {
		packed, err := compress(b.sealed[:0], b.raw)
		if err != nil {
			return nil, err
		}
		b.sealed = packed
		if len(packed) < len(b.raw) {
			stored, k.Codec = packed, CodecZstd
		}
	}
	if b.aead != nil {
		k.KeySlot = 0
		nonce, aad := nonceAndData(b.meta.Object, n)
		stored = b.aead.Seal(stored[:0], nonce[:], stored, aad[:])
		if k.Codec == CodecNone {
			b.raw = stored // Seal may have grown it
		}
	}
	return stored, nil
}

// finish appends footer and trailer.
func (b *builder) finish(runs []RunSource) error {
	states := make([][]byte, len(runs))
	for i := range runs {
		states[i] = runs[i].Producers
	}
	f := b.foot
	f.Position = b.out.size
	tail, err := encodeFooter(f, states)
	if err != nil {
		return err
	}
	b.out.add(bytesAt(tail), 0, int64(len(tail)))
	b.out.crc = combineCRC(b.out.crc, crcOf(tail), int64(len(tail)))
	f.Size = b.out.size
	return nil
}

// encodeFooter returns sections, directory and trailer of an object whose
// chunks end at f.Position, and sets f.producers. The producer state, which can
// be large and is read seldom, comes first: farthest from the tail.
func encodeFooter(f *Footer, producers [][]byte) ([]byte, error) {
	var tail []byte
	var refs []sectionRef
	section := func(id uint16, fill func([]byte) []byte) {
		at := len(tail)
		tail = fill(tail)
		refs = append(refs, sectionRef{id: id, pos: f.Position + int64(at), len: int64(len(tail) - at), crc: crcOf(tail[at:])})
	}
	section(sectionProducers, func(b []byte) []byte { return appendProducers(b, producers) })
	f.producers = refs[0]
	section(sectionChunks, func(b []byte) []byte { return appendChunks(b, f.Chunks) })
	section(sectionAborted, func(b []byte) []byte { return appendAborted(b, f.Runs) })
	section(sectionEpochs, func(b []byte) []byte { return appendEpochs(b, f.Runs) })
	section(sectionTopics, func(b []byte) []byte { return appendTopics(b, f.Runs) })
	section(sectionProvenance, func(b []byte) []byte { return appendProvenance(b, &f.Provenance, f.Runs) })
	if len(f.keys) > 0 {
		section(sectionKeys|sectionCritical, func(b []byte) []byte { return appendKeys(b, f.keys) })
	}
	section(sectionRuns, func(b []byte) []byte { return appendRuns(b, f.Runs) })

	t := trailer{footerPos: f.Position, dirPos: f.Position + int64(len(tail)), object: f.Object}
	at := len(tail)
	for _, r := range refs {
		tail = appendDirEntry(tail, r)
	}
	t.dirLen = int64(len(tail) - at)
	t.dirCRC = crcOf(tail[at:])
	t.size = f.Position + int64(len(tail)) + trailerSize
	if len(tail) > maxFooter {
		return nil, fmt.Errorf("%w: footer of %d bytes", ErrSource, len(tail))
	}
	return appendTrailer(tail, &t), nil
}

func appendDirEntry(b []byte, r sectionRef) []byte {
	b = binary.BigEndian.AppendUint16(b, r.id)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(r.pos))
	b = binary.BigEndian.AppendUint64(b, uint64(r.len))
	return binary.BigEndian.AppendUint32(b, r.crc)
}
