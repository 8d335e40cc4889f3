package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Log is what the coordinator needs of the partitions of __consumer_offsets.
type Log interface {
	// Append appends a batch (base offset 0) as leader of the epoch and calls
	// done, once, from any goroutine, when all replicas in sync have it. base
	// is the offset of its first record. An error means that the batch is not
	// in the log and will not be; slowness is no error. Append must not block.
	Append(partition int32, epoch record.Epoch, batch []byte, done func(base record.Offset, err error))
	// Scan calls fn with every batch from the log's start to its high
	// watermark. A leader whose watermark has not yet reached what it had when
	// it began to lead must wait for that, or acked commits would be missed. A
	// batch is valid during the call only.
	Scan(ctx context.Context, partition int32, fn func(*record.Batch) error) error
}

// Options are what a Coordinator is made of.
type Options struct {
	Log Log // required
	// Partitions returns the number of offsets partitions, 0 while the topic
	// does not exist. Required.
	Partitions func() int32
	Config     Config
	Logger     *slog.Logger     // nil: slog.Default
	Now        func() time.Time // nil: time.Now
	// Trusted reports whether now, which Now told, may be deleted by: offsets whose
	// retention ends wait while the node's clock is off. nil: always.
	Trusted func(now time.Time) bool
	NewID   func() string // random part of member ids; nil: a UUID
}

// Coordinator is the group coordinator of a broker. Its methods may be called
// from any goroutine. Callbacks get their answer exactly once, without a lock
// held, often before the method returns; they must not block.
type Coordinator struct {
	log        Log
	partitions func() int32
	cfg        Config
	logger     *slog.Logger
	now        func() time.Time
	trusted    func(time.Time) bool
	newID      func() string

	loads  chan struct{} // a slot per load under way
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // loading goroutines

	mu     sync.RWMutex // guards the rest
	shards map[int32]*shard
	closed bool
}

