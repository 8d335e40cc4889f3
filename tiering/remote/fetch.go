package remote

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/object"
)

// job is one ranged GET of adjacent chunks, each of which it has reserved.
type job struct {
	rd    *object.Reader
	first int // number of the first chunk
	fills []*cache.Fill
	ahead bool
	// landed is called for each chunk when its fill has ended, and then has the
	// job's interest in it; nil if nobody wants to know.
	landed func(chunk int, f *cache.Fill)
}

func keyOf(rd *object.Reader, n int) cache.Key {
	return cache.Key{Object: rd.Footer().Object, Chunk: uint32(n)}
}

// start runs a job on its own goroutine.
func (r *Reader) start(j *job) {
	if !r.spawn(func(ctx context.Context) { r.run(ctx, j) }) {
		j.fail(0, ErrClosed)
	}
}

// end ends the fill of the job's i-th chunk.
func (j *job) end(i int, raw []byte, err error) {
	if err != nil {
		j.fills[i].Fail(err)
	} else {
		j.fills[i].Complete(raw)
	}
	if j.landed != nil {
		j.landed(j.first+i, j.fills[i])
	} else {
		j.fills[i].Leave()
	}
}

// fail ends the fills from the i-th chunk on.
func (j *job) fail(i int, err error) {
	for ; i < len(j.fills); i++ {
		j.end(i, nil, err)
	}
}

// cost is the memory that a job needs: what comes, and what it becomes.
func (j *job) cost() (fetched, memory int64) {
	for i := range j.fills {
		k := &j.rd.Footer().Chunks[j.first+i]
		fetched += k.StoredLen
		memory += k.StoredLen
		if k.Codec != object.CodecNone {
			memory += k.RawLen
		}
	}
	return fetched, memory
}

func (r *Reader) run(ctx context.Context, j *job) {
	fetched, memory := j.cost()
	memory = r.fetching.clamp(memory)
	if err := r.fetching.Acquire(ctx, memory); err != nil {
		j.fail(0, r.classify(err))
		return
	}
	defer r.fetching.Release(memory)
	gets := r.demand
	if j.ahead {
		gets = r.ahead
	}
	if err := gets.Acquire(ctx, 1); err != nil {
		j.fail(0, r.classify(err))
		return
	}
	defer gets.Release(1)
	r.stats.getBytes.Add(fetched)
	r.bring(ctx, j)
}

// bring fetches a job's chunks. One that is corrupt is fetched again, once, with
// those behind it; if it stays so it alone fails, and the rest go on. Other
// failures were retried and resumed by the store.
func (r *Reader) bring(ctx context.Context, j *job) {
	retried := -1
	for i := 0; i < len(j.fills); {
		r.stats.gets.Add(1)
		err := j.rd.ReadChunks(ctx, j.first+i, len(j.fills)-i, func(n int, raw []byte) error {
			k := &j.rd.Footer().Chunks[n]
			idx, err := indexChunk(inMemory(raw), k)
			if err != nil {
				return &object.CorruptError{Object: j.rd.Footer().Object, Chunk: n, Detail: err.Error()}
			}
			r.indexes.put(keyOf(j.rd, n), idx)
			if retried == i {
				r.stats.corruptRepaired.Add(1)
			}
			r.stats.chunks.Add(1)
			j.end(i, raw, nil)
			i++
			return nil
		})
		switch {
		case err == nil:
			return
		case errors.Is(err, object.ErrCorrupt) && retried != i:
			retried = i
		case errors.Is(err, object.ErrCorrupt):
			r.stats.corrupt.Add(1)
			r.o.Logger.Error("remote: corrupt chunk", "object", j.rd.Footer().Object, "chunk", j.first+i, "error", err)
			j.end(i, nil, err)
			i++
		default:
			r.stats.fails.Add(1)
			j.fail(i, r.classify(err))
			return
		}
	}
}

