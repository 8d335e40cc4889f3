package fetch

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/remote"
)

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
	return g.Err == nil && g.Diverging == nil && g.Preferred < 0 && g.Local.Bytes == 0 && g.Remote == nil &&
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
	p, err := s.opts.Partitions.Lookup(w.TP)
	if err != nil {
		g.Err = err
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
