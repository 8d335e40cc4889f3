package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
)

var (
	// ErrNotFound means that, by the metadata, the offset is not in the bucket: it lies
	// below the log start or at or above the remote end.
	ErrNotFound = errors.New("remote: offset is not in the object store")
	// ErrUnavailable means that the object store could not answer now. Nothing follows for
	// the offset; the same request may succeed later.
	ErrUnavailable = errors.New("remote: object store is not available")
	// ErrMissing means that the metadata names an object that the store does not have.
	ErrMissing = errors.New("remote: object is missing")
	// ErrClosed means that the reader was closed.
	ErrClosed = errors.New("remote: closed")
)

// Entries is where the remote entries of a partition come from.
type Entries interface {
	Entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error)
}

// Location is where an object is now; it may move between stores.
type Location struct {
	Store  object.Store // an objstore.Store, with retries
	Key    string
	Size   int64 // of the whole object, bytes
	Footer int64 // position of the footer, bytes; 0 if not known
}

// Options configure a Reader. Sizes are bytes; zero takes the default.
type Options struct {
	Entries Entries
	// Locate finds an object by its UUID, from the metadata. ErrNotFound (or an
	// error that matches it) means that there is no such object.
	Locate func(ctx context.Context, object uuid.UUID) (Location, error)
	Cache  *cache.Cache
	Keys   object.KeyProvider // nil if no object is encrypted
	Logger *slog.Logger       // default slog.Default()

	GetBytes        int64         // most that one GET for a reader who waits asks for, unless a chunk is larger; default 8 MiB
	StreamBytes     int64         // the same for read-ahead, which reads it by and by; default 64 MiB
	ParallelGets    int           // at one time for readers who wait, and as many for read-ahead; default 8
	FetchBytes      int64         // being fetched; default 256 MiB
	PinnedBytes     int64         // chunks in memory pinned by Results; default 256 MiB
	ReadAheadBytes  int64         // read ahead by all streams and not yet come to, and as much that is being read; default 256 MiB; negative: no read-ahead
	ReadAheadWindow int64         // read ahead of one stream; default 64 MiB
	FooterBytes     int64         // footers kept open; default 32 MiB
	FetchTimeout    time.Duration // of one GET with its retries; default 5 min
	StreamIdle      time.Duration // after which a stream is forgotten; default 30 s
	Streams         int           // remembered at most; default 10,000
}

