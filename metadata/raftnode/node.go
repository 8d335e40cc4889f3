// Package raftnode runs one node of the metadata: hashicorp/raft over a Pebble log
// and stable store, the state machine of metadata/fsm, and the client that reads
// and changes it.
//
// A Node owns its directory: raft/ (Raft's log and votes, every write synced),
// state/ (the state machine, which needs no sync since the log replays), and
// snapshots/. Raft's server id is the directory id, so a wiped voter is another
// server. Goroutines: Raft's own, one dispatcher that calls the subscribers, one
// that follows the leadership; Close stops them all.
//
// What always holds: a Propose that returned nil is on disk; the image that
// follows has it. Restart: Raft is told not to restore its snapshot, since the
// state machine kept its state; the log above the state's applied index is applied
// again. If the state was lost, or a restore cut short, the snapshot is restored
// after all.
//
// More voters come by Options.Transport and Raft's membership calls; with one
// voter the election times are short and nothing waits for a network.
package raftnode

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// Options configure a Node.
type Options struct {
	// FS and Dir say where the node's files are. FS nil is the operating system's.
	FS  vfs.FS
	Dir string
	// DirectoryID names the data directory; it is Raft's server id. Required.
	DirectoryID uuid.UUID
	// ClusterID and Features format a cluster that has no id yet, once this node
	// leads. Empty: never.
	ClusterID string
	Features  map[string]int16
	// BootstrapExpect is the number of voters that begin a cluster: 1 begins one
	// alone. Existing Raft state is never bootstrapped again. 0 joins.
	BootstrapExpect int
	// Transport connects the voters; nil is in memory, for a single one. Close
	// closes it if it can be closed.
	Transport raft.Transport
	// CacheBytes bounds the block cache that both databases share; default 4 MiB.
	CacheBytes int64
	// HeartbeatTimeout, ElectionTimeout and LeaderLease are Raft's; the defaults
	// are for a single voter: 20, 20 and 20 ms.
	HeartbeatTimeout, ElectionTimeout, LeaderLease time.Duration
	// SnapshotEntries is the number of log entries after which a snapshot is taken
	// and the log cut to TrailingEntries; SnapshotInterval is how often that is
	// looked at. Defaults 16384, 4096, 1 min.
	SnapshotEntries, TrailingEntries uint64
	SnapshotInterval                 time.Duration
	// OnFatal is called at most once if the node cannot go on: it must be stopped.
	OnFatal func(error)
	Logger  *slog.Logger
}

// maxInFlight is how many proposals Raft takes into one synced write.
const maxInFlight = 512

