package object

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/firnlog/firn/record"
	"github.com/google/uuid"
)

// Sections of the footer. A reader skips those it does not know, unless the
// critical bit is set: then it must refuse the object.
const (
	sectionRuns       = 1
	sectionChunks     = 2
	sectionAborted    = 3
	sectionEpochs     = 4
	sectionProducers  = 5
	sectionTopics     = 6
	sectionProvenance = 7
	sectionKeys       = 8

	sectionCritical = 0x8000
)

const (
	formatVersion = 1

	headerSize   = 32
	trailerSize  = 64
	dirEntrySize = 24

	runSize     = 44
	chunkSize   = 72
	abortedSize = 36
	epochSize   = 16

	maxSections  = 1024
	maxFooter    = 256 << 20 // bytes between the last chunk and the trailer
	maxChunkSize = 1 << 30   // bytes, stored or raw
)

var (
	headerMagic  = [8]byte{'F', 'I', 'R', 'N', 'O', 'B', 'J', '\n'}
	trailerMagic = [8]byte{'F', 'I', 'R', 'N', 'E', 'N', 'D', '\n'}

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// sectionRef is one entry of the directory.
type sectionRef struct {
	id  uint16
	pos int64
	len int64
	crc uint32
}

// trailer is the fixed end of an object, from which all else is found.
type trailer struct {
	footerPos int64
	dirPos    int64
	dirLen    int64
	dirCRC    uint32
	object    uuid.UUID
	size      int64
}

func appendHeader(b []byte, id uuid.UUID) []byte {
	at := len(b)
	b = append(b, headerMagic[:]...)
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = append(b, id[:]...)
	return binary.BigEndian.AppendUint32(b, crcOf(b[at:]))
}

// parseHeader checks the first headerSize bytes of an object.
func parseHeader(b []byte) (uuid.UUID, error) {
	if len(b) < headerSize || [8]byte(b[:8]) != headerMagic {
		return uuid.Nil, damaged("no header magic")
	}
	if crcOf(b[:28]) != binary.BigEndian.Uint32(b[28:]) {
		return uuid.Nil, damaged("header checksum")
	}
	if v := binary.BigEndian.Uint16(b[8:]); v != formatVersion {
		return uuid.Nil, fmt.Errorf("%w: header version %d", ErrVersion, v)
	}
	return uuid.UUID(b[12:28]), nil
}

func appendTrailer(b []byte, t *trailer) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint64(b, uint64(t.footerPos))
	b = binary.BigEndian.AppendUint64(b, uint64(t.dirPos))
	b = binary.BigEndian.AppendUint32(b, uint32(t.dirLen))
	b = binary.BigEndian.AppendUint32(b, t.dirCRC)
	b = append(b, t.object[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.size))
	b = binary.BigEndian.AppendUint16(b, formatVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, crcOf(b[at:]))
	return append(b, trailerMagic[:]...)
}

// parseTrailer checks the last trailerSize bytes of an object of the given size.
func parseTrailer(b []byte, size int64) (trailer, error) {
	var t trailer
	if len(b) != trailerSize || [8]byte(b[56:]) != trailerMagic {
		return t, damaged("no trailer magic")
	}
	if crcOf(b[:52]) != binary.BigEndian.Uint32(b[52:]) {
		return t, damaged("trailer checksum")
	}
	if v := binary.BigEndian.Uint16(b[48:]); v != formatVersion {
		return t, fmt.Errorf("%w: trailer version %d", ErrVersion, v)
	}
	t.footerPos = int64(binary.BigEndian.Uint64(b))
	t.dirPos = int64(binary.BigEndian.Uint64(b[8:]))
	t.dirLen = int64(binary.BigEndian.Uint32(b[16:]))
	t.dirCRC = binary.BigEndian.Uint32(b[20:])
	t.object = uuid.UUID(b[24:40])
	t.size = int64(binary.BigEndian.Uint64(b[40:]))
	end := size - trailerSize
	switch {
	case t.size != size:
		return t, damaged("object has %d bytes, its trailer says %d", size, t.size)
	case t.footerPos < headerSize || t.footerPos > t.dirPos || t.dirPos > end || t.dirPos+t.dirLen != end:
		return t, damaged("footer out of bounds")
	case end-t.footerPos > maxFooter:
		return t, damaged("footer of %d bytes", end-t.footerPos)
	case t.dirLen%dirEntrySize != 0 || t.dirLen > maxSections*dirEntrySize:
		return t, damaged("directory of %d bytes", t.dirLen)
	}
	return t, nil
}

