// Package raftnode runs one node of the metadata: hashicorp/raft over a Pebble log
// and stable store, the state machine of metadata/fsm, and the client that reads
// and changes it, wherever the leader is.
//
// A Node owns its directory: raft/ (Raft's log and votes, every write synced),
// state/ (the state machine, which needs no sync since the log replays), and
// snapshots/. Raft's server id is the directory id, so a wiped voter is another
// server. Goroutines: Raft's own, one that passes RPCs to it, one dispatcher that
// calls the subscribers, one that follows the leadership, one that leads while the
// node does (OnLead), and one for each call of Raft under way; Close stops them all.
//
// What always holds: a Propose that returned nil is on the disks of most voters; the
// image that follows has it, here and on the leader. An error that is neither a
// refusal nor ErrNotLeader or ErrClosed leaves the outcome open. The state machine
// is where commands that come twice, or too late, are refused.
//
// Between nodes: Raft's RPCs go over streams of metadata/link (transport.go), and
// what only the leader can do (a proposal, a barrier, a change of the servers) over
// its calls (client.go, servers.go). A node never answers for a directory that is
// not its own.
//
// Restart: Raft is told not to restore its snapshot, since the state machine kept
// its state; the log above the state's applied index is applied again. If the state
// was lost, or a restore cut short, the snapshot is restored after all.
//
// A voter that is alone does not wait for an election: it makes itself a candidate
// at once. All times are the same whatever the number of voters.
package raftnode

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
	"github.com/firnlog/firn/metadata/link"
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
	// ClusterID, Features and Configs (defaults of all brokers) format a cluster that
	// has no id yet, once this node leads. An empty id: never.
	ClusterID string
	Features  map[string]int16
	Configs   map[string]string
	// Bootstrap begins a cluster of these servers, this one a voter among them, if
	// there is no Raft state yet; else it is not looked at. Empty: the node waits to
	// be told of a cluster.
	Bootstrap []Server
	// Link connects the servers: Raft's streams, and calls. The node handles both on
	// it until Close, and does not close it. Nil, or one without a port: the node
	// stays alone.
	Link *link.Link
	// Addresses finds where a server's cluster port is now; what Raft has stored
	// counts where it knows nothing. It must not block, nor call the Node. Nil: never.
	Addresses func(dir uuid.UUID) (addr string, ok bool)
	// OnLead is called on a goroutine of its own each time that this node has become
	// the leader and its image has all of the log. ctx ends when it stops leading or
	// closes; OnLead returns soon after, and is not called again before.
	OnLead func(ctx context.Context)
	// CacheBytes bounds the block cache that both databases share; default 4 MiB.
	CacheBytes int64
	// HeartbeatTimeout, ElectionTimeout and LeaderLease are Raft's: default 500 ms
	// each. Nothing is answered on the strength of the lease; it bounds how long a
	// leader that is cut off takes itself for one. CommitTimeout is how soon a follower hears of the last commit when
	// nothing follows it; default 10 ms.
	HeartbeatTimeout, ElectionTimeout, LeaderLease, CommitTimeout time.Duration
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
	if len(o.Bootstrap) > 0 {
		if err := checkBootstrap(o.Bootstrap, o.DirectoryID); err != nil {
			return err
		}
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	fill(&o.CacheBytes, 4<<20)
	fill(&o.HeartbeatTimeout, 500*time.Millisecond)
	fill(&o.ElectionTimeout, o.HeartbeatTimeout)
	fill(&o.LeaderLease, o.HeartbeatTimeout)
	fill(&o.CommitTimeout, 10*time.Millisecond)
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
	transport *transport
	dispatch  *dispatcher

	leader chan bool // Raft's word on our own leadership
	// reign is the term in which the node last took over.
	reign   atomic.Uint64
	ready   chan struct{}
	quit    chan struct{} // no more calls
	watched chan struct{}
	// closing ends, with quit, the calls to other nodes.
	closing context.Context
	abandon context.CancelFunc

	// calls are the calls under way.
	calls struct {
		sync.Mutex
		closed  bool
		running sync.WaitGroup
	}
	// stopped says that Raft is shut down, and answers nobody any more.
	stopped chan struct{}

	// changing holds a token while a change of the servers is under way.
	changing chan struct{}

	// forwarded are the calls to leaders under way.
	forwarded struct {
		sync.Mutex
		calls map[*leaderCall]struct{}
	}

	// changed is closed and replaced when another node leads, or none.
	changed struct {
		sync.Mutex
		ch chan struct{}
	}

	closeOnce sync.Once
	closeErr  error
}

var _ metadata.Client = (*Node)(nil)