func (o *Options) defaults() error {
	if o.DirectoryID == uuid.Nil {
		return errors.New("metadata node: no directory id")
	}
	if o.BootstrapExpect < 0 || o.BootstrapExpect > 1 {
		return fmt.Errorf("metadata node: bootstrap.expect %d is not supported, want 0 or 1", o.BootstrapExpect)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	fill(&o.CacheBytes, 4<<20)
	fill(&o.HeartbeatTimeout, 20*time.Millisecond)
	fill(&o.ElectionTimeout, max(20*time.Millisecond, o.HeartbeatTimeout))
	fill(&o.LeaderLease, o.HeartbeatTimeout)
	fill(&o.SnapshotEntries, 16384)
	fill(&o.TrailingEntries, 4096)
	fill(&o.SnapshotInterval, time.Minute)
	return nil
}

func fill[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Node is one node of the metadata. It implements metadata.Client.
type Node struct {
	opts      Options
	cache     *pebble.Cache
	logDB     *pebble.DB
	fsm       *fsm.FSM
	raft      *raft.Raft
	transport raft.Transport
	dispatch  *dispatcher

	leader  chan bool // Raft's word on our own leadership
	ready   chan struct{}
	quit    chan struct{}
	watched chan struct{}

	// calls are the calls of Raft under way.
	calls struct {
		sync.Mutex
		closed  bool
		running sync.WaitGroup
	}
	// stopped says that Raft is shut down, and answers nobody any more.
	stopped chan struct{}

	closeOnce sync.Once
	closeErr  error
}

var _ metadata.Client = (*Node)(nil)

// Open starts the node. It returns before the node leads: see Ready.
func Open(opts Options) (_ *Node, err error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	n := &Node{opts: opts, leader: make(chan bool, 16), ready: make(chan struct{}), quit: make(chan struct{}), watched: make(chan struct{}), stopped: make(chan struct{})}
	if err := n.openStores(); err != nil {
		return nil, errors.Join(err, n.closeStores())
	}
	if err := n.startRaft(); err != nil {
		return nil, errors.Join(fmt.Errorf("start metadata node in %s: %w", opts.Dir, err), n.closeStores())
	}
	go n.dispatch.run(n.fsm.Image())
	go n.watchLeader()
	return n, nil
}

// openStores opens both databases at once: each costs a few synced writes.
func (n *Node) openStores() error {
	fs, dir := n.opts.FS, n.opts.Dir
	if err := makeDir(fs, dir); err != nil {
		return fmt.Errorf("metadata directory: %w", err)
	}
	n.cache = pebble.NewCache(n.opts.CacheBytes)
	var wg sync.WaitGroup
	var logErr error
	wg.Go(func() { n.logDB, logErr = pebble.Open(fs.PathJoin(dir, "raft"), n.logOptions()) })
	state, err := fsm.Open(fsm.Options{FS: fs, Dir: fs.PathJoin(dir, "state"), Cache: n.cache,
		OnApplied: func(img *metadata.Image, delta metadata.Delta) { n.dispatch.publish(img, delta) },
		OnFatal:   n.fatal, Logger: n.opts.Logger})
	wg.Wait()
	if err == nil {
		n.fsm = state
		n.dispatch = newDispatcher(state.Image())
	}
	if logErr != nil {
		logErr = fmt.Errorf("open raft log in %s: %w", dir, logErr)
	}
	return errors.Join(logErr, err)
}

func (n *Node) logOptions() *pebble.Options {
	return &pebble.Options{
		FS:                 n.opts.FS,
		Cache:              n.cache,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       4 << 20,
		MaxOpenFiles:       64,
		Logger:             pebbleLogger{n.opts.Logger},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { n.opts.Logger.Error("raft log: background work failed", "error", err) },
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				n.fatal(fmt.Errorf("%w: raft log: %s: %w", command.ErrCorrupt, info.Path, info.Details))
			},
		},
	}
}

func (n *Node) fatal(err error) {
	n.opts.Logger.Error("metadata node failed", "error", err)
	if n.opts.OnFatal != nil {
		n.opts.OnFatal(err)
	}
}

func (n *Node) startRaft() error {
	logs, err := newLogStore(n.logDB)
	if err != nil {
		return err
	}
	snaps, err := openSnapStore(n.opts.FS, n.opts.FS.PathJoin(n.opts.Dir, "snapshots"))
	if err != nil {
		return err
	}
	config, err := n.raftConfig(logs, snaps)
	if err != nil {
		return err
	}
	n.transport = n.opts.Transport
	if n.transport == nil {
		_, n.transport = raft.NewInmemTransport(raft.ServerAddress(n.opts.DirectoryID.String()))
	}
	existing, err := raft.HasExistingState(logs, logs, snaps)
	if err != nil {
		return err
	}
	if !existing && n.opts.BootstrapExpect == 1 {
		servers := raft.Configuration{Servers: []raft.Server{{ID: config.LocalID, Address: n.transport.LocalAddr()}}}
		if err := raft.BootstrapCluster(config, logs, logs, snaps, n.transport, servers); err != nil {
			return err
		}
	}
	n.raft, err = raft.NewRaft(config, &machine{fsm: n.fsm}, logs, logs, snaps, n.transport)
	return err
}

