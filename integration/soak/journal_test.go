package soak

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// topic is one incarnation of a topic, as the model knows it.
type topic struct {
	name string
	tag  uint64 // in every record of this incarnation
	kind kind

	mu    sync.Mutex
	parts []*journal // grows by CreatePartitions
}

// kind says what the model may expect of a topic.
type kind struct {
	settings  []string // name, value, name, value
	parts     int32
	keys      int  // records have one of so many keys; 0 for none
	tombs     bool // some are deletions
	compacted bool // offsets may be missing
	trimmed   bool // the log start moves
	stamped   bool // LogAppendTime
}

// tiered topics are, or may become, read from the bucket.
func (k kind) tiered() bool {
	return !slices.Contains(k.settings, "remote.storage.enable") || slices.Contains(k.settings, "true")
}

func (t *topic) part(p int32) *journal {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.parts[p]
}

func (t *topic) count() int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int32(len(t.parts))
}

func (t *topic) grow(to int32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for int32(len(t.parts)) < to {
		t.parts = append(t.parts, &journal{topic: t, partition: int32(len(t.parts)), last: map[uint32]int64{}})
	}
}

// journal is what is known of one partition. Floors only rise: an answer to a
// question asked after the floor was read must not be below it.
type journal struct {
	topic     *topic
	partition int32

	mu       sync.Mutex
	entries  []entry // by offset
	ackedEnd int64   // one after the highest acked offset
	floors   floors
	last     map[uint32]int64 // key -> offset of its last acked record
}

// entry is a record at an offset.
type entry struct {
	hash     uint64 // of all that the producer chose; 0 is unknown
	time     int64  // as stored
	producer int32
	seq      int64
	key      uint32
	acked    bool
	tomb     bool
	known    bool // time and the rest too
}

type floors struct {
	start, watermark int64
	acked            int64
}

func (j *journal) String() string { return fmt.Sprintf("%s-%d", j.topic.name, j.partition) }

func (j *journal) floor() floors {
	j.mu.Lock()
	defer j.mu.Unlock()
	f := j.floors
	f.acked = j.ackedEnd
	return f
}

// raise notes offsets that an answer showed.
func (j *journal) raise(start, watermark int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.floors.start = max(j.floors.start, start)
	j.floors.watermark = max(j.floors.watermark, watermark)
}

func (j *journal) atLocked(offset int64) *entry {
	for int64(len(j.entries)) <= offset {
		j.entries = append(j.entries, entry{})
	}
	return &j.entries[offset]
}

// ack notes an acked record.
func (j *journal) ack(id identity, offset int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.atLocked(offset)
	if e.hash != 0 && e.hash != id.hash {
		return fmt.Errorf("%v@%d was acked for producer %d's record %d and holds producer %d's record %d", j, offset, id.producer, id.seq, e.producer, e.seq)
	}
	e.hash, e.producer, e.seq, e.key, e.tomb, e.acked = id.hash, id.producer, id.seq, id.key, id.tomb, true
	j.ackedEnd = max(j.ackedEnd, offset+1)
	j.floors.watermark = max(j.floors.watermark, offset+1)
	if j.topic.kind.keys > 0 {
		if last, ok := j.last[id.key]; !ok || last < offset {
			j.last[id.key] = offset
		}
	}
	return nil
}

// read holds a record that was read against what is known of its offset.
func (j *journal) read(id identity, offset, timestamp int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := j.atLocked(offset)
	if e.hash != 0 && e.hash != id.hash {
		return fmt.Errorf("%v@%d: read producer %d's record %d, it held producer %d's record %d before", j, offset, id.producer, id.seq, e.producer, e.seq)
	}
	if e.known && e.time != timestamp {
		return fmt.Errorf("%v@%d: the timestamp is %d and was %d", j, offset, timestamp, e.time)
	}
	e.hash, e.producer, e.seq, e.key, e.tomb = id.hash, id.producer, id.seq, id.key, id.tomb
	e.time, e.known = timestamp, true
	return nil
}

// identity is what a record says of itself.
type identity struct {
	producer int32
	seq      int64
	key      uint32
	tomb     bool
	hash     uint64
}

// A record's identity lies in its first header: magic, topic tag, partition,
// producer, number, timestamp, seed, key, kind. All else follows from it.
const (
	idMagic = 0xF18A50A4
	idSize  = 56
	idName  = "id"

	flagTomb = 1
)

var seed = maphash.MakeSeed()

