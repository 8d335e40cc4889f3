// Package fetch plans reads over many partitions: what is on the local disk is
// handed out as file ranges for sendfile, what is in the bucket alone is read
// there, and a reader that found too little waits until there is more.
//
// A fetch runs on the caller's goroutine as far as the local disk goes. It takes
// a goroutine only while it reads from the bucket, and none while it waits: then
// it stands in the watch lists of its partitions with one timer.
//
// Session (KIP-227) keeps, per client, what an incremental fetch leaves out.
package fetch

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/remote"
)

// Want is one partition of a fetch.
type Want struct {
	TP   record.TopicPartition
	Read partition.Read // MaxBytes is the partition's limit; AtLeastOne is set by the planner
	// Err, if set, is the partition's answer: it could not even be looked up.
	Err error
}

// Got is the answer for one partition. Local or Remote holds the batches, or
// neither where there is no data.
type Got struct {
	TP        record.TopicPartition
	Err       error
	State     partition.State
	Diverging *partition.Diverging
	Aborted   []producer.Aborted // nil unless the reader is read_committed
	Local     commitlog.Slice
	Remote    *remote.Result

	// turn: the first of the fetch that has records, and they are in the bucket.
	turn bool
}

// Bytes is the size of the batches in the answer.
func (g *Got) Bytes() int64 {
	if g.Remote != nil {
		return g.Remote.Bytes
	}
	return g.Local.Bytes
}

// Release gives the files and cache chunks back; once per answer.
func (g *Got) Release() {
	g.Local.Release()
	if g.Remote != nil {
		g.Remote.Release()
	}
	g.Local, g.Remote = commitlog.Slice{}, nil
}

// Request is one fetch. Done is called once with the answers in the order of
// Wants, from any goroutine; the callee owns them and must release each.
type Request struct {
	Ctx      context.Context // ends when the client has gone
	Wants    []Want
	MinBytes int64
	MaxBytes int64
	MaxWait  time.Duration
	// Stream names the reader for read-ahead: one connection.
	Stream uint64
	// NoData answers watermarks and errors without records (a throttled client).
	NoData bool
	Done   func([]Got)
}

// Partitions finds the partitions that this broker hosts.
type Partitions interface {
	Get(tp record.TopicPartition) *partition.Partition
}

// Remote reads from the bucket.
type Remote interface {
	Read(ctx context.Context, r remote.Request) (*remote.Result, error)
	// Hint begins to fetch what a Read of the same request would wait for.
	Hint(r remote.Request)
}

// Options configure a Service.
type Options struct {
	Partitions Partitions
	Remote     Remote // nil without an object store
	Logger     *slog.Logger
	// MaxBytes caps every answer (fetch.max.bytes, 55 MiB).
	MaxBytes int64
	// ColdFetches bounds the fetches that read from the bucket at one time.
	ColdFetches int
	// RemoteWait is the least time a fetch waits for the bucket
	// (remote.fetch.max.wait.ms).
	RemoteWait time.Duration
}

// Service answers fetches.
type Service struct {
	opts Options
	cold chan struct{} // a slot for each fetch that reads from the bucket
	wg   sync.WaitGroup

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	draining context.Context // ends with Drain
	drain    context.CancelFunc
}

// New returns a service.
func New(o Options) *Service {
	s := &Service{opts: o, cold: make(chan struct{}, max(o.ColdFetches, 1))}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.draining, s.drain = context.WithCancel(s.ctx)
	return s
}

// Drain answers the fetches that wait with what there is, and lets no other wait:
// the broker is about to stop.
func (s *Service) Drain() { s.drain() }

// Close ends the reads from the bucket and waits for them.
func (s *Service) Close() {
	s.cancel()
	s.wg.Wait()
}

// Fetch answers r by r.Done, perhaps before it returns.
func (s *Service) Fetch(r *Request) {
	r.MaxBytes = min(r.MaxBytes, s.opts.MaxBytes)
	deadline := time.Now().Add(r.MaxWait)
	got, v := s.plan(r)
	if v.cold {
		s.goCold(r, got, deadline)
		return
	}
	if v.done || r.MaxWait <= 0 {
		r.Done(got)
		return
	}
	release(got)
	s.wait(r, deadline)
}