func (n *Node) raftConfig(logs *logStore, snaps *snapStore) (*raft.Config, error) {
	metas, err := snaps.List()
	if err != nil {
		return nil, err
	}
	last, err := logs.LastIndex()
	if err != nil {
		return nil, err
	}
	complete, err := n.stateComplete(logs, snaps, metas, last)
	if err != nil {
		return nil, err
	}
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.opts.DirectoryID.String())
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = n.opts.HeartbeatTimeout, n.opts.ElectionTimeout, n.opts.LeaderLease
	c.CommitTimeout = min(c.CommitTimeout, n.opts.HeartbeatTimeout/2)
	c.MaxAppendEntries = maxInFlight
	c.BatchApplyCh = true
	c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = n.opts.SnapshotEntries, n.opts.TrailingEntries, n.opts.SnapshotInterval
	c.NoSnapshotRestoreOnStart = complete
	c.NotifyCh = n.leader
	c.Logger = newRaftLogger(n.opts.Logger)
	return c, nil
}

// stateComplete reports whether the state machine has all that the newest snapshot
// has, so that the snapshot need not be restored. It is an error if something was
// lost that neither snapshot nor log can give back.
//
// A snapshot's Raft index may lie above that of its last command, which is the one
// that the state machine knows: so the snapshot's own stream is asked.
func (n *Node) stateComplete(logs *logStore, snaps *snapStore, metas []*raft.SnapshotMeta, last uint64) (bool, error) {
	first, err := logs.FirstIndex()
	if err != nil {
		return false, err
	}
	applied, snapshot, state := n.fsm.Applied(), uint64(0), uint64(0)
	if len(metas) > 0 {
		snapshot = metas[0].Index
		if state, err = snaps.stateIndex(metas[0].ID); err != nil {
			return false, err
		}
	}
	switch {
	case applied > max(last, snapshot):
		return false, fmt.Errorf("%w: the state has index %d, but the raft log ends at %d: part of the directory was lost", command.ErrCorrupt, applied, max(last, snapshot))
	case first > snapshot+1:
		return false, fmt.Errorf("%w: the raft log begins at %d and the newest snapshot is of %d: part of the directory was lost", command.ErrCorrupt, first, snapshot)
	}
	return applied >= state, nil
}

// Ready returns once this node leads and its image has all of the log, or once
// another node leads.
func (n *Node) Ready(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.quit:
		return metadata.ErrClosed
	}
}

// Image implements metadata.Client.
func (n *Node) Image() *metadata.Image { return n.fsm.Image() }

// Subscribe implements metadata.Client.
func (n *Node) Subscribe(fn func(old, new *metadata.Image, delta metadata.Delta)) (cancel func()) {
	return n.dispatch.subscribe(fn)
}

// Delivered implements metadata.Client.
func (n *Node) Delivered(ctx context.Context, index uint64) error { return n.dispatch.wait(ctx, index) }

// Propose implements metadata.Client.
func (n *Node) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	data, err := command.Encode(cmd)
	if err != nil {
		return command.Result{}, err
	}
	if err := n.enter(ctx); err != nil {
		return command.Result{}, err
	}
	future := n.raft.Apply(data, n.patience(ctx))
	if err := n.await(ctx, future); err != nil {
		return command.Result{}, fmt.Errorf("propose %s: %w", cmd.Kind(), err)
	}
	outcome := future.Response().(fsm.Outcome)
	return outcome.Result, outcome.Err
}

// enter counts a call of Raft that will be answered; leave it when it was. Close
// refuses new ones and waits for those under way, since Raft answers nobody whose
// proposal it has not looked at when it shuts down.
func (n *Node) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.calls.Lock()
	defer n.calls.Unlock()
	if n.calls.closed {
		return metadata.ErrClosed
	}
	n.calls.running.Add(1)
	return nil
}

// patience is how long a proposal may wait to be taken by Raft.
func (n *Node) patience(ctx context.Context) time.Duration {
	const most = 30 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		return min(max(time.Until(deadline), time.Millisecond), most)
	}
	return most
}

// await waits for Raft's answer or the context, and leaves what enter entered.
func (n *Node) await(ctx context.Context, f raft.Future) error {
	answer := make(chan error, 1)
	go func() {
		defer n.calls.running.Done()
		answer <- f.Error()
	}()
	select {
	case err := <-answer:
		return raftError(err)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, ctx.Err())
	case <-n.stopped:
		return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, metadata.ErrClosed)
	}
}

