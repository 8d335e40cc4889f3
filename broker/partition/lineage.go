package partition

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// The bucket wins. A log that cannot be the beginning of what was committed (see
// replica.Assignment.BucketWins) begins anew, empty. Three ways lead here: power
// loss took the tail of a log with durability=replicated after it was copied; the
// log went another way than the leader that copied; or it is new on this disk. Were
// such a log to go on where it ends, it would give offsets to new records that old
// ones have.
//
// Where the bucket knows how the history went, the log takes its leader epochs and
// its producers from there: the retry of a batch that lies in the bucket is known
// for what it is. That needs the object store, which may be down, so it is asked off
// all locks, by the restorer; until then the partition is offline (a leader) or does
// not fetch (a follower).

// begin makes the log fit to take the assignment; ready is false where the bucket
// must be asked first. REQUIRES: the caller is the writer.
func (p *Partition) begin(a *replica.Assignment) (ready bool, err error) {
	p.mu.Lock()
	p.restoring, p.deferred = false, nil
	p.mu.Unlock()
	at, fromBucket, wins := a.BucketWins(p.log.End(), p.log)
	leads := a.Leader == p.set.opts.NodeID
	switch {
	case !wins:
		return true, nil
	case leads && fromBucket:
		p.mu.Lock()
		p.restoreLocked(a)
		p.failLocked(kerr.NotLeaderForPartition)
		p.watch.movedLocked()
		p.mu.Unlock()
		return false, nil
	case leads, !fromBucket && p.log.End() < at:
		return true, p.beginAt(at, nil, nil)
	case fromBucket && p.log.LastEpoch() < 0 && p.log.Size() == 0:
		// A new replica copies only what is not in the bucket.
		p.mu.Lock()
		p.restoreLocked(nil)
		p.mu.Unlock()
	}
	// A follower's own log may still continue into the leader's, which tells where
	// it does not.
	return true, nil
}

// restoreLocked has the log begin anew at the bucket's end, and takes the
// assignment, if any, after that.
func (p *Partition) restoreLocked(deferred *replica.Assignment) {
	p.restoring, p.deferred = true, deferred
	p.set.restorer.add(p)
}

// restored takes what the bucket knows of the end of its history.
func (p *Partition) restored(end record.Offset, epochs []commitlog.EpochStart, producers []byte) error {
	var err error
	p.exclusive(func() {
		p.mu.Lock()
		a, wanted := p.deferred, p.restoring && !p.closed
		p.mu.Unlock()
		if !wanted {
			return
		}
		if end < p.log.End() && a == nil || a != nil && end < a.RemoteEnd {
			err = fmt.Errorf("the bucket ends at %d, below what is known of it", end)
			return
		}
		if err = p.beginAt(end, epochs, producers); err != nil {
			return
		}
		p.mu.Lock()
		p.restoring, p.deferred = false, nil
		p.tellPullerLocked()
		p.mu.Unlock()
		if a != nil {
			err = p.take(*a)
		}
	})
	return err
}

const (
	// restorers is how many partitions ask the bucket at the same time.
	restorers = 8
	// restoreTimeout bounds one attempt; restoreRetry is the pause after one that
	// failed.
	restoreTimeout = 30 * time.Second
	restoreRetry   = 2 * time.Second
)

// restorer asks the bucket for the partitions whose log must begin at its end.
type restorer struct {
	set    *Set
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	queue   []*Partition
	queued  map[*Partition]bool
	failed  map[*Partition]restoreFailure
	workers int
}

type restoreFailure struct {
	err   error
	again time.Time
}

func (r *restorer) init(s *Set) {
	r.set, r.queued, r.failed = s, make(map[*Partition]bool), make(map[*Partition]restoreFailure)
	r.ctx, r.cancel = context.WithCancel(context.Background())
}

