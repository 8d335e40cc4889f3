package remote

import (
	"context"
	"time"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/object"
)

// minWindow is how far the first read-ahead of a stream goes, bytes.
const minWindow = 8 << 20

type streamKey struct {
	id uint64
	tp record.TopicPartition
}

// stream is one reader of one partition. Guarded by Reader.mu.
//
// INVARIANT: chunks ascend, and end above next.
type stream struct {
	key    streamKey
	next   record.Offset // where a sequential reader reads on
	last   cache.Key     // the chunk that it read last
	window int64         // how far to read ahead, bytes; 0 until it is sequential
	chunks []*aheadChunk // read ahead and not yet read
	end    record.Offset // chunks below it are cached, or asked for
	turn   int           // counts seeks: work begun before the last one is stale
	busy   bool          // a goroutine extends it
	job    *job          // the GET that is read as the stream goes on, or nil
	idle   *time.Timer
}

// aheadChunk is a chunk that was read ahead. The handle keeps it in memory until
// the reader has passed it: a full cache would evict first what nobody has used
// yet. Guarded by Reader.mu.
type aheadChunk struct {
	base   record.Offset
	end    record.Offset
	bytes  int64
	cost   int64         // taken from the budget
	budget *budget       // readAhead; reading once its reader has come to it
	flying bool          // its fill has not ended
	stale  bool          // nobody wants it any more
	handle *cache.Handle // nil while flying, and for what somebody else fetches
}

// sum is how far the stream is read ahead, bytes: chunks that its reader has not
// come to.
func (s *stream) sum() (n int64) {
	for _, c := range s.chunks {
		if c.base >= s.next {
			n += c.bytes
		}
	}
	return n
}

// beginLocked moves chunks that the reader has come to out of the way of those
// ahead of it: they stay pinned, as he comes back for the rest of them, but make
// room for the next.
func (r *Reader) beginLocked(s *stream) {
	for _, c := range s.chunks {
		if c.base < s.next && c.budget == &r.readAhead && c.cost > 0 && r.reading.TryAcquire(c.cost) {
			c.budget = &r.reading
			r.readAhead.Release(c.cost)
		}
	}
}

