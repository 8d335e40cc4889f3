package object

import (
	"errors"
	"fmt"
	"sort"

	"github.com/firnlog/firn/record"
	"github.com/google/uuid"
)

// ErrCorrupt is matched by every error that means: these bytes are not what was
// written. A retry can help only if the damage happened on the way.
var ErrCorrupt = errors.New("object: corrupt")

// ErrVersion is matched when an object is whole but of a version, or with a
// critical section, that this build does not know.
var ErrVersion = errors.New("object: unsupported version")

// CorruptError names what is damaged. It matches ErrCorrupt.
type CorruptError struct {
	Object uuid.UUID // zero when the object is not known yet
	Chunk  int       // chunk number, or -1 for header, footer and trailer
	Detail string
}

func (e *CorruptError) Error() string {
	if e.Chunk < 0 {
		return fmt.Sprintf("object %s: corrupt: %s", e.Object, e.Detail)
	}
	return fmt.Sprintf("object %s: chunk %d: corrupt: %s", e.Object, e.Chunk, e.Detail)
}

// Is makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Codec is how a chunk's bytes are compressed in the object. It is independent
// of the codec inside the record batches.
type Codec uint8

// The codecs of version 1.
const (
	CodecNone Codec = 0
	CodecZstd Codec = 1
)

func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecZstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// NoKey in Chunk.KeySlot marks a chunk that is not encrypted.
const NoKey = 0xffff

// EpochStart says that leader epoch Epoch began at offset Start.
type EpochStart struct {
	Epoch record.Epoch
	Start record.Offset
}

// AbortedTxn is one aborted transaction that overlaps a run, wherever its
// marker is. First is the transaction's first offset, Last the marker's offset.
type AbortedTxn struct {
	ProducerID int64
	First      record.Offset
	Last       record.Offset
	LastStable record.Offset
}

// Run is one partition's range in the object: one for a tiered segment, many
// where objects are shared.
type Run struct {
	record.TopicPartition
	Start, End  record.Offset // visible range; batches may begin below Start
	FirstChunk  int
	Chunks      int
	Aborted     []AbortedTxn // sorted by First
	Epochs      []EpochStart // ascending; those in force within the run
	TopicName   string
	Config      map[string]string // topic overrides when the object was made
	Predecessor uuid.UUID         // object that held the offsets before Start; zero if none
	LogStart    record.Offset     // the partition's log start when the object was made
}

// Chunk is one entry of the chunk index.
type Chunk struct {
	Base         record.Offset // base offset of the first batch
	End          record.Offset // next offset after the last batch
	MinTimestamp int64         // ms; least base timestamp of the batches
	MaxTimestamp int64         // ms; greatest max timestamp of the batches
	Position     int64         // of the stored bytes in the object
	StoredLen    int64
	RawLen       int64
	Codec        Codec
	KeySlot      uint16 // index into the object's keys, or NoKey
	StoredCRC    uint32 // CRC-32C of the bytes as stored
	RawCRC       uint32 // CRC-32C of the batches
}

// Provenance says where an object comes from.
type Provenance struct {
	ClusterID   string
	NodeID      int32
	CreatedAt   int64  // ms since the epoch
	IntentIndex uint64 // Raft index of the intent to write this object
	Generation  uint64 // recovery generation of the cluster
}

// keySlot is one encryption key that chunks refer to by slot.
type keySlot struct {
	ID   string // name at the key provider
	Salt [saltSize]byte
}

// Footer is everything an object says about itself, except the producer state,
// which is read when asked for (Reader.ProducerState). It is immutable.
type Footer struct {
	Object     uuid.UUID
	Size       int64 // of the whole object, bytes
	Position   int64 // of the footer, bytes; chunks end here
	Runs       []Run
	Chunks     []Chunk
	Provenance Provenance

	keys      []keySlot
	producers sectionRef // zero length if absent
}

// Run returns the number of the run that holds off of tp.
func (f *Footer) Run(tp record.TopicPartition, off record.Offset) (int, bool) {
	for i := range f.Runs {
		r := &f.Runs[i]
		if r.TopicPartition == tp && r.Start <= off && off < r.End {
			return i, true
		}
	}
	return 0, false
}

// RunChunks returns the chunk index of one run. The first has number
// Runs[run].FirstChunk.
func (f *Footer) RunChunks(run int) []Chunk {
	r := &f.Runs[run]
	return f.Chunks[r.FirstChunk : r.FirstChunk+r.Chunks]
}

// FindOffset returns the number of the first chunk of the run that ends after
// off: the one that holds off, or, where compaction removed it, the next. False
// means that the run has no batch at or after off.
func (f *Footer) FindOffset(run int, off record.Offset) (int, bool) {
	chunks := f.RunChunks(run)
	i := sort.Search(len(chunks), func(i int) bool { return chunks[i].End > off })
	return f.Runs[run].FirstChunk + i, i < len(chunks)
}

// FindTime returns the number of the first chunk of the run, at or after the
// chunk numbered from, whose greatest timestamp is at least ts.
func (f *Footer) FindTime(run, from int, ts int64) (int, bool) {
	r := &f.Runs[run]
	for i := max(from, r.FirstChunk); i < r.FirstChunk+r.Chunks; i++ {
		if f.Chunks[i].MaxTimestamp >= ts {
			return i, true
		}
	}
	return 0, false
}

// Timestamps returns the least and greatest timestamp of a run, and false if
// it has no batches.
func (f *Footer) Timestamps(run int) (minTs, maxTs int64, ok bool) {
	chunks := f.RunChunks(run)
	for i := range chunks {
		if i == 0 || chunks[i].MinTimestamp < minTs {
			minTs = chunks[i].MinTimestamp
		}
		if i == 0 || chunks[i].MaxTimestamp > maxTs {
			maxTs = chunks[i].MaxTimestamp
		}
	}
	return minTs, maxTs, len(chunks) > 0
}

// Memory estimates what the footer occupies, in bytes, for caches.
func (f *Footer) Memory() int64 {
	n := int64(256) + int64(len(f.Chunks))*80 + int64(len(f.keys))*64
	for i := range f.Runs {
		r := &f.Runs[i]
		n += 192 + int64(len(r.Aborted))*32 + int64(len(r.Epochs))*16 + int64(len(r.TopicName))
		for k, v := range r.Config {
			n += int64(len(k)+len(v)) + 48
		}
	}
	return n
}