// parseDirectory checks the directory and returns its entries.
func parseDirectory(b []byte, t *trailer) ([]sectionRef, error) {
	if int64(len(b)) != t.dirLen || crcOf(b) != t.dirCRC {
		return nil, damaged("directory checksum")
	}
	refs := make([]sectionRef, 0, len(b)/dirEntrySize)
	at := t.footerPos
	for ; len(b) > 0; b = b[dirEntrySize:] {
		ref := sectionRef{
			id:  binary.BigEndian.Uint16(b),
			pos: int64(binary.BigEndian.Uint64(b[4:])),
			len: int64(binary.BigEndian.Uint64(b[12:])),
			crc: binary.BigEndian.Uint32(b[20:]),
		}
		if ref.pos != at || ref.len < 0 || ref.len > t.dirPos-at {
			return nil, damaged("section %d out of bounds", ref.id)
		}
		at += ref.len
		refs = append(refs, ref)
	}
	if at != t.dirPos {
		return nil, damaged("sections end at %d, the directory begins at %d", at, t.dirPos)
	}
	return refs, nil
}

// damaged makes a CorruptError whose object the caller fills in.
func damaged(format string, args ...any) error {
	return &CorruptError{Chunk: -1, Detail: fmt.Sprintf(format, args...)}
}

// cursor reads a section. The first read past its end sets err and makes all
// later reads answer zero.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) take(n int) []byte {
	if c.err != nil || n < 0 || n > len(c.b) {
		if c.err == nil {
			c.err = damaged("section is cut off")
		}
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) u8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) offset() record.Offset { return record.Offset(c.u64()) }
func (c *cursor) str() string           { return string(c.take(int(c.u32()))) }

func (c *cursor) uuid() (id uuid.UUID) {
	copy(id[:], c.take(16))
	return id
}

// count reads a number of items of at least size bytes each, refused when the
// section cannot hold so many.
func (c *cursor) count(size int) int {
	n := int64(c.u32())
	if c.err == nil && n*int64(size) > int64(len(c.b)) {
		c.err = damaged("section claims %d items in %d bytes", n, len(c.b))
	}
	if c.err != nil {
		return 0
	}
	return int(n)
}

// end returns the first error, or one if bytes are left over.
func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.err = damaged("%d bytes after a section's end", len(c.b))
	}
	return c.err
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func appendRuns(b []byte, runs []Run) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(runs)))
	for i := range runs {
		r := &runs[i]
		b = append(b, r.Topic[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(r.Partition))
		b = binary.BigEndian.AppendUint64(b, uint64(r.Start))
		b = binary.BigEndian.AppendUint64(b, uint64(r.End))
		b = binary.BigEndian.AppendUint32(b, uint32(r.FirstChunk))
		b = binary.BigEndian.AppendUint32(b, uint32(r.Chunks))
	}
	return b
}

func parseRuns(b []byte) ([]Run, error) {
	c := cursor{b: b}
	runs := make([]Run, c.count(runSize))
	next := 0
	for i := range runs {
		r := &runs[i]
		copy(r.Topic[:], c.take(16))
		r.Partition = int32(c.u32())
		r.Start, r.End = c.offset(), c.offset()
		r.FirstChunk, r.Chunks = int(c.u32()), int(c.u32())
		r.LogStart = -1
		if r.Start < 0 || r.End < r.Start || r.Partition < 0 {
			return nil, damaged("run %d has offsets %d to %d", i, r.Start, r.End)
		}
		if r.FirstChunk != next {
			return nil, damaged("run %d begins at chunk %d, not %d", i, r.FirstChunk, next)
		}
		next += r.Chunks
	}
	return runs, c.end()
}

func appendChunks(b []byte, chunks []Chunk) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(chunks)))
	for i := range chunks {
		k := &chunks[i]
		b = binary.BigEndian.AppendUint64(b, uint64(k.Base))
		b = binary.BigEndian.AppendUint64(b, uint64(k.End))
		b = binary.BigEndian.AppendUint64(b, uint64(k.MinTimestamp))
		b = binary.BigEndian.AppendUint64(b, uint64(k.MaxTimestamp))
		b = binary.BigEndian.AppendUint64(b, uint64(k.Position))
		b = binary.BigEndian.AppendUint64(b, uint64(k.StoredLen))
		b = binary.BigEndian.AppendUint64(b, uint64(k.RawLen))
		b = append(b, byte(k.Codec), 0)
		b = binary.BigEndian.AppendUint16(b, k.KeySlot)
		b = binary.BigEndian.AppendUint32(b, k.StoredCRC)
		b = binary.BigEndian.AppendUint32(b, k.RawCRC)
		b = binary.BigEndian.AppendUint32(b, 0)
	}
	return b
}

