package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
)

// Request asks for batches of one partition.
type Request struct {
	TP       record.TopicPartition
	From     record.Offset // the first batch holds it, or is the next one after it
	UpTo     record.Offset // exclusive: no batch that ends above it
	MaxBytes int64
	// AtLeastOne gives the first batch even if it is larger than MaxBytes
	// (KIP-74). Only such a request waits for memory: others may come from a
	// fetch that holds some already, and answer nothing when there is none.
	AtLeastOne bool
	// Committed asks for the aborted transactions too (read_committed).
	Committed bool
	// Stream names the reader for read-ahead, together with TP; 0: none.
	Stream uint64
}

// Piece is some of a Result's bytes.
type Piece struct {
	Bytes []byte // not to be changed
	Len   int64  // of Bytes
}

// Result holds whole batches that follow each other.
type Result struct {
	Pieces []Piece
	Bytes  int64
	First  record.Offset // base offset of the first batch; -1 if there is none
	// Next is where to read on. Without batches it can still be above
	// Request.From: compaction left nothing between the two in the bucket.
	Next record.Offset
	// Aborted transactions that overlap the batches, by first offset; only where
	// asked for.
	Aborted []producer.Aborted

	once  sync.Once
	free  []func()
	chunk cache.Key // the last one

	waited bool // the first chunk was not at hand
}

// Release unpins the pieces, which must not be used afterwards. Further calls
// do nothing.
func (res *Result) Release() {
	res.once.Do(func() {
		for _, f := range res.free {
			f()
		}
		res.Pieces, res.free = nil, nil
	})
}

// Read returns batches from the bucket or the cache of it. It waits for the
// first chunk and takes those behind it only as far as they are at hand. See the
// package comment for its errors; besides, the context's. The caller releases
// the Result.
func (r *Reader) Read(ctx context.Context, req Request) (*Result, error) {
	res, err := retryMoved(r, func() (*Result, error) { return r.read(ctx, &req) })
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("remote read of %s at %d: %w", req.TP, req.From, err)
	}
	r.stats.reads.Add(1)
	r.stats.readBytes.Add(res.Bytes)
	if req.Stream != 0 {
		r.advance(&req, res)
	}
	return res, nil
}

// movedError carries the object that the store does not have.
type movedError struct {
	rd  *object.Reader
	err error
}

func (e *movedError) Error() string { return e.err.Error() }
func (e *movedError) Unwrap() error { return e.err }

// retryMoved runs fn again, from the metadata on, if an object was not where it
// was thought to be: it may have been moved or deleted meanwhile.
func retryMoved[T any](r *Reader, fn func() (T, error)) (T, error) {
	v, err := fn()
	if err == nil || !errors.Is(err, objstore.ErrNotExist) {
		return v, err
	}
	var moved *movedError
	if errors.As(err, &moved) {
		r.forget(moved.rd.Footer().Object)
	}
	v, err = fn()
	if errors.Is(err, objstore.ErrNotExist) {
		r.stats.missing.Add(1)
		r.o.Logger.Error("remote: object is missing", "error", err)
		err = fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return v, err
}

// Hint begins to fetch what a Read of the same request would wait for, and
// returns at once. Who reads many partitions hints at all of them first. What
// fails is met by the Read.
func (r *Reader) Hint(req Request) {
	r.spawn(func(ctx context.Context) {
		m, err := r.o.Entries.Entries(ctx, req.TP)
		if err != nil {
			return
		}
		e, ok := m.Find(req.From)
		if !ok {
			return
		}
		rd, err := r.openRun(ctx, &e)
		if err != nil {
			return
		}
		f, run := rd.Footer(), int(e.Run)
		if n, ok := f.FindOffset(run, req.From); ok {
			end := f.Runs[run].FirstChunk + f.Runs[run].Chunks
			r.want(&req, rd, n, demandEnd(f, n, end, req.From, req.MaxBytes), end)
		}
	})
}

func (r *Reader) entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error) {
	m, err := r.o.Entries.Entries(ctx, tp)
	if err != nil {
		return m, r.classify(err)
	}
	return m, nil
}

// openRun opens an entry's object and checks that it has the entry's run.
func (r *Reader) openRun(ctx context.Context, e *manifest.Entry) (*object.Reader, error) {
	rd, err := r.open(ctx, e.Object)
	if err != nil {
		return nil, err
	}
	if int(e.Run) >= len(rd.Footer().Runs) {
		return nil, &object.CorruptError{Object: e.Object, Chunk: -1, Detail: fmt.Sprintf("it has no run %d", e.Run)}
	}
	return rd, nil
}