// make builds the record number seq of a producer.
func (t *topic) make(random *rand.Rand, partition, producer int32, seq int64) (*kgo.Record, identity) {
	id := make([]byte, idSize)
	flags, key := uint32(0), uint32(0)
	if t.kind.keys > 0 {
		key = uint32(random.IntN(t.kind.keys))
		if t.kind.tombs && random.IntN(8) == 0 {
			flags |= flagTomb
		}
	}
	now := time.Now().UnixMilli()
	be := binary.BigEndian
	be.PutUint32(id, idMagic)
	be.PutUint32(id[4:], uint32(partition))
	be.PutUint64(id[8:], t.tag)
	be.PutUint32(id[16:], uint32(producer))
	be.PutUint32(id[20:], flags)
	be.PutUint64(id[24:], uint64(seq))
	be.PutUint64(id[32:], uint64(now))
	be.PutUint64(id[40:], random.Uint64())
	be.PutUint32(id[48:], key)
	r, out := build(id, t.kind.keys > 0)
	r.Topic, r.Partition = t.name, partition
	return r, out
}

// build makes the one record that belongs to an identity.
func build(id []byte, keyed bool) (*kgo.Record, identity) {
	be := binary.BigEndian
	out := identity{producer: int32(be.Uint32(id[16:])), seq: int64(be.Uint64(id[24:])), key: be.Uint32(id[48:]),
		tomb: be.Uint32(id[20:])&flagTomb != 0}
	random := rand.New(rand.NewPCG(be.Uint64(id[40:]), 7))
	r := &kgo.Record{Timestamp: time.UnixMilli(int64(be.Uint64(id[32:]))), Headers: []kgo.RecordHeader{{Key: idName, Value: id}}}
	if keyed {
		r.Key = fmt.Appendf(nil, "key-%d", out.key)
	} else if random.IntN(3) == 0 {
		r.Key = noise(random, random.IntN(20))
	}
	if random.IntN(4) == 0 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "h", Value: noise(random, random.IntN(30))}, kgo.RecordHeader{Key: "", Value: nil})
	}
	var size int
	switch n := random.IntN(1000); {
	case n < 5:
		size = 100_000 + random.IntN(300_000)
	case n < 100:
		size = 5000 + random.IntN(10_000)
	case n < 150:
		size = random.IntN(3)
	default:
		size = 50 + random.IntN(1500)
	}
	if !out.tomb {
		r.Value = noise(random, size)
	}
	var h maphash.Hash
	h.SetSeed(seed)
	sum(&h, r.Key)
	sum(&h, r.Value)
	for _, x := range r.Headers {
		h.WriteString(x.Key)
		sum(&h, x.Value)
	}
	out.hash = h.Sum64() | 1
	return r, out
}

// sum adds bytes with their length, null apart from empty.
func sum(h *maphash.Hash, b []byte) {
	var n [8]byte
	length := int64(len(b))
	if b == nil {
		length = -1
	}
	binary.BigEndian.PutUint64(n[:], uint64(length))
	h.Write(n[:])
	h.Write(b)
}

// noise makes bytes that compress about by half.
func noise(random *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := 0; i < size; i += 16 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], random.Uint64())
		copy(b[i:], word[:])
	}
	return b
}

// identify takes a record that was read apart, and holds every byte of it
// against what its identity says.
func (j *journal) identify(key, value []byte, headers []kgo.RecordHeader, timestamp int64) (identity, error) {
	if len(headers) == 0 || headers[0].Key != idName || len(headers[0].Value) != idSize {
		return identity{}, fmt.Errorf("%v: a record without identity: %d headers, key %q", j, len(headers), key)
	}
	id := headers[0].Value
	be := binary.BigEndian
	if be.Uint32(id) != idMagic || be.Uint64(id[8:]) != j.topic.tag || int32(be.Uint32(id[4:])) != j.partition {
		return identity{}, fmt.Errorf("%v (tag %x): a record of partition %d of the topic with tag %x", j, j.topic.tag, be.Uint32(id[4:]), be.Uint64(id[8:]))
	}
	_, out := build(id, j.topic.kind.keys > 0)
	var h maphash.Hash
	h.SetSeed(seed)
	sum(&h, key)
	sum(&h, value)
	for _, x := range headers {
		h.WriteString(x.Key)
		sum(&h, x.Value)
	}
	if h.Sum64()|1 != out.hash {
		return out, fmt.Errorf("%v: the bytes of producer %d's record %d are not those that were written", j, out.producer, out.seq)
	}
	if !j.topic.kind.stamped && timestamp != int64(be.Uint64(id[32:])) {
		return out, fmt.Errorf("%v: the timestamp of producer %d's record %d is %d, not %d", j, out.producer, out.seq, timestamp, be.Uint64(id[32:]))
	}
	return out, nil
}
