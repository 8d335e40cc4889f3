// Package fetch plans reads over many partitions: what is on the local disk is
// handed out as file ranges for sendfile, what is in the bucket alone is read
// there, and a reader that found too little waits until there is more.
//
// A fetch runs on the caller's goroutine as far as the local disk goes. It takes
// a goroutine only while it reads from the bucket, and none while it waits: then
// it stands in its session, or without one in the watch lists of its partitions,
// with one timer.
//
// Session (KIP-227) keeps, per client, what an incremental fetch leaves out, and
// knows which of its partitions have something to tell: an incremental fetch
// looks at these alone. A full fetch looks at all that it names.
//
// Followers fetch as consumers do (partition.Read.Replica), but are answered as
// soon as the watermark has moved, since they learn it in no other way.
package fetch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
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
	// Told is the watermark that a follower was told last, −1 for none: it is
	// answered when there is another. UnknownWatermark is whichever the first look
	// finds. A session knows it, and fills it in.
	Told record.Offset
	// OutOfSync is a follower that is not in the ISR. It is looked at by each fetch
	// of its session, though nothing was found: by that the leader finds when it may
	// join.
	OutOfSync bool
	// Throttled, if set, keeps records back while too much was sent under it, but
	// not from followers in sync (KIP-73). Whoever sends the answer counts.
	Throttled *Throttle
}

// UnknownWatermark is a follower's Want.Told where there is no session to know.
const UnknownWatermark record.Offset = -2

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
	// Preferred is the replica that the reader had better ask, with no records
	// from here; −1 for none.
	Preferred int32

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

// Request is one fetch. Done is called once with the answers, from any
// goroutine; the callee owns them and must release each. They are in the order of
// Wants, or for an incremental fetch in that of Plan.Parts as it is by then.
type Request struct {
	Ctx context.Context // ends when the client has gone
	// Wants are the partitions of a full fetch.
	Wants []Want
	// Plan is that of an incremental fetch, nil for a full one. Resolve finds its
	// partitions in the metadata of the moment, at each look.
	Plan    *Plan
	Resolve func([]SessionPartition, []Want) []Want // appends to the second

	MinBytes int64
	MaxBytes int64
	MaxWait  time.Duration
	// Stream names the reader for read-ahead: one connection.
	Stream uint64
	// Prefer finds the replica that a consumer had better read from, −1 for this
	// one. It is asked where this broker leads; nil asks nobody.
	Prefer func(p *partition.Partition, from record.Offset) int32
	// NoData answers watermarks and errors without records (a throttled client).
	NoData bool
	Done   func([]Got)
}

// Partitions finds the partitions that this broker hosts.
type Partitions interface {
	Get(tp record.TopicPartition) *partition.Partition
	// Lookup is Get with the error that a partition which cannot be served here has.
	Lookup(tp record.TopicPartition) (*partition.Partition, error)
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
	// Lease is the broker's lease at the controller, nil for one that never ends.
	// While it is not valid the partitions answer errors, without telling their
	// watchers of that: each fetch looks at all of its session then.
	Lease interface{ Valid() bool }
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
	if r.Plan != nil && s.opts.Lease != nil && !s.opts.Lease.Valid() {
		r.Plan.allReady()
	}
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
	done bool // enough bytes, or something that is told at once
	cold bool // some partition must be read from the bucket
}

// plan looks once: at every partition of a full fetch, at what is ready of an
// incremental one, in order, within the limits.
func (s *Service) plan(r *Request) ([]Got, verdict) {
	l := planner{r: r, left: r.MaxBytes}
	if r.Plan != nil {
		l.done = !r.Plan.look()
		r.Wants = r.Resolve(r.Plan.Parts, r.Wants[:0])
		for i := range r.Wants {
			r.Wants[i].Told = r.Plan.Parts[i].toldWatermark
		}
	} else if len(r.Wants) == 0 {
		l.done = true // there is nothing to wait for
	}
	got := make([]Got, len(r.Wants))
	for i := range r.Wants {
		w := &r.Wants[i]
		var p *partition.Partition
		err := w.Err
		if err == nil {
			p, err = s.opts.Partitions.Lookup(w.TP)
		}
		if r.Plan != nil {
			r.Plan.watch(i, p)
		}
		idle := l.read(p, err, w, &got[i])
		if r.Plan != nil {
			r.Plan.looks[i].idle = idle && !w.OutOfSync
		}
	}
	if r.Plan != nil && len(got) > 0 {
		r.Plan.settle(got)
	}
	if l.total >= r.MinBytes && (l.total > 0 || r.MinBytes <= 0) {
		l.done = true
	}
	return got, l.verdict
}

// planner is the state of one plan.
type planner struct {
	verdict
	r     *Request
	left  int64 // of the limit
	total int64 // bytes found on the local disk
}

// read reads one partition; missing says why there is none. idle says that there
// is nothing to tell of it but its watermark and log start.
func (l *planner) read(p *partition.Partition, missing error, w *Want, g *Got) (idle bool) {
	g.TP, g.Preferred = w.TP, -1
	if missing != nil {
		g.Err, l.done = missing, true
		return false
	}
	rd := w.Read
	rd.MaxBytes = int(min(int64(rd.MaxBytes), max(l.left, 0)))
	rd.AtLeastOne = l.total == 0
	if l.r.NoData || (rd.MaxBytes == 0 && !rd.AtLeastOne) || w.held() {
		// The limits are used up; the watermarks are told all the same.
		rd.MaxBytes, rd.AtLeastOne = 0, false
	}
	res, err := p.Read(rd)
	g.State, g.Diverging, g.Err = res.State, res.Diverging, err
	if err != nil || g.Diverging != nil {
		l.done = true
		return false
	}
	g.Aborted = res.Aborted
	if l.r.Prefer != nil && res.State.Role == replica.Leader {
		if g.Preferred = l.r.Prefer(p, rd.From); g.Preferred >= 0 {
			res.Slice.Release()
			l.done = true
			return false
		}
	}
	if rd.Replica != nil {
		l.tell(w, res.State.HighWatermark)
	}
	if res.Remote {
		if rd.MaxBytes == 0 && !rd.AtLeastOne {
			return false
		}
		if !l.cold && l.total == 0 {
			// It is read after those on disk, though its turn comes before theirs:
			// they leave it a share, or they could fill each answer for ever.
			g.turn = true
			l.left -= min(int64(rd.MaxBytes), l.left/2)
		}
		l.cold = true
		return false
	}
	g.Local = res.Slice
	l.total += g.Local.Bytes
	l.left -= g.Local.Bytes
	return rd.From >= res.UpTo
}

// tell has a follower answered that does not know the watermark yet.
func (l *planner) tell(w *Want, watermark record.Offset) {
	switch w.Told {
	case watermark:
	case UnknownWatermark:
		w.Told = watermark
	default:
		l.done = true
	}
}

// held says that a throttle keeps the records of a partition back.
func (w *Want) held() bool { return w.Throttled != nil && w.OutOfSync && w.Throttled.Exceeded() }

func release(got []Got) {
	for i := range got {
		got[i].Release()
	}
}