// Open starts the node. It returns before anybody leads: see Ready.
func Open(opts Options) (_ *Node, err error) {
	if err := opts.defaults(); err != nil {
		return nil, err
	}
	n := &Node{opts: opts, leader: make(chan bool, 16), ready: make(chan struct{}), quit: make(chan struct{}), watched: make(chan struct{}), stopped: make(chan struct{}), changing: make(chan struct{}, 1)}
	n.forwarded.calls = map[*leaderCall]struct{}{}
	n.closing, n.abandon = context.WithCancel(context.Background())
	n.changed.ch = make(chan struct{})
	if err := n.openStores(); err != nil {
		n.abandon()
		return nil, errors.Join(err, n.closeStores())
	}
	if err := n.startRaft(); err != nil {
		n.abandon()
		return nil, errors.Join(fmt.Errorf("start metadata node in %s: %w", opts.Dir, err), n.closeStores())
	}
	go n.dispatch.run(n.fsm.Image())
	go n.watchLeader()
	if opts.Link != nil {
		n.serveCalls()
	}
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
	log := fsm.PebbleLog{Logger: n.opts.Logger, Dir: n.opts.FS.PathJoin(n.opts.Dir, "raft")}
	return &pebble.Options{
		FS:                 log.FS(n.opts.FS),
		Cache:              n.cache,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       4 << 20,
		MaxOpenFiles:       64,
		Logger:             log,
		EventListener: &pebble.EventListener{
			BackgroundError: log.BackgroundError,
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
	n.transport = n.openTransport(config, logs, snaps)
	if err := n.bootstrap(config, logs, snaps); err != nil {
		return errors.Join(err, n.transport.Close())
	}
	// What followers are sent, and what is applied, is mostly new.
	cached, err := raft.NewLogCache(maxInFlight, logs)
	if err == nil {
		n.raft, err = raft.NewRaft(config, &machine{fsm: n.fsm}, cached, logs, snaps, n.transport)
	}
	if err != nil {
		return errors.Join(err, n.transport.Close())
	}
	n.transport.raft.running.Store(n.raft)
	return n.electAlone()
}

// openTransport connects the node over its link, or, alone, to nobody.
func (n *Node) openTransport(config *raft.Config, logs *logStore, snaps *snapStore) *transport {
	resolve := func(id raft.ServerID, stored raft.ServerAddress) raft.ServerAddress {
		if n.opts.Addresses != nil {
			if addr, ok := n.opts.Addresses(parseServer(id)); ok {
				stored = raft.ServerAddress(addr)
			}
		}
		return targetAddress(id, string(stored))
	}
	if n.opts.Link == nil || n.opts.Link.Addr() == "" {
		_, inner := raft.NewInmemTransport(raft.ServerAddress(n.opts.DirectoryID.String()))
		return newTransport(inner, nil, logs, snaps, n.opts.DirectoryID, resolve)
	}
	s := newStreams(n.opts.Link)
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: s, MaxPool: rpcPool, Timeout: rpcTimeout, Logger: config.Logger})
	return newTransport(inner, s, logs, snaps, n.opts.DirectoryID, resolve)
}

// bootstrap writes the first configuration, if one is given and there is no state.
func (n *Node) bootstrap(config *raft.Config, logs *logStore, snaps *snapStore) error {
	if len(n.opts.Bootstrap) == 0 {
		return nil
	}
	existing, err := raft.HasExistingState(logs, logs, snaps)
	if existing || err != nil {
		return err
	}
	var servers raft.Configuration
	for _, s := range n.opts.Bootstrap {
		member := raft.Server{ID: serverID(s.DirectoryID), Address: raft.ServerAddress(s.Address)}
		if member.Address == "" && s.DirectoryID == n.opts.DirectoryID {
			member.Address = n.transport.LocalAddr()
		}
		if !s.Voter {
			member.Suffrage = raft.Nonvoter
		}
		servers.Servers = append(servers.Servers, member)
	}
	// Raft would write the term and the entry one after the other. A crash between
	// them leaves a node that counts as begun, and knows of no server.
	begun := raft.NewInmemStore()
	if err := raft.BootstrapCluster(config, begun, begun, raft.NewInmemSnapshotStore(), n.transport, servers); err != nil {
		return err
	}
	return logs.begin(begun)
}

// electAlone begins an election at once if this node is the only voter: there is
// nobody to hear from.
func (n *Node) electAlone() error {
	servers, _ := n.Servers()
	mine := false
	for _, s := range servers {
		if s.Voter && s.DirectoryID != n.opts.DirectoryID {
			return nil
		}
		mine = mine || s.Voter
	}
	if !mine {
		return nil
	}
	if err := n.transport.elect(); err != nil {
		return errors.Join(fmt.Errorf("elect a lone voter: %w", err), n.raft.Shutdown().Error())
	}
	return nil
}

func (n *Node) raftConfig(logs *logStore, snaps *snapStore) (*raft.Config, error) {
	metas, err := snaps.List()
	if err != nil {
		return nil, err
	}
	if len(metas) > 0 {
		if err := logs.dropBelow(metas[0].Index, metas[0].Term); err != nil {
			return nil, err
		}
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
	c.CommitTimeout = n.opts.CommitTimeout
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

// Ready returns once this node's image had all that was committed at some time
// since Open, and, if Options has a cluster id, the cluster is formatted.
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
// done. It does not hand the leadership over: TransferLeadership does, before.
func (n *Node) Close() error {
	n.closeOnce.Do(func() {
		if n.opts.Link != nil {
			n.endCalls()
		}
		n.drain()
		<-n.watched
		n.transport.stop()
		err := n.raft.Shutdown().Error() // closes the transport too
		close(n.stopped)
		n.dispatch.close()
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
	n.abandon()
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
