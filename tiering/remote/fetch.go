package remote

import (
	"context"
	"errors"
	"time"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/tiering/object"
)

// job is one ranged GET of adjacent chunks, each of which was reserved before it
// is read. That of a reader who waits is as long as what he waits for. That of
// read-ahead asks for more, and is read as the stream reserves more: one request of
// 64 MiB costs store and broker a fraction of the CPU of eight.
type job struct {
	rd    *object.Reader
	end   int // of the chunks that the GET asks for
	ahead bool
	began time.Time

	// Of the job's goroutine.
	body    *object.Chunks // nil until there is one
	retried int            // chunk that was fetched again, -1 none

	// Guarded by Reader.mu.
	first int           // chunk that the queue begins with
	queue []reserved    // to be read
	whole bool          // nothing will be added to the queue
	more  chan struct{} // 1: the queue or whole has changed
}

// reserved is a chunk on its way.
type reserved struct {
	fill *cache.Fill
	// chunk of a stream, which has the job's interest in the fill once that has
	// ended; nil if no stream wants to know.
	chunk *aheadChunk
}

// parkTime is how long a GET waits for its stream to go on.
const parkTime = 5 * time.Second

func keyOf(rd *object.Reader, n int) cache.Key {
	return cache.Key{Object: rd.Footer().Object, Chunk: uint32(n)}
}

// demandJob begins the GET of chunks that a reader waits for.
func (r *Reader) demandJob(rd *object.Reader, first int, fills ...*cache.Fill) {
	j := &job{rd: rd, first: first, end: first + len(fills), retried: -1, whole: true}
	for _, f := range fills {
		j.queue = append(j.queue, reserved{fill: f})
	}
	r.start(j)
}

// start runs a job on its own goroutine.
func (r *Reader) start(j *job) {
	if !r.spawn(func(ctx context.Context) { r.run(ctx, j) }) {
		r.fail(j, ErrClosed)
	}
}

// land ends the fill of a chunk.
func (r *Reader) land(c reserved, raw []byte, crc uint32, err error) {
	if err != nil {
		c.fill.Fail(err)
	} else {
		c.fill.Complete(raw, crc)
	}
	if c.chunk == nil {
		c.fill.Leave()
		return
	}
	// The fill has ended, so this does not wait. A failed one has no handle, and its
	// error meets the reader that needs the chunk.
	h, _ := c.fill.Wait(context.Background(), false)
	r.landed(c.chunk, h)
}

// fail ends a job and what is in its queue.
func (r *Reader) fail(j *job, err error) {
	r.mu.Lock()
	queue := j.queue
	j.queue, j.whole = nil, true
	r.mu.Unlock()
	for _, c := range queue {
		r.land(c, nil, 0, err)
	}
}

// finishLocked lets a job end with what is in its queue. j may be nil.
func (j *job) finishLocked() {
	if j != nil {
		j.whole = true
		j.wake()
	}
}

func (j *job) wake() {
	select {
	case j.more <- struct{}{}:
	default:
	}
}

// front is the first chunk in the queue; false if there is none.
func (r *Reader) front(j *job) (n int, c reserved, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(j.queue) == 0 {
		return 0, reserved{}, false
	}
	return j.first, j.queue[0], true
}

// pop takes the first chunk off the queue.
func (r *Reader) pop(j *job) {
	r.mu.Lock()
	j.first++
	j.queue[0] = reserved{}
	j.queue = j.queue[1:]
	r.mu.Unlock()
}

// run reads chunks until no more are wanted of this GET.
func (r *Reader) run(ctx context.Context, j *job) {
	defer func() {
		if err := j.hangUp(); err != nil {
			r.o.Logger.Debug("remote: end of a GET", "error", err)
		}
	}()
	gets := r.demand
	if j.ahead {
		gets = r.ahead
	}
	for more := true; more; {
		if err := gets.Acquire(ctx, 1); err != nil {
			r.fail(j, r.classify(err))
			return
		}
		err := r.bring(ctx, j)
		gets.Release(1)
		if err != nil {
			r.stats.fails.Add(1)
			r.fail(j, r.classify(err))
			return
		}
		more = r.park(ctx, j)
	}
}

// park waits until there is more to read; false when the job has ended.
func (r *Reader) park(ctx context.Context, j *job) bool {
	timer := time.NewTimer(parkTime)
	defer timer.Stop()
	for late := false; ; {
		r.mu.Lock()
		if len(j.queue) > 0 {
			r.mu.Unlock()
			return true
		}
		j.whole = j.whole || late
		whole := j.whole
		r.mu.Unlock()
		if whole {
			return false
		}
		select {
		case <-j.more:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			late = true
		}
	}
}

// hangUp ends the GET, if there is one.
func (j *job) hangUp() error {
	if j.body == nil {
		return nil
	}
	err := j.body.Close()
	j.body = nil
	return err
}