// comesAnew reports whether a request comes to this chunk from another one.
func (r *Reader) comesAnew(req *Request, rd *object.Reader, n int) bool {
	if req.Stream == 0 {
		return req.From <= rd.Footer().Chunks[n].Base
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.streams[streamKey{req.Stream, req.TP}]
	return s == nil || s.last != keyOf(rd, n)
}

// advance notes what a stream has read, and reads ahead.
func (r *Reader) advance(req *Request, res *Result) {
	key := streamKey{req.Stream, req.TP}
	r.mu.Lock()
	s := r.streams[key]
	if s == nil {
		if r.closed || r.readAhead.size == 0 || len(r.streams) >= r.o.Streams {
			r.mu.Unlock()
			return
		}
		s = &stream{key: key, next: -1}
		s.idle = time.AfterFunc(r.o.StreamIdle, func() { r.forgetStream(s) })
		r.streams[key] = s
	} else {
		s.idle.Reset(r.o.StreamIdle)
	}
	var drop []*aheadChunk
	switch {
	case req.From == s.next && res.Next == s.next: // it found nothing new
	case req.From == s.next && s.window == 0:
		s.window = min(minWindow, r.o.ReadAheadWindow)
	case req.From == s.next && res.waited:
		// Not further than it takes: what lies read ahead is memory, and the longer
		// it lies the colder.
		s.window = min(2*s.window, r.o.ReadAheadWindow)
	case req.From == s.next:
	default:
		if s.next >= 0 {
			r.stats.seeks.Add(1)
		}
		drop = s.chunks
		s.chunks, s.window, s.end = nil, 0, 0
		s.turn++
		s.job.finishLocked()
		s.job = nil
	}
	s.next = res.Next
	if res.Bytes > 0 {
		s.last = res.chunk
	}
	for len(s.chunks) > 0 && s.chunks[0].end <= s.next {
		drop = append(drop, s.chunks[0])
		s.chunks = s.chunks[1:]
	}
	r.beginLocked(s)
	extend := r.shouldExtendLocked(s)
	s.busy = s.busy || extend
	turn := s.turn
	r.mu.Unlock()
	r.release(drop)
	if extend && !r.spawn(func(ctx context.Context) { r.extend(ctx, s, turn) }) {
		r.rest(s)
	}
}

// shouldExtendLocked: half of the window was read, so that GETs are large.
func (r *Reader) shouldExtendLocked(s *stream) bool {
	return !s.busy && s.window > 0 && s.sum() <= r.windowLocked(s)/2
}

// windowLocked is the stream's window within its share of the budget.
func (r *Reader) windowLocked(s *stream) int64 {
	return min(s.window, max(r.readAhead.size/int64(len(r.streams)+1), object.DefaultChunkBytes))
}

// release gives back chunks that no stream holds any more.
func (r *Reader) release(chunks []*aheadChunk) {
	for _, c := range chunks {
		r.mu.Lock()
		c.stale = true
		h, cost, budget := c.handle, c.cost, c.budget
		c.handle = nil
		if c.flying {
			cost = 0 // landed gives it back
		} else {
			c.cost = 0
		}
		r.mu.Unlock()
		if h != nil {
			h.Release()
		}
		if cost > 0 {
			budget.Release(cost)
		}
	}
}

// forgetStream ends a stream that was idle.
func (r *Reader) forgetStream(s *stream) {
	r.mu.Lock()
	drop := r.forgetStreamLocked(s)
	r.mu.Unlock()
	r.release(drop)
}

func (r *Reader) forgetStreamLocked(s *stream) []*aheadChunk {
	s.idle.Stop()
	s.turn++
	if r.streams[s.key] == s {
		delete(r.streams, s.key)
	}
	drop := s.chunks
	s.chunks = nil
	s.job.finishLocked()
	s.job = nil
	return drop
}

// CloseStream forgets what was read ahead for a reader that has gone, in all
// its partitions.
func (r *Reader) CloseStream(id uint64) {
	var drop []*aheadChunk
	r.mu.Lock()
	for key, s := range r.streams {
		if key.id == id {
			drop = append(drop, r.forgetStreamLocked(s)...)
		}
	}
	r.mu.Unlock()
	r.release(drop)
}

func (r *Reader) rest(s *stream) {
	r.mu.Lock()
	s.busy = false
	r.mu.Unlock()
}

// extend reads ahead until the window is full, over the ends of entries. A
// failure ends it: the reader will meet it, if it comes that far.
func (r *Reader) extend(ctx context.Context, s *stream, turn int) {
	defer r.rest(s)
	m, err := r.o.Entries.Entries(ctx, s.key.tp)
	if err != nil {
		return
	}
	r.mu.Lock()
	at := max(s.next, s.end)
	r.mu.Unlock()
	for {
		e, ok := m.Find(at)
		if !ok {
			return
		}
		rd, err := r.openRun(ctx, &e)
		if err != nil {
			return
		}
		f, run := rd.Footer(), int(e.Run)
		end := f.Runs[run].FirstChunk + f.Runs[run].Chunks
		n, ok := f.FindOffset(run, at)
		for ; ok && n < end && f.Chunks[n].Base < e.End; n++ {
			if !r.readOn(ctx, s, turn, rd, n, end) {
				return
			}
		}
		at = e.End
		r.mu.Lock()
		fresh := s.turn == turn
		if fresh {
			s.end = max(s.end, at)
		}
		r.mu.Unlock()
		if !fresh {
			return
		}
	}
}

// readOn asks for chunk n of the chunks below end; false when the window or the
// budget is full.
func (r *Reader) readOn(ctx context.Context, s *stream, turn int, rd *object.Reader, n, end int) bool {
	k := &rd.Footer().Chunks[n]
	c := &aheadChunk{base: k.Base, end: k.End, bytes: k.RawLen, cost: r.readAhead.clamp(k.RawLen), budget: &r.readAhead, flying: true}
	if !r.readAhead.TryAcquire(c.cost) {
		return false
	}
	r.mu.Lock()
	joined := r.joinLocked(s, turn, c)
	var f *cache.Fill
	var start *job
	if joined {
		if f = r.o.Cache.Reserve(keyOf(rd, n)); f != nil {
			start = r.pushLocked(s, rd, n, end, reserved{f, c})
		}
	}
	r.mu.Unlock()
	if !joined {
		r.readAhead.Release(c.cost)
		return false
	}
	if start != nil {
		r.start(start)
	}
	if f != nil {
		r.stats.aheadChunks.Add(1)
		r.stats.aheadBytes.Add(k.StoredLen)
		return true
	}
	h, err := r.pin(ctx, rd, n)
	r.landed(c, h)
	return err == nil
}

// pin returns a chunk that is cached, if need be from disk; nil if it is on its way.
func (r *Reader) pin(ctx context.Context, rd *object.Reader, n int) (*cache.Handle, error) {
	h, f, owner, err := r.o.Cache.Acquire(ctx, keyOf(rd, n), false)
	switch {
	case owner: // it was evicted meanwhile; its reader will fetch it
		r.demandJob(rd, n, f)
	case f != nil:
		f.Leave()
	}
	return h, err
}

// pushLocked adds chunk n to the stream's GET if that comes to it next. Else it
// returns a new one for the caller to start.
func (r *Reader) pushLocked(s *stream, rd *object.Reader, n, end int, c reserved) (start *job) {
	if j := s.job; j != nil && !j.whole && j.rd == rd && j.first+len(j.queue) == n && n < j.end &&
		time.Since(j.began) < r.o.FetchTimeout/2 { // what it takes now comes before it ends
		j.queue = append(j.queue, c)
		j.wake()
		return nil
	}
	s.job.finishLocked()
	j := &job{rd: rd, first: n, end: n + 1, ahead: true, began: time.Now(), retried: -1,
		queue: []reserved{c}, more: make(chan struct{}, 1)}
	chunks := rd.Footer().Chunks
	for bytes := chunks[n].StoredLen; j.end < end; j.end++ {
		if bytes += chunks[j.end].StoredLen; bytes > r.o.StreamBytes {
			break
		}
	}
	s.job = j
	return j
}

// joinLocked puts a chunk to the end of a stream; false if the window is full or the
// stream went elsewhere.
func (r *Reader) joinLocked(s *stream, turn int, c *aheadChunk) bool {
	if s.turn != turn || s.sum() >= r.windowLocked(s) {
		return false
	}
	s.end = max(s.end, c.end)
	if c.end <= s.next {
		c.stale = true // the reader was faster
		return true
	}
	s.chunks = append(s.chunks, c)
	return true
}

// landed takes note that a chunk is in the cache, and keeps its handle, which may be
// nil if it could not be had.
func (r *Reader) landed(c *aheadChunk, h *cache.Handle) {
	r.mu.Lock()
	c.flying = false
	cost, budget := int64(0), c.budget
	if c.stale || h == nil {
		cost, c.cost = c.cost, 0
	} else {
		c.handle, h = h, nil
	}
	r.mu.Unlock()
	if h != nil {
		h.Release()
	}
	if cost > 0 {
		budget.Release(cost)
	}
}