// verdict is what a plan means for the fetch as a whole.
type verdict struct {
	done bool // enough bytes, an error or a divergence
	cold bool // some partition must be read from the bucket
}

// plan reads every partition once, in order, within the limits.
func (s *Service) plan(r *Request) ([]Got, verdict) {
	got := make([]Got, len(r.Wants))
	var v verdict
	left := r.MaxBytes
	var total int64
	for i := range r.Wants {
		w := &r.Wants[i]
		g := &got[i]
		g.TP = w.TP
		if w.Err != nil {
			g.Err, v.done = w.Err, true
			continue
		}
		p := s.opts.Partitions.Get(w.TP)
		if p == nil {
			g.Err, v.done = kerr.NotLeaderForPartition, true
			continue
		}
		rd := w.Read
		rd.MaxBytes = int(min(int64(rd.MaxBytes), max(left, 0)))
		rd.AtLeastOne = total == 0
		if r.NoData || (rd.MaxBytes == 0 && !rd.AtLeastOne) {
			// The limits are used up; the watermarks are told all the same.
			rd.MaxBytes, rd.AtLeastOne = 0, false
		}
		res, err := p.Read(rd)
		g.State, g.Diverging, g.Err = res.State, res.Diverging, err
		if err != nil || g.Diverging != nil {
			v.done = true
			continue
		}
		g.Aborted = res.Aborted
		if res.Remote {
			if r.NoData || (rd.MaxBytes == 0 && !rd.AtLeastOne) {
				continue
			}
			if !v.cold && total == 0 {
				// It is read after those on disk, though its turn comes before theirs:
				// they leave it a share, or they could fill each answer for ever.
				g.turn = true
				left -= min(int64(rd.MaxBytes), left/2)
			}
			v.cold = true
			continue
		}
		g.Local = res.Slice
		total += g.Local.Bytes
		left -= g.Local.Bytes
	}
	if total >= r.MinBytes && (total > 0 || r.MinBytes <= 0) {
		v.done = true
	}
	return got, v
}

func release(got []Got) {
	for i := range got {
		got[i].Release()
	}
}

// waiter is a fetch that waits. It is in the watch list of each of its
// partitions until it is answered.
type waiter struct {
	s     *Service
	r     *Request
	timer *time.Timer
	stops [2]func() bool // end the watch on the client's context and on Drain

	mu      sync.Mutex
	parts   []*partition.Partition
	done    bool
	running bool // a goroutine plans
	again   bool // something moved while it did
}

func (s *Service) wait(r *Request, deadline time.Time) {
	w := &waiter{s: s, r: r, running: true}
	for i := range r.Wants {
		if p := s.opts.Partitions.Get(r.Wants[i].TP); p != nil {
			w.parts = append(w.parts, p)
			p.Watch(w)
		}
	}
	w.timer = time.AfterFunc(time.Until(deadline), func() { w.run(true) })
	w.stops[0] = context.AfterFunc(r.Ctx, func() { w.run(true) })
	w.stops[1] = context.AfterFunc(s.draining, func() { w.run(true) })
	// What moved between the plan and the watch is found by planning once more.
	w.replan(false)
}

// Moved is called by a partition that has more to read or a new leader.
func (w *waiter) Moved() { w.run(false) }

func (w *waiter) run(final bool) {
	w.mu.Lock()
	if w.done {
		w.mu.Unlock()
		return
	}
	if w.running {
		w.again = true
		if final {
			w.r.MaxWait = 0 // read under mu by replan
		}
		w.mu.Unlock()
		return
	}
	w.running = true
	w.mu.Unlock()
	w.replan(final)
}

// replan plans until nothing moves while it does. REQUIRES: w.running was set by
// the caller.
func (w *waiter) replan(final bool) {
	for {
		got, v := w.s.plan(w.r)
		w.mu.Lock()
		final = final || w.r.MaxWait == 0
		if v.done || v.cold || final {
			w.done = true
			w.mu.Unlock()
			w.leave()
			if v.cold && !final {
				w.s.goCold(w.r, got, time.Now())
				return
			}
			w.r.Done(got)
			return
		}
		again := w.again
		w.again = false
		w.running = again
		w.mu.Unlock()
		release(got)
		if !again {
			return
		}
	}
}

func (w *waiter) leave() {
	w.timer.Stop()
	w.stops[0]()
	w.stops[1]()
	for _, p := range w.parts {
		p.Unwatch(w)
	}
}