// add queues a partition. It never blocks; the workers end when the queue is
// empty, and with the Set.
func (r *restorer) add(p *Partition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queued[p] || r.ctx.Err() != nil {
		return
	}
	r.queued[p] = true
	r.queue = append(r.queue, p)
	if r.workers < restorers {
		r.workers++
		r.set.wg.Go(r.work)
	}
}

func (r *restorer) work() {
	for {
		r.mu.Lock()
		if len(r.queue) == 0 || r.ctx.Err() != nil {
			r.workers--
			r.mu.Unlock()
			return
		}
		p := r.queue[0]
		r.queue = r.queue[1:]
		delete(r.queued, p)
		r.mu.Unlock()
		r.restore(p)
	}
}

func (r *restorer) restore(p *Partition) {
	p.mu.Lock()
	wanted := p.restoring && !p.closed
	p.mu.Unlock()
	var err error
	if wanted {
		var end record.Offset
		var epochs []commitlog.EpochStart
		var producers []byte
		if end, epochs, producers, err = r.ask(p.tp); err == nil {
			if err = p.restored(end, epochs, producers); err == nil {
				r.set.tellRestored(p)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || r.ctx.Err() != nil {
		delete(r.failed, p)
		return
	}
	r.set.opts.Logger.Error("the bucket does not tell where its history ends; tried again", "topic", p.topic,
		"partition", p.tp.Partition, "after", restoreRetry, "err", err)
	r.failed[p] = restoreFailure{err: err, again: time.Now().Add(restoreRetry)}
}

// ask gets the end of the bucket's history.
func (r *restorer) ask(tp record.TopicPartition) (record.Offset, []commitlog.EpochStart, []byte, error) {
	if r.set.opts.LastRemoteState == nil {
		return 0, nil, nil, errNoRemote
	}
	ctx, cancel := context.WithTimeout(r.ctx, restoreTimeout)
	defer cancel()
	end, remote, producers, err := r.set.opts.LastRemoteState(ctx, tp)
	if err != nil {
		return 0, nil, nil, err
	}
	epochs := make([]commitlog.EpochStart, len(remote))
	for i, e := range remote {
		epochs[i] = commitlog.EpochStart(e)
	}
	return end, epochs, producers, nil
}

// retry queues again what failed long enough ago.
func (r *restorer) retry(now time.Time) {
	r.mu.Lock()
	var due []*Partition
	for p, f := range r.failed {
		if !now.Before(f.again) {
			due = append(due, p)
			delete(r.failed, p)
		}
	}
	r.mu.Unlock()
	for _, p := range due {
		r.add(p)
	}
}

// offline lists the partitions that would lead and wait for the bucket, and why.
func (r *restorer) offline(into map[record.TopicPartition]error) {
	r.mu.Lock()
	waiting := make(map[*Partition]error, len(r.failed)+len(r.queued))
	for p, f := range r.failed {
		waiting[p] = f.err
	}
	for p := range r.queued {
		waiting[p] = errRestoring
	}
	r.mu.Unlock()
	for p, err := range waiting {
		p.mu.Lock()
		leads := p.deferred != nil && !p.closed
		p.mu.Unlock()
		if leads {
			into[p.tp] = err
		}
	}
}

// stop ends what is under way; nothing is queued after it.
func (r *restorer) stop() {
	r.mu.Lock()
	r.cancel()
	r.mu.Unlock()
}

var (
	errRestoring = errors.New("partition: the log begins anew where the bucket ends; the bucket is being asked")
	// errNoRemote says that a log must begin at the bucket's end and there is no
	// bucket to ask.
	errNoRemote = errors.New("partition: the log must begin where the bucket ends, but no object store is configured")
)

// RemoteState is what the bucket tells of a partition: where its history ends,
// the leader epochs to there, and the producer state there (tiering/remote's
// Reader.LastState).
type RemoteState func(ctx context.Context, tp record.TopicPartition) (end record.Offset, epochs []manifest.EpochStart, producers []byte, err error)