// parseChunks reads the chunk index. Chunks fill [headerSize, footerPos)
// without gaps, and ascend within each run.
func parseChunks(b []byte, runs []Run, keys int, footerPos int64) ([]Chunk, error) {
	c := cursor{b: b}
	chunks := make([]Chunk, c.count(chunkSize))
	at := int64(headerSize)
	for i := range chunks {
		k := &chunks[i]
		k.Base, k.End = c.offset(), c.offset()
		k.MinTimestamp, k.MaxTimestamp = int64(c.u64()), int64(c.u64())
		k.Position, k.StoredLen, k.RawLen = int64(c.u64()), int64(c.u64()), int64(c.u64())
		k.Codec = Codec(c.u8())
		c.u8()
		k.KeySlot = c.u16()
		k.StoredCRC, k.RawCRC = c.u32(), c.u32()
		c.u32()
		if err := k.check(at, footerPos, keys); err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, err)
		}
		at += k.StoredLen
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	if at != footerPos {
		return nil, damaged("chunks end at %d, the footer begins at %d", at, footerPos)
	}
	total := 0
	for i := range runs {
		r := &runs[i]
		if r.Chunks > len(chunks)-r.FirstChunk {
			return nil, damaged("run %d wants %d chunks from %d of %d", i, r.Chunks, r.FirstChunk, len(chunks))
		}
		total += r.Chunks
		for j := r.FirstChunk + 1; j < total; j++ {
			if chunks[j].Base < chunks[j-1].End {
				return nil, damaged("chunk %d begins below the end of the one before", j)
			}
		}
	}
	if total != len(chunks) {
		return nil, damaged("%d chunks, of which runs name %d", len(chunks), total)
	}
	return chunks, nil
}

func (k *Chunk) check(at, footerPos int64, keys int) error {
	overhead := int64(0)
	if k.KeySlot != NoKey {
		if int(k.KeySlot) >= keys {
			return damaged("key slot %d of %d", k.KeySlot, keys)
		}
		overhead = tagSize
	}
	switch {
	case k.Base < 0 || k.End <= k.Base:
		return damaged("offsets %d to %d", k.Base, k.End)
	case k.Position != at || k.StoredLen <= 0 || k.StoredLen > footerPos-at || k.StoredLen > maxChunkSize:
		return damaged("%d stored bytes at %d", k.StoredLen, k.Position)
	case k.RawLen < record.HeaderSize || k.RawLen > maxChunkSize:
		return damaged("%d raw bytes", k.RawLen)
	case k.Codec > CodecZstd:
		return fmt.Errorf("%w: %s", ErrVersion, k.Codec)
	case k.Codec == CodecNone && k.StoredLen != k.RawLen+overhead:
		return damaged("%d stored bytes for %d raw", k.StoredLen, k.RawLen)
	case k.Codec == CodecNone && overhead == 0 && k.StoredCRC != k.RawCRC:
		return damaged("two checksums for the same bytes")
	}
	return nil
}