// raftError says whether the command may have been applied.
func raftError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", metadata.ErrNotLeader, err)
	default:
		return fmt.Errorf("%w: %w", metadata.ErrUnknownOutcome, err)
	}
}

// ReadBarrier implements metadata.Client.
func (n *Node) ReadBarrier(ctx context.Context) error {
	if err := n.enter(ctx); err != nil {
		return err
	}
	if err := n.await(ctx, n.raft.Barrier(n.patience(ctx))); err != nil {
		return fmt.Errorf("read barrier: %w", err)
	}
	return nil
}

// Entries implements metadata.Client.
func (n *Node) Entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error) {
	return n.fsm.Entries(ctx, tp)
}

// FindEntry implements metadata.Client.
func (n *Node) FindEntry(ctx context.Context, tp record.TopicPartition, offset record.Offset) (manifest.Entry, bool, error) {
	if err := ctx.Err(); err != nil {
		return manifest.Entry{}, false, err
	}
	return n.fsm.FindEntry(tp, offset)
}

// Object implements metadata.Client.
func (n *Node) Object(ctx context.Context, id uuid.UUID) (metadata.Object, bool, error) {
	if err := ctx.Err(); err != nil {
		return metadata.Object{}, false, err
	}
	return n.fsm.Object(id)
}

// Objects implements metadata.Client.
func (n *Node) Objects(ctx context.Context) iter.Seq2[metadata.Object, error] {
	return n.fsm.Objects(ctx)
}

// PendingObjects implements metadata.Client.
func (n *Node) PendingObjects(ctx context.Context) iter.Seq2[metadata.Object, error] {
	return n.fsm.PendingObjects(ctx)
}

// Refs implements metadata.Client.
func (n *Node) Refs(ctx context.Context, object uuid.UUID) ([]record.TopicPartition, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return n.fsm.Refs(object)
}

// Tombstones implements metadata.Client.
func (n *Node) Tombstones(ctx context.Context) ([]metadata.Tombstone, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return n.fsm.Tombstones()
}

// Snapshot takes a snapshot and cuts the log, whatever the thresholds.
func (n *Node) Snapshot() error {
	err := n.raft.Snapshot().Error()
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot metadata: %w", err)
	}
	return nil
}

// StateHash is the hash over the decoded state and the index it belongs to, for
// tests and tools: equal on all nodes at the same index.
func (n *Node) StateHash() (uint64, [32]byte, error) {
	index := n.fsm.Applied()
	h, err := n.fsm.Hash()
	return index, h, err
}

// drainTime bounds how long Close waits for Raft's answers to calls under way.
const drainTime = 5 * time.Second

// Close stops the node. Every waiting call is answered. Readers of Pebble must be
// done.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		n.drain()
		err := n.raft.Shutdown().Error()
		close(n.stopped)
		<-n.watched
		n.dispatch.close()
		if c, ok := n.transport.(raft.WithClose); ok {
			err = errors.Join(err, c.Close())
		}
		if err = errors.Join(err, n.closeStores()); err != nil {
			n.closeErr = fmt.Errorf("close metadata node: %w", err)
		}
	})
	return n.closeErr
}

// drain refuses new calls and waits for those under way. If Raft does not answer
// in time (its disk hangs, say) they are answered by the shutdown.
func (n *Node) drain() {
	n.calls.Lock()
	n.calls.closed = true
	n.calls.Unlock()
	close(n.quit)
	idle := make(chan struct{})
	go func() {
		n.calls.running.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(drainTime):
		n.opts.Logger.Warn("metadata node: calls under way at close are not answered by raft")
	}
}

func (n *Node) closeStores() error {
	var errs []error
	if n.fsm != nil {
		errs = append(errs, n.fsm.Close())
	}
	if n.logDB != nil {
		errs = append(errs, n.logDB.Close())
	}
	if n.cache != nil {
		n.cache.Unref()
	}
	return errors.Join(errs...)
}
