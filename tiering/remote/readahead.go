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
	idle   *time.Timer
}

// aheadChunk is a chunk that was read ahead. The handle keeps it in memory until
// the reader has passed it: a full cache would evict first what nobody has used
// yet. Guarded by Reader.mu.
type aheadChunk struct {
	end    record.Offset
	bytes  int64
	cost   int64         // taken from the read-ahead budget
	flying bool          // its fill has not ended
	stale  bool          // nobody wants it any more
	handle *cache.Handle // nil while flying, and for what was cached already
}

// sum is how far the stream is read ahead, bytes.
func (s *stream) sum() (n int64) {
	for _, c := range s.chunks {
		n += c.bytes
	}
	return n
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
	case req.From == s.next:
		s.window = min(max(2*s.window, minWindow), r.o.ReadAheadWindow)
	default:
		if s.next >= 0 {
			r.stats.seeks.Add(1)
		}
		drop = s.chunks
		s.chunks, s.window, s.end = nil, 0, 0
		s.turn++
	}
	s.next = res.Next
	if res.Bytes > 0 {
		s.last = res.chunk
	}
	for len(s.chunks) > 0 && s.chunks[0].end <= s.next {
		drop = append(drop, s.chunks[0])
		s.chunks = s.chunks[1:]
	}
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
		h, cost := c.handle, c.cost
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
			r.readAhead.Release(cost)
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
		for ok && n < end && f.Chunks[n].Base < e.End {
			next, more := r.aheadJob(ctx, s, turn, rd, n, end)
			if !more {
				return
			}
			n = next
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

// aheadJob asks for adjacent chunks from number n on with one GET. It returns
// the chunk to go on with, and false when the window or the budget is full.
func (r *Reader) aheadJob(ctx context.Context, s *stream, turn int, rd *object.Reader, n, end int) (next int, more bool) {
	j := &job{rd: rd, first: n, ahead: true}
	var added []*aheadChunk
	var bytes int64
	more = true
	for next = n; next < end; next++ {
		k := &rd.Footer().Chunks[next]
		if bytes > 0 && bytes+k.StoredLen > r.o.GetBytes {
			break
		}
		c := &aheadChunk{end: k.End, bytes: k.RawLen, cost: r.readAhead.clamp(k.RawLen), flying: true}
		if !r.readAhead.TryAcquire(c.cost) {
			more = false
			break
		}
		if more = r.join(s, turn, c); !more {
			r.readAhead.Release(c.cost)
			break
		}
		f, err := r.reserve(ctx, rd, next)
		if f == nil {
			r.landed(c, nil) // cached, on its way, or (error) the cache is closed
			more = err == nil
			if more && len(j.fills) == 0 {
				j.first = next + 1
				continue
			}
			if more {
				next++
			}
			break
		}
		j.fills = append(j.fills, f)
		added = append(added, c)
		bytes += k.StoredLen
		r.stats.aheadChunks.Add(1)
		r.stats.aheadBytes.Add(k.StoredLen)
	}
	if len(j.fills) > 0 {
		j.landed = func(chunk int, f *cache.Fill) { r.landed(added[chunk-j.first], f) }
		r.start(j)
	}
	return next, more
}

// join puts a chunk to the end of a stream; false if the window is full or the
// stream went elsewhere.
func (r *Reader) join(s *stream, turn int, c *aheadChunk) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
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

// landed takes note that a chunk is in the cache, and pins it; a nil fill: that
// somebody else has brought it.
func (r *Reader) landed(c *aheadChunk, f *cache.Fill) {
	var h *cache.Handle
	if f != nil {
		// The fill has ended, so this does not wait. A failed one has no handle,
		// and its error meets the reader that needs the chunk.
		h, _ = f.Wait(context.Background(), false)
	}
	r.mu.Lock()
	c.flying = false
	cost := int64(0)
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
		r.readAhead.Release(cost)
	}
}