// bring reads what is in a job's queue. A chunk that is corrupt is fetched again,
// once, with those behind it; if it stays so it alone fails, and the rest go on.
// Other failures, which were retried and resumed by the store, are returned.
func (r *Reader) bring(ctx context.Context, j *job) error {
	for {
		n, c, ok := r.front(j)
		if !ok {
			return nil
		}
		raw, err := r.bringOne(ctx, j, n)
		switch {
		case err == nil:
			r.pop(j)
			r.land(c, raw, j.rd.Footer().Chunks[n].RawCRC, nil)
			continue
		case !errors.Is(err, object.ErrCorrupt):
			return err
		case j.retried == n:
			r.stats.corrupt.Add(1)
			r.o.Logger.Error("remote: corrupt chunk", "object", j.rd.Footer().Object, "chunk", n, "error", err)
			r.pop(j)
			r.land(c, nil, 0, err)
		}
		j.retried = n
		if err := j.hangUp(); err != nil {
			return err
		}
	}
}

// bringOne reads the n-th chunk and indexes it.
func (r *Reader) bringOne(ctx context.Context, j *job, n int) ([]byte, error) {
	k := &j.rd.Footer().Chunks[n]
	memory := k.StoredLen // what comes, and what it becomes
	if k.Codec != object.CodecNone {
		memory += k.RawLen
	}
	memory = r.fetching.clamp(memory)
	if err := r.fetching.Acquire(ctx, memory); err != nil {
		return nil, err
	}
	defer r.fetching.Release(memory)
	r.o.Cache.Pace(ctx)
	if j.body == nil {
		r.stats.gets.Add(1)
		body, err := j.rd.Chunks(ctx, n, j.end)
		if err != nil {
			return nil, err
		}
		j.body = body
	}
	r.stats.getBytes.Add(k.StoredLen)
	raw, err := j.body.Next(ctx)
	if err != nil {
		return nil, err
	}
	idx, err := indexChunk(raw, k)
	if err != nil {
		r.o.Cache.Recycle(raw)
		return nil, &object.CorruptError{Object: j.rd.Footer().Object, Chunk: n, Detail: err.Error()}
	}
	r.indexes.put(keyOf(j.rd, n), idx)
	if j.retried == n {
		r.stats.corruptRepaired.Add(1)
	}
	r.stats.chunks.Add(1)
	return raw, nil
}

// want reserves those of the chunks [from, to) that are neither cached nor on
// their way. They come with the GET of the request's stream if that goes on to
// them, else adjacent ones together. end is that of the run.
func (r *Reader) want(req *Request, rd *object.Reader, from, to, end int) {
	var fills []*cache.Fill
	var bytes int64
	flush := func(n int) {
		if len(fills) > 0 {
			r.demandJob(rd, n-len(fills), fills...)
		}
		fills, bytes = nil, 0
	}
	for n := from; n < to; n++ {
		size := rd.Footer().Chunks[n].StoredLen
		if bytes > 0 && bytes+size > r.o.GetBytes {
			flush(n)
		}
		f, start := r.reserve(req, rd, n, end)
		if start != nil {
			r.start(start)
		}
		if f == nil {
			flush(n)
			continue
		}
		fills = append(fills, f)
		bytes += size
	}
	flush(to)
}

// reserve returns the fill of a chunk that nobody has or fetches and that does not
// come with the stream's GET, and the job to be started if that is a new one.
func (r *Reader) reserve(req *Request, rd *object.Reader, n, end int) (*cache.Fill, *job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.o.Cache.Reserve(keyOf(rd, n))
	s := r.streams[streamKey{req.Stream, req.TP}]
	if f == nil || req.Stream == 0 || s == nil || s.window == 0 || s.next != req.From {
		return f, nil
	}
	c := reserved{fill: f}
	k := &rd.Footer().Chunks[n]
	if last := len(s.chunks) - 1; (last < 0 || s.chunks[last].end <= k.Base) && r.reading.TryAcquire(r.reading.clamp(k.RawLen)) {
		// It stays until the stream has passed it, as what is read ahead does.
		c.chunk = &aheadChunk{base: k.Base, end: k.End, bytes: k.RawLen, cost: r.reading.clamp(k.RawLen), budget: &r.reading, flying: true}
		s.chunks = append(s.chunks, c.chunk)
		s.end = max(s.end, k.End)
	}
	return nil, r.pushLocked(s, rd, n, end, c)
}

// chunk returns a pinned chunk and its batch index, fetching it if need be, and
// whether it had to be waited for.
func (r *Reader) chunk(ctx context.Context, rd *object.Reader, n int, visit bool) (h *cache.Handle, idx batchIndex, waited bool, err error) {
	h, f, owner, err := r.o.Cache.Acquire(ctx, keyOf(rd, n), visit)
	if owner {
		f.Join()
		r.demandJob(rd, n, f)
	}
	if f != nil {
		waited = true
		h, err = f.Wait(ctx, visit)
	}
	if err != nil {
		return nil, nil, waited, err
	}
	idx, err = r.index(rd, n, h)
	if err != nil {
		h.Release()
		return nil, nil, waited, err
	}
	return h, idx, waited, nil
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
		r.demandJob(rd, n, f)
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
	idx, err := indexChunk(h.Bytes(), &rd.Footer().Chunks[n])
	if err != nil {
		r.stats.corrupt.Add(1)
		r.o.Logger.Error("remote: cached chunk does not hold its batches", "chunk", key, "error", err)
		err = &object.CorruptError{Object: rd.Footer().Object, Chunk: n, Detail: "cached: " + err.Error()}
		return nil, errors.Join(err, r.o.Cache.Drop(key))
	}
	r.indexes.put(key, idx)
	return idx, nil
}