// goCold finishes a fetch that needs the bucket, on a goroutine of its own.
func (s *Service) goCold(r *Request, got []Got, deadline time.Time) {
	if until := time.Now().Add(s.opts.RemoteWait); deadline.Before(until) {
		deadline = until
	}
	if s.opts.Remote == nil {
		for i := range got {
			if needsRemote(&got[i], &r.Wants[i]) {
				got[i].Err = kerr.KafkaStorageError
			}
		}
		r.Done(got)
		return
	}
	s.wg.Go(func() {
		ctx, cancel := context.WithDeadline(r.Ctx, deadline)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		s.readCold(ctx, r, got)
		r.Done(got)
	})
}

// needsRemote reports whether what a partition was asked for is in the bucket
// alone; one that has nothing new does not.
func needsRemote(g *Got, w *Want) bool {
	return g.Err == nil && g.Diverging == nil && g.Local.Bytes == 0 && g.Remote == nil &&
		w.Read.From < g.State.LocalStart && w.Read.From >= g.State.LogStart
}

// readCold reads the partitions that are in the bucket, in order, within what
// the limits leave. One that does not come in time answers no data: the fill of
// the cache goes on, and the client's next fetch finds it.
func (s *Service) readCold(ctx context.Context, r *Request, got []Got) {
	var total int64
	for i := range got {
		total += got[i].Local.Bytes
	}
	select {
	case s.cold <- struct{}{}:
		defer func() { <-s.cold }()
	case <-ctx.Done():
		return
	}
	var cold []int
	for i := range got {
		if needsRemote(&got[i], &r.Wants[i]) {
			cold = append(cold, i)
		}
	}
	for _, i := range cold {
		s.opts.Remote.Hint(coldRequest(r, i, &got[i], int64(r.Wants[i].Read.MaxBytes), true))
	}
	for _, i := range cold {
		g, w := &got[i], &r.Wants[i]
		limit, least := min(int64(w.Read.MaxBytes), r.MaxBytes-total), total == 0 || g.turn
		if limit <= 0 && !least {
			continue
		}
		res, err := s.opts.Remote.Read(ctx, coldRequest(r, i, g, max(limit, 0), least))
		switch {
		case err == nil && res.Bytes == 0 && res.Next > w.Read.From:
			res.Release()
			s.readBehindGap(g, w, res.Next, limit, least)
			total += g.Local.Bytes
		case err == nil:
			g.Remote = res
			g.Aborted = append(g.Aborted, res.Aborted...)
			total += res.Bytes
		case ctx.Err() != nil:
			return
		case errors.Is(err, remote.ErrNotFound):
			// Deleted or moved between the look and the read; the client asks again.
			s.opts.Logger.Debug("remote read found no entry", "tp", w.TP, "offset", w.Read.From)
		default:
			s.opts.Logger.Warn("remote read failed", "tp", w.TP, "offset", w.Read.From, "err", err)
			g.Err = kerr.KafkaStorageError
		}
	}
}

// coldRequest is the i-th partition's read from the bucket.
func coldRequest(r *Request, i int, g *Got, maxBytes int64, atLeastOne bool) remote.Request {
	w := &r.Wants[i]
	upTo := g.State.HighWatermark
	if w.Read.Committed {
		upTo = g.State.LastStable
	}
	return remote.Request{TP: w.TP, From: w.Read.From, UpTo: upTo, MaxBytes: maxBytes, AtLeastOne: atLeastOne,
		Committed: w.Read.Committed, Stream: r.Stream}
}

// readBehindGap reads the local log where compaction has left nothing in the
// bucket from the offset asked for to its end: the reader would ask for the gap
// for ever.
func (s *Service) readBehindGap(g *Got, w *Want, next record.Offset, limit int64, atLeastOne bool) {
	p := s.opts.Partitions.Get(w.TP)
	if p == nil {
		g.Err = kerr.NotLeaderForPartition
		return
	}
	rd := w.Read
	rd.From, rd.LastFetched, rd.MaxBytes, rd.AtLeastOne = next, -1, int(max(limit, 0)), atLeastOne
	res, err := p.Read(rd)
	g.State, g.Err = res.State, err
	if err == nil {
		g.Local, g.Aborted = res.Slice, res.Aborted
	}
}