func (o *Options) fill() {
	for _, d := range []struct {
		field *int64
		value int64
	}{
		{&o.GetBytes, 8 << 20}, {&o.StreamBytes, 64 << 20}, {&o.FetchBytes, 256 << 20}, {&o.PinnedBytes, 256 << 20},
		{&o.ReadAheadBytes, 256 << 20}, {&o.ReadAheadWindow, 64 << 20}, {&o.FooterBytes, 32 << 20},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.ParallelGets <= 0 {
		o.ParallelGets = 8
	}
	if o.FetchTimeout <= 0 {
		o.FetchTimeout = 5 * time.Minute
	}
	if o.StreamIdle <= 0 {
		o.StreamIdle = 30 * time.Second
	}
	if o.Streams <= 0 {
		o.Streams = 10_000
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Reader is described in the package comment. It is safe for concurrent use.
type Reader struct {
	o       Options
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	work    sync.WaitGroup
	indexes *indexes
	stats   counters

	demand, ahead *semaphore.Weighted // GETs at one time
	fetching      budget              // bytes
	pinned        budget
	readAhead     budget
	reading       budget // of streams: chunks that were read ahead, and their reader has come to

	mu      sync.Mutex
	closed  bool
	footers footers
	streams map[streamKey]*stream
}

// budget is a number of bytes that are taken before and given back after.
type budget struct {
	*semaphore.Weighted
	size int64
}

func newBudget(n int64) budget { return budget{semaphore.NewWeighted(n), n} }

// clamp is what n bytes cost: one item larger than the whole budget may pass
// alone.
func (b budget) clamp(n int64) int64 { return min(n, b.size) }

// New makes a Reader. Entries, Locate and Cache are required.
func New(o Options) (*Reader, error) {
	if o.Entries == nil || o.Locate == nil || o.Cache == nil {
		return nil, errors.New("remote: Entries, Locate and Cache are required")
	}
	o.fill()
	r := &Reader{
		o:         o,
		indexes:   newIndexes(),
		demand:    semaphore.NewWeighted(int64(o.ParallelGets)),
		ahead:     semaphore.NewWeighted(int64(o.ParallelGets)),
		fetching:  newBudget(o.FetchBytes),
		pinned:    newBudget(o.PinnedBytes),
		readAhead: newBudget(max(o.ReadAheadBytes, 0)),
		reading:   newBudget(max(o.ReadAheadBytes, 0)),
		footers:   newFooters(o.FooterBytes),
		streams:   make(map[streamKey]*stream),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// Close ends all work under way, so that who waits gets ErrClosed. Results stay
// valid until they are released. The cache stays open.
func (r *Reader) Close() error {
	r.mu.Lock()
	r.closed = true
	var drop []*aheadChunk
	for _, s := range r.streams {
		drop = append(drop, r.forgetStreamLocked(s)...)
	}
	r.mu.Unlock()
	r.cancel()
	r.release(drop)
	r.work.Wait()
	return nil
}

// spawn runs fn on a goroutine that Close waits for; false once closed.
func (r *Reader) spawn(fn func(ctx context.Context)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.work.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, r.o.FetchTimeout)
		defer cancel()
		fn(ctx)
	})
	return true
}

// classify gives an error from below its class. A caller's own context error
// is passed on by the callers of this.
func (r *Reader) classify(err error) error {
	switch {
	case err == nil,
		errors.Is(err, object.ErrCorrupt), errors.Is(err, object.ErrVersion), errors.Is(err, ErrNotFound),
		errors.Is(err, objstore.ErrNotExist), errors.Is(err, objstore.ErrDenied), errors.Is(err, objstore.ErrInvalid):
		return err
	case r.ctx.Err() != nil, errors.Is(err, cache.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// counters are Stats while they count.
type counters struct {
	reads, readBytes, shortened              atomic.Int64
	gets, getBytes, chunks                   atomic.Int64
	aheadChunks, aheadBytes, seeks           atomic.Int64
	footerOpens                              atomic.Int64
	corrupt, corruptRepaired, missing, fails atomic.Int64
}

// Stats are counters since New, and present sizes.
type Stats struct {
	Reads, ReadBytes int64 // Results and their bytes
	Shortened        int64 // Results cut for want of budget

	Gets, GetBytes, Chunks  int64 // GETs begun, bytes that they asked for, chunks that they brought
	AheadChunks, AheadBytes int64 // read ahead
	Seeks                   int64 // streams that went elsewhere
	FooterOpens             int64

	Corrupt         int64 // chunks and footers that failed twice
	CorruptRepaired int64 // that were whole the second time
	Missing         int64 // reads of objects that the store does not have
	Failures        int64 // GETs that failed otherwise

	Streams, Footers int
	FooterBytes      int64
}

// Stats returns the present figures.
func (r *Reader) Stats() Stats {
	c := &r.stats
	s := Stats{
		Reads: c.reads.Load(), ReadBytes: c.readBytes.Load(), Shortened: c.shortened.Load(),
		Gets: c.gets.Load(), GetBytes: c.getBytes.Load(), Chunks: c.chunks.Load(),
		AheadChunks: c.aheadChunks.Load(), AheadBytes: c.aheadBytes.Load(), Seeks: c.seeks.Load(),
		FooterOpens: c.footerOpens.Load(), Corrupt: c.corrupt.Load(), CorruptRepaired: c.corruptRepaired.Load(),
		Missing: c.missing.Load(), Failures: c.fails.Load(),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Streams, s.Footers, s.FooterBytes = len(r.streams), len(r.footers.slots), r.footers.bytes
	return s
}