func appendAborted(b []byte, runs []Run) []byte {
	n := 0
	for i := range runs {
		n += len(runs[i].Aborted)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	for i := range runs {
		for _, a := range runs[i].Aborted {
			b = binary.BigEndian.AppendUint32(b, uint32(i))
			b = binary.BigEndian.AppendUint64(b, uint64(a.ProducerID))
			b = binary.BigEndian.AppendUint64(b, uint64(a.First))
			b = binary.BigEndian.AppendUint64(b, uint64(a.Last))
			b = binary.BigEndian.AppendUint64(b, uint64(a.LastStable))
		}
	}
	return b
}

func parseAborted(b []byte, runs []Run) error {
	c := cursor{b: b}
	for range c.count(abortedSize) {
		run := c.u32()
		a := AbortedTxn{ProducerID: int64(c.u64()), First: c.offset(), Last: c.offset(), LastStable: c.offset()}
		if c.err != nil {
			break
		}
		if int64(run) >= int64(len(runs)) {
			return damaged("aborted transaction of run %d", run)
		}
		r := &runs[run]
		if n := len(r.Aborted); a.Last < a.First || n > 0 && a.First < r.Aborted[n-1].First {
			return damaged("aborted transactions of run %d out of order", run)
		}
		r.Aborted = append(r.Aborted, a)
	}
	return c.end()
}

func appendEpochs(b []byte, runs []Run) []byte {
	n := 0
	for i := range runs {
		n += len(runs[i].Epochs)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	for i := range runs {
		for _, e := range runs[i].Epochs {
			b = binary.BigEndian.AppendUint32(b, uint32(i))
			b = binary.BigEndian.AppendUint32(b, uint32(e.Epoch))
			b = binary.BigEndian.AppendUint64(b, uint64(e.Start))
		}
	}
	return b
}

func parseEpochs(b []byte, runs []Run) error {
	c := cursor{b: b}
	for range c.count(epochSize) {
		run := c.u32()
		e := EpochStart{Epoch: record.Epoch(c.u32()), Start: c.offset()}
		if c.err != nil {
			break
		}
		if int64(run) >= int64(len(runs)) {
			return damaged("leader epoch of run %d", run)
		}
		r := &runs[run]
		if n := len(r.Epochs); n > 0 && (e.Epoch <= r.Epochs[n-1].Epoch || e.Start < r.Epochs[n-1].Start) {
			return damaged("leader epochs of run %d out of order", run)
		}
		r.Epochs = append(r.Epochs, e)
	}
	return c.end()
}

// appendProducers writes one opaque snapshot per run, as commitlog made it.
func appendProducers(b []byte, states [][]byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(states)))
	for _, s := range states {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

func parseProducers(b []byte, runs int) ([][]byte, error) {
	c := cursor{b: b}
	states := make([][]byte, c.count(4))
	if c.err == nil && len(states) != runs {
		return nil, damaged("producer states of %d runs, not %d", len(states), runs)
	}
	for i := range states {
		states[i] = c.take(int(c.u32()))
	}
	return states, c.end()
}

func appendTopics(b []byte, runs []Run) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(runs)))
	for i := range runs {
		r := &runs[i]
		b = appendString(b, r.TopicName)
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.Config)))
		for _, k := range slices.Sorted(maps.Keys(r.Config)) {
			b = appendString(b, k)
			b = appendString(b, r.Config[k])
		}
	}
	return b
}

func parseTopics(b []byte, runs []Run) error {
	c := cursor{b: b}
	if n := c.count(8); c.err == nil && n != len(runs) {
		return damaged("topics of %d runs, not %d", n, len(runs))
	}
	for i := range runs {
		runs[i].TopicName = c.str()
		n := c.count(8)
		if n > 0 {
			runs[i].Config = make(map[string]string, n)
		}
		for range n {
			k := c.str()
			runs[i].Config[k] = c.str()
		}
	}
	return c.end()
}

func appendProvenance(b []byte, p *Provenance, runs []Run) []byte {
	b = appendString(b, p.ClusterID)
	b = binary.BigEndian.AppendUint32(b, uint32(p.NodeID))
	b = binary.BigEndian.AppendUint64(b, uint64(p.CreatedAt))
	b = binary.BigEndian.AppendUint64(b, p.IntentIndex)
	b = binary.BigEndian.AppendUint64(b, p.Generation)
	b = binary.BigEndian.AppendUint32(b, uint32(len(runs)))
	for i := range runs {
		b = append(b, runs[i].Predecessor[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(runs[i].LogStart))
	}
	return b
}

func parseProvenance(b []byte, p *Provenance, runs []Run) error {
	c := cursor{b: b}
	p.ClusterID = c.str()
	p.NodeID = int32(c.u32())
	p.CreatedAt = int64(c.u64())
	p.IntentIndex, p.Generation = c.u64(), c.u64()
	if n := c.count(24); c.err == nil && n != len(runs) {
		return damaged("provenance of %d runs, not %d", n, len(runs))
	}
	for i := range runs {
		runs[i].Predecessor = c.uuid()
		runs[i].LogStart = c.offset()
	}
	return c.end()
}

func appendKeys(b []byte, keys []keySlot) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(keys)))
	for i := range keys {
		b = appendString(b, keys[i].ID)
		b = append(b, keys[i].Salt[:]...)
	}
	return b
}

func parseKeys(b []byte) ([]keySlot, error) {
	c := cursor{b: b}
	keys := make([]keySlot, c.count(4+saltSize))
	for i := range keys {
		keys[i].ID = c.str()
		copy(keys[i].Salt[:], c.take(saltSize))
	}
	return keys, c.end()
}