// want reserves those of the chunks [from, to) that are neither cached nor on
// their way, and fetches adjacent ones together.
func (r *Reader) want(ctx context.Context, rd *object.Reader, from, to int) error {
	var j *job
	var bytes int64
	flush := func() {
		if j != nil {
			r.start(j)
		}
		j, bytes = nil, 0
	}
	defer flush()
	for n := from; n < to; n++ {
		size := rd.Footer().Chunks[n].StoredLen
		if bytes > 0 && bytes+size > r.o.GetBytes {
			flush()
		}
		f, err := r.reserve(ctx, rd, n)
		if err != nil {
			return err
		}
		if f == nil {
			flush()
			continue
		}
		if j == nil {
			j = &job{rd: rd, first: n}
		}
		j.fills = append(j.fills, f)
		bytes += size
	}
	return nil
}

// reserve returns the fill of a chunk that nobody has or fetches, else nil.
func (r *Reader) reserve(ctx context.Context, rd *object.Reader, n int) (*cache.Fill, error) {
	key := keyOf(rd, n)
	if r.o.Cache.Peek(key) {
		return nil, nil
	}
	h, f, owner, err := r.o.Cache.Acquire(ctx, key, false)
	switch {
	case err != nil:
		return nil, err
	case h != nil:
		h.Release()
	case owner:
		return f, nil
	default:
		f.Leave()
	}
	return nil, nil
}

// chunk returns a pinned chunk and its batch index, fetching it if need be.
func (r *Reader) chunk(ctx context.Context, rd *object.Reader, n int, visit bool) (*cache.Handle, batchIndex, error) {
	h, f, owner, err := r.o.Cache.Acquire(ctx, keyOf(rd, n), visit)
	if owner {
		f.Join()
		r.start(&job{rd: rd, first: n, fills: []*cache.Fill{f}})
	}
	if f != nil {
		h, err = f.Wait(ctx, visit)
	}
	if err != nil {
		return nil, nil, err
	}
	idx, err := r.index(rd, n, h)
	if err != nil {
		h.Release()
		return nil, nil, err
	}
	return h, idx, nil
}

// cachedChunk is chunk for one that is at hand; a nil handle if it is not.
func (r *Reader) cachedChunk(ctx context.Context, rd *object.Reader, n int) (*cache.Handle, batchIndex, error) {
	key := keyOf(rd, n)
	if !r.o.Cache.Peek(key) {
		return nil, nil, nil
	}
	h, f, owner, err := r.o.Cache.Acquire(ctx, key, true)
	switch {
	case err != nil:
		return nil, nil, err
	case owner:
		r.start(&job{rd: rd, first: n, fills: []*cache.Fill{f}})
		return nil, nil, nil
	case f != nil:
		f.Leave()
		return nil, nil, nil
	}
	idx, err := r.index(rd, n, h)
	if err != nil {
		h.Release()
		return nil, nil, err
	}
	return h, idx, nil
}

// index returns the batch index of a chunk. A cached chunk that has none yet
// (it came from disk) is walked over.
func (r *Reader) index(rd *object.Reader, n int, h *cache.Handle) (batchIndex, error) {
	key := keyOf(rd, n)
	if idx := r.indexes.get(key); idx != nil {
		return idx, nil
	}
	idx, err := indexChunk(h, &rd.Footer().Chunks[n])
	if err != nil {
		r.stats.corrupt.Add(1)
		r.o.Logger.Error("remote: cached chunk does not hold its batches", "chunk", key, "error", err)
		err = &object.CorruptError{Object: rd.Footer().Object, Chunk: n, Detail: "cached: " + err.Error()}
		return nil, errors.Join(err, r.o.Cache.Drop(key))
	}
	r.indexes.put(key, idx)
	return idx, nil
}

// batch reads one whole batch of a chunk; buf is used if the chunk is on disk.
func batch(c source, pos int64, h *record.Header, buf []byte) (record.Batch, []byte, error) {
	if b := c.Bytes(); b != nil {
		return record.Batch{Header: *h, Raw: b[pos : pos+int64(h.Size())]}, buf, nil
	}
	if cap(buf) < h.Size() {
		buf = make([]byte, h.Size())
	}
	buf = buf[:h.Size()]
	if _, err := c.ReadAt(buf, pos); err != nil {
		return record.Batch{}, buf, fmt.Errorf("read cached chunk: %w", err)
	}
	return record.Batch{Header: *h, Raw: buf}, buf, nil
}