// New returns a coordinator that leads no partition yet.
func New(o Options) (*Coordinator, error) {
	if o.Log == nil || o.Partitions == nil {
		return nil, errors.New("group: Options.Log and Options.Partitions are required")
	}
	if err := o.Config.Validate(); err != nil {
		return nil, fmt.Errorf("group: config: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Trusted == nil {
		o.Trusted = func(time.Time) bool { return true }
	}
	if o.NewID == nil {
		o.NewID = uuid.NewString
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Coordinator{
		log: o.Log, partitions: o.Partitions, cfg: o.Config, logger: o.Logger, now: o.Now, trusted: o.Trusted, newID: o.NewID,
		loads: make(chan struct{}, o.Config.LoadParallelism),
		ctx:   ctx, cancel: cancel, shards: map[int32]*shard{},
	}, nil
}

// Lead makes this broker the coordinator of an offsets partition's groups from
// the leader epoch on. They are loaded in the background. An epoch that is not
// newer than the one led is ignored.
func (c *Coordinator) Lead(partition int32, epoch record.Epoch) {
	ctx, cancel := context.WithCancel(c.ctx)
	s := newShard(c, partition, epoch, cancel)
	c.mu.Lock()
	old := c.shards[partition]
	if c.closed || (old != nil && old.epoch >= epoch) {
		c.mu.Unlock()
		cancel()
		return
	}
	c.shards[partition] = s
	c.wg.Go(func() { c.load(ctx, s) })
	c.mu.Unlock()
	if old != nil {
		old.close()
	}
}

// Resign ends the lead of an offsets partition, if it is not of a newer epoch:
// all that wait are answered NOT_COORDINATOR. A topic of offsets that is gone
// is resigned by its last epoch.
func (c *Coordinator) Resign(partition int32, epoch record.Epoch) {
	c.mu.Lock()
	s := c.shards[partition]
	if s == nil || s.epoch > epoch {
		c.mu.Unlock()
		return
	}
	delete(c.shards, partition)
	c.mu.Unlock()
	s.close()
}

// Close answers all that wait, and returns when no goroutine is left. Answers
// to later calls are COORDINATOR_NOT_AVAILABLE.
func (c *Coordinator) Close() {
	c.mu.Lock()
	c.closed = true
	shards := c.shards
	c.shards = map[int32]*shard{}
	c.mu.Unlock()
	c.cancel()
	for _, s := range shards {
		s.close()
	}
	c.wg.Wait()
}

// PartitionOf returns the offsets partition of a group, false while the
// offsets topic does not exist.
func (c *Coordinator) PartitionOf(group string) (int32, bool) {
	n := c.partitions()
	if n <= 0 {
		return 0, false
	}
	return PartitionFor(group, n), true
}

// route finds the shard of a group.
func (c *Coordinator) route(group string) (*shard, error) {
	p, ok := c.PartitionOf(group)
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed || !ok {
		return nil, kerr.CoordinatorNotAvailable
	}
	if s := c.shards[p]; s != nil {
		return s, nil
	}
	return nil, kerr.NotCoordinator
}

// routeNamed is route for the requests that refuse an empty group id.
func (c *Coordinator) routeNamed(group string) (*shard, error) {
	if group == "" {
		return nil, kerr.InvalidGroupID
	}
	return c.route(group)
}

// all returns the shards of this broker.
func (c *Coordinator) all() ([]*shard, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return nil, kerr.CoordinatorNotAvailable
	}
	list := make([]*shard, 0, len(c.shards))
	for _, s := range c.shards {
		list = append(list, s)
	}
	return list, nil
}

// Join handles a JoinGroup. The answer may take as long as the join phase.
func (c *Coordinator) Join(req *JoinRequest, done func(JoinResponse)) {
	s, err := c.routeNamed(req.Group)
	if err == nil && (req.SessionTimeout < c.cfg.MinSessionTimeout || req.SessionTimeout > c.cfg.MaxSessionTimeout) {
		err = kerr.InvalidSessionTimeout
	}
	if err != nil {
		done(joinError(req.MemberID, err))
		return
	}
	s.run(func(t *turn) {
		s.within(req.Group, false, t, func(t *turn) { s.join(req, done, t) })
	})
}

// Sync handles a SyncGroup.
func (c *Coordinator) Sync(req *SyncRequest, done func(SyncResponse)) {
	s, err := c.routeNamed(req.Group)
	if err != nil {
		done(SyncResponse{Err: err})
		return
	}
	s.run(func(t *turn) { s.sync(req, done, t) })
}

// Heartbeat handles a Heartbeat. While the group loads it succeeds.
func (c *Coordinator) Heartbeat(req *HeartbeatRequest, done func(error)) {
	s, err := c.routeNamed(req.Group)
	if err != nil {
		done(err)
		return
	}
	s.run(func(t *turn) { s.heartbeat(req, done, t) })
}

// Leave handles a LeaveGroup.
func (c *Coordinator) Leave(req *LeaveRequest, done func(LeaveResponse)) {
	s, err := c.routeNamed(req.Group)
	if err != nil {
		done(LeaveResponse{Err: err})
		return
	}
	s.run(func(t *turn) { s.leave(req, done, t) })
}

// Commit handles an OffsetCommit; the answer comes when the offsets are in the
// log. That topics and partitions exist is the caller's to check.
func (c *Coordinator) Commit(req *CommitRequest, done func(CommitResponse)) {
	s, err := c.route(req.Group)
	if err != nil {
		done(CommitResponse{Err: err})
		return
	}
	s.run(func(t *turn) {
		s.within(req.Group, false, t, func(t *turn) { s.commit(req, done, t) })
	})
}

// Fetch handles one group of an OffsetFetch. An unknown group has no offsets.
func (c *Coordinator) Fetch(req *FetchRequest, done func(FetchResponse)) {
	s, err := c.route(req.Group)
	if err != nil {
		done(FetchResponse{Err: err})
		return
	}
	s.run(func(t *turn) {
		if req.RequireStable { // sees all commits that came before it
			s.within(req.Group, true, t, func(t *turn) { s.fetch(req, done, t) })
			return
		}
		s.fetch(req, done, t)
	})
}

// DeleteOffsets handles an OffsetDelete.
func (c *Coordinator) DeleteOffsets(req *DeleteOffsetsRequest, done func(DeleteOffsetsResponse)) {
	s, err := c.routeNamed(req.Group)
	if err != nil {
		done(DeleteOffsetsResponse{Err: err})
		return
	}
	s.run(func(t *turn) {
		s.within(req.Group, true, t, func(t *turn) { s.deleteOffsets(req, done, t) })
	})
}

// DeleteGroup removes a group without members, with its offsets.
func (c *Coordinator) DeleteGroup(group string, done func(error)) {
	s, err := c.route(group)
	if err != nil {
		done(err)
		return
	}
	s.run(func(t *turn) {
		s.within(group, true, t, func(t *turn) { s.deleteGroup(group, done, t) })
	})
}

// TopicDeleted removes the offsets of a deleted topic from all groups led
// here. Offsets stored with the id of a later topic of that name stay.
func (c *Coordinator) TopicDeleted(id record.TopicID, name string) {
	shards, err := c.all()
	if err != nil {
		return // closed: there is nothing to remove from
	}
	for _, s := range shards {
		s.run(func(t *turn) { s.topicDeleted(deletedTopic{id, name}, t) })
	}
}
