package remote

import (
	"container/list"
	"fmt"
	"sort"
	"sync"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/object"
)

// indexInterval is the distance between indexed batches of a chunk, bytes.
const indexInterval = 32 << 10

// mark is where a batch begins in its chunk.
type mark struct {
	base record.Offset
	prev record.Offset // next offset of the batch before; differs from base at a gap
	pos  int64
}

// batchIndex is a sparse index of the batches of a chunk, in their order. The
// first batch is always in it.
type batchIndex []mark

// headerAt reads the header of the batch at pos of a chunk, and checks that all of
// the batch is in the chunk.
func headerAt(chunk []byte, pos int64) (record.Header, error) {
	h, err := record.ReadHeader(chunk[min(pos, int64(len(chunk))):])
	if err != nil {
		return h, fmt.Errorf("batch at %d: %w", pos, err)
	}
	if pos+int64(h.Size()) > int64(len(chunk)) || h.LastOffsetDelta < 0 {
		return h, fmt.Errorf("batch at %d: %w", pos, record.ErrTruncated)
	}
	return h, nil
}

// indexChunk walks over all batches of a chunk and checks that they are those
// that the chunk index promises.
func indexChunk(chunk []byte, k *object.Chunk) (batchIndex, error) {
	var idx batchIndex
	last, from := k.Base, int64(-indexInterval)
	for pos := int64(0); pos < int64(len(chunk)); {
		h, err := headerAt(chunk, pos)
		if err != nil {
			return nil, err
		}
		if h.BaseOffset < last || pos == 0 && h.BaseOffset != k.Base {
			return nil, fmt.Errorf("batch at %d has offset %d, after %d", pos, h.BaseOffset, last)
		}
		if pos-from >= indexInterval {
			idx = append(idx, mark{base: h.BaseOffset, prev: last, pos: pos})
			from = pos
		}
		last = h.NextOffset()
		pos += int64(h.Size())
	}
	if last != k.End {
		return nil, fmt.Errorf("batches end at offset %d, not %d", last, k.End)
	}
	return idx, nil
}

// span is a run of whole batches in a chunk.
type span struct {
	pos, end int64
	first    record.Offset // base offset of the first batch
	next     record.Offset // after the last batch; or where to look next if empty
	// more says that the span was ended by a limit: by want of room, or by a
	// batch that reaches above upTo.
	more bool
}

// find returns the batches from the one that holds from (or the next one, where
// compaction removed it) on, none above upTo, at most maxBytes of them, but at
// least one if one is set and upTo allows it.
func (idx batchIndex) find(chunk []byte, from, upTo record.Offset, maxBytes int64, one bool) (span, error) {
	i := sort.Search(len(idx), func(i int) bool { return idx[i].base > from }) - 1
	pos := idx[max(i, 0)].pos
	h, err := headerAt(chunk, pos)
	for err == nil && h.NextOffset() <= from {
		if pos += int64(h.Size()); pos >= int64(len(chunk)) {
			return span{pos: pos, end: pos, next: from}, nil
		}
		h, err = headerAt(chunk, pos)
	}
	if err != nil {
		return span{}, err
	}
	s := span{pos: pos, end: pos, first: h.BaseOffset, next: from}
	if h.NextOffset() > upTo || int64(h.Size()) > maxBytes && !one {
		s.more = true
		return s, nil
	}
	s.end, s.next = pos+int64(h.Size()), h.NextOffset()
	// Batches before a mark within both limits are within them too.
	j := sort.Search(len(idx), func(j int) bool { return idx[j].pos-pos > maxBytes || idx[j].prev > upTo }) - 1
	if j >= 0 && idx[j].pos > s.end {
		s.end, s.next = idx[j].pos, idx[j].prev
	}
	for s.end < int64(len(chunk)) {
		if h, err = headerAt(chunk, s.end); err != nil {
			return span{}, err
		}
		if h.NextOffset() > upTo || s.end+int64(h.Size())-pos > maxBytes {
			s.more = true
			break
		}
		s.end += int64(h.Size())
		s.next = h.NextOffset()
	}
	return s, nil
}

// maxIndexes is how many chunks' batch indexes are kept: of 4 MiB chunks about
// 2 KiB each.
const maxIndexes = 8192

// indexes keeps the batch indexes of the chunks used last.
type indexes struct {
	mu    sync.Mutex
	byKey map[cache.Key]*list.Element
	order list.List // of indexed, used last first
}

type indexed struct {
	key cache.Key
	idx batchIndex
}

func newIndexes() *indexes { return &indexes{byKey: make(map[cache.Key]*list.Element)} }

func (x *indexes) get(key cache.Key) batchIndex {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byKey[key]
	if e == nil {
		return nil
	}
	x.order.MoveToFront(e)
	return e.Value.(indexed).idx
}

func (x *indexes) put(key cache.Key, idx batchIndex) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byKey[key]; e != nil {
		x.order.MoveToFront(e)
		return
	}
	x.byKey[key] = x.order.PushFront(indexed{key, idx})
	if x.order.Len() > maxIndexes {
		old := x.order.Remove(x.order.Back()).(indexed)
		delete(x.byKey, old.key)
	}
}