func (r *Reader) read(ctx context.Context, req *Request) (*Result, error) {
	m, err := r.entries(ctx, req.TP)
	if err != nil {
		return nil, err
	}
	e, ok := m.Find(req.From)
	if !ok {
		return nil, ErrNotFound
	}
	for from := req.From; ; {
		rd, err := r.openRun(ctx, &e)
		if err != nil {
			return nil, err
		}
		res, err := r.readEntry(ctx, req, &e, rd, from)
		if err != nil {
			if errors.Is(err, objstore.ErrNotExist) {
				err = &movedError{rd, err}
			}
			return nil, err
		}
		if res != nil {
			return res, nil
		}
		// Nothing of this entry is left at or after from.
		from = e.End
		if e, ok = m.Find(from); !ok || from >= req.UpTo {
			return &Result{First: -1, Next: from}, nil
		}
	}
}

// readEntry reads from one entry; nil if it has no batch at or after from.
func (r *Reader) readEntry(ctx context.Context, req *Request, e *manifest.Entry, rd *object.Reader, from record.Offset) (*Result, error) {
	f, run := rd.Footer(), int(e.Run)
	n, ok := f.FindOffset(run, from)
	if !ok || f.Chunks[n].Base >= e.End {
		return nil, nil
	}
	end := f.Runs[run].FirstChunk + f.Runs[run].Chunks
	r.want(req, rd, n, demandEnd(f, n, end, from, req.MaxBytes), end)
	res := &Result{First: -1, Next: from}
	upTo := min(req.UpTo, e.End)
	for first := true; n < end; n, first = n+1, false {
		s, ok, err := r.take(ctx, req, res, rd, n, upTo, first)
		if err != nil {
			res.Release()
			return nil, err
		}
		if first && s.first >= e.End {
			return nil, nil
		}
		if !ok || s.more {
			break
		}
	}
	if req.Committed && res.Bytes > 0 {
		for _, a := range f.Runs[run].Aborted {
			if t := producer.Aborted(a); t.Overlaps(from, res.Next) {
				res.Aborted = append(res.Aborted, t)
			}
		}
	}
	return res, nil
}

// demandEnd is the end of the chunks that a request for maxBytes from an offset
// in chunk n likely touches. Where in the chunk the offset is, is estimated: a
// chunk too many costs a GET of 4 MiB.
func demandEnd(f *object.Footer, n, end int, from record.Offset, maxBytes int64) int {
	k := &f.Chunks[n]
	left := float64(k.End-max(from, k.Base)) / float64(k.End-k.Base)
	to := n + 1
	for bytes := int64(left * float64(k.RawLen)); to < end && to-n < maxDemandChunks && bytes < maxBytes; to++ {
		bytes += f.Chunks[to].RawLen
	}
	return to
}

// maxDemandChunks bounds what one request without read-ahead fetches at once.
const maxDemandChunks = 8

// take adds what the limits allow of chunk n to the result. The first chunk is
// waited for; false means that another is not at hand, or that there is no
// budget for this one.
func (r *Reader) take(ctx context.Context, req *Request, res *Result, rd *object.Reader, n int, upTo record.Offset, first bool) (s span, ok bool, err error) {
	k := &rd.Footer().Chunks[n]
	left := req.MaxBytes - res.Bytes
	if !first && (left < record.HeaderSize || k.Base >= upTo) {
		return span{}, false, nil
	}
	cost := r.pinned.clamp(k.RawLen)
	if first && req.AtLeastOne {
		if err := r.pinned.Acquire(ctx, cost); err != nil {
			return span{}, false, err
		}
	} else if !r.pinned.TryAcquire(cost) {
		r.stats.shortened.Add(1)
		return span{}, false, nil
	}
	free := func() { r.pinned.Release(cost) }
	var h *cache.Handle
	var idx batchIndex
	if first {
		h, idx, res.waited, err = r.chunk(ctx, rd, n, r.comesAnew(req, rd, n))
	} else {
		h, idx, err = r.cachedChunk(ctx, rd, n)
	}
	if err == nil && h != nil {
		s, err = idx.find(h.Bytes(), res.Next, upTo, left, req.AtLeastOne && res.Bytes == 0)
		if err != nil {
			err = fmt.Errorf("object %s chunk %d: %w", rd.Footer().Object, n, err)
		}
	}
	if err != nil || h == nil || s.end == s.pos {
		free()
		if h != nil {
			h.Release()
		}
		return s, h != nil, err
	}
	res.add(h, s, free)
	res.chunk = keyOf(rd, n)
	return s, true, nil
}

// add appends a span of a chunk; the result releases it.
func (res *Result) add(h *cache.Handle, s span, free func()) {
	p := Piece{Len: s.end - s.pos, Bytes: h.Bytes()[s.pos:s.end:s.end]}
	res.free = append(res.free, h.Release, free)
	if res.First < 0 {
		res.First = s.first
	}
	res.Pieces = append(res.Pieces, p)
	res.Bytes += p.Len
	res.Next = s.next
}
