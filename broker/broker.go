// Package broker puts a Firn node together: what it is made of, what starts in
// what order, and what stops it.
//
// Start: the data directory is locked; listeners are bound, so that clients queue
// in the kernel; the port between brokers opens, and the node agrees with the others
// on how it goes on; the metadata log opens and this process registers in it, fenced;
// its logs open; it is unfenced, and elected for the partitions that wait for it;
// group state loads; the listeners serve. The object store is not waited for: while
// it is down records pile up on disk, which shows as upload lag.
//
// Stop: partitions and the metadata's leadership are handed to other brokers, which
// this one serves until they have them; the listeners stop reading and drain;
// coordinators resign; logs close with the mark of a clean shutdown; the metadata log
// closes last.
//
// A failed fsync stops the broker: what the disk holds is unknown from then on.
package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/broker/api"
	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/peer"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata/raftnode"
	"github.com/firnlog/firn/tiering/reclaim"
)

// Version is what the broker registers as; the command line sets it.
var Version = "dev"

// Broker is one node. Make it with New, then Run it once.
type Broker struct {
	cfg config.Config
	log *slog.Logger

	dir       *commitlog.Dir
	meta      *raftnode.Node
	cluster   *cluster
	pulls     *peer.Manager
	parts     *partition.Set
	groups    *group.Coordinator
	fetches   *fetch.Service
	sessions  *fetch.Sessions
	api       *api.Server
	wire      *wire.Server
	tier      *tier // nil without an object store
	cleaner   *cleaner
	retention *reclaim.Retention
	admin     *adminServer

	ready   atomic.Bool
	stage   atomic.Pointer[string] // what it is at while it is not ready
	readied chan struct{}          // closed when ready
	fatal   chan error             // holds the first fatal error

	// undo are the steps that stop what was started, run last to first.
	undo []func()
}

// New checks that the node can be built from its configuration. It opens
// nothing.
func New(cfg config.Config, log *slog.Logger) (*Broker, error) {
	if err := Check(cfg); err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, log: log, fatal: make(chan error, 1), readied: make(chan struct{})}
	b.at("starting")
	return b, nil
}

// Check says what a node cannot be built from, though each setting by itself is
// valid.
func Check(cfg config.Config) error {
	if len(cfg.Listeners) == 0 {
		return errors.New("no listener is configured: set listeners, for example PLAINTEXT://127.0.0.1:9092")
	}
	if !cfg.Clustered() && cfg.BootstrapExpect != 1 {
		return fmt.Errorf("bootstrap.expect is %d, but cluster.listen is empty, so this node stays alone: set cluster.listen, or bootstrap.expect to 1", cfg.BootstrapExpect)
	}
	several := cfg.BootstrapExpect > 1 || len(cfg.Join) > 0
	if several && cfg.RemoteEnable && cfg.StoreIdentity() != "" && cfg.SharedStore() == "" {
		return errors.New("object.store.url is not set, so this node would tier into its own data.dir, where a new leader on another node does not find it: set object.store.url to a store that all brokers reach, or remote.log.storage.system.enable to false")
	}
	return nil
}

// Ready is closed once clients are served.
func (b *Broker) Ready() <-chan struct{} { return b.readied }

// Addr is the bound address of a listener, nil before it is bound.
func (b *Broker) Addr(listener string) net.Addr {
	select {
	case <-b.readied:
		return b.wire.Addr(listener)
	default:
		return nil
	}
}

// fail stops the broker for good.
func (b *Broker) fail(err error) {
	select {
	case b.fatal <- err:
	default:
	}
}

// fatalShutdown is how long connections may drain when the broker cannot go on.
const fatalShutdown = time.Second

// Run serves until ctx ends, then shuts down in order. The error is nil after an
// orderly end.
func (b *Broker) Run(ctx context.Context) (err error) {
	clean := false
	var stopping time.Time // zero: not in order
	defer func() {
		for i := len(b.undo) - 1; i >= 0; i-- {
			b.undo[i]()
		}
		if b.parts != nil {
			perr := b.parts.Close(clean)
			clean = clean && perr == nil // a log that could not be synced is not
			err = errors.Join(err, perr)
		}
		if b.meta != nil {
			err = errors.Join(err, b.meta.Close())
		}
		if b.dir != nil {
			err = errors.Join(err, b.dir.Close(clean))
		}
		if !stopping.IsZero() && err == nil {
			b.log.Info("broker has stopped", "took", time.Since(stopping).Round(time.Millisecond))
		}
	}()
	started := time.Now()
	if err := b.start(ctx); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- b.wire.Serve() }()
	b.ready.Store(true)
	close(b.readied)
	b.log.Info("broker is ready", "node", b.cfg.ID, "cluster", b.meta.Image().ClusterID(), "data", b.cfg.DataDir,
		"listeners", b.boundListeners(), "took", time.Since(started).Round(time.Millisecond))

	select {
	case <-ctx.Done():
		stopping = time.Now()
		b.log.Info("broker stops: connections drain, logs close", "at_most", b.cfg.ShutdownTimeout)
	case err = <-b.fatal:
		b.log.Error("broker stops: it cannot go on", "err", err)
	case err = <-served:
		return fmt.Errorf("listener failed: %w", err)
	}
	b.at("stopping")
	b.ready.Store(false)
	clean = err == nil
	patience := b.cfg.ShutdownTimeout
	if !clean {
		patience = min(patience, fatalShutdown) // what is waited for may never come
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if clean {
		b.leave(stop)
	}
	b.fetches.Drain()
	b.groups.Close()
	if cut := b.wire.Shutdown(stop); cut != nil {
		b.log.Warn("connections were cut", "err", cut)
	}
	if end := <-served; !errors.Is(end, wire.ErrClosed) { // it may not have begun
		err = errors.Join(err, end)
	}
	return err
}

func (b *Broker) boundListeners() []string {
	var out []string
	for _, l := range b.cfg.Listeners {
		bound := b.wire.Addr(l.Name).String()
		text := l.Name + "://" + bound
		if told := net.JoinHostPort(l.AdvertisedHost, strconv.Itoa(int(l.AdvertisedPort))); told != bound && l.AdvertisedPort != 0 {
			text += " (clients are told " + told + ")"
		}
		out = append(out, text)
	}
	return out
}

func (b *Broker) start(ctx context.Context) error {
	var err error
	b.dir, err = commitlog.OpenDir(vfs.Default, b.cfg.DataDir, commitlog.DirOptions{Defer: true})
	switch {
	case errors.Is(err, commitlog.ErrLocked):
		return fmt.Errorf("data.dir %s is in use by another process: stop that one, or name another directory", b.cfg.DataDir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("data.dir %s: %w: let the user that runs this process write there, or name another directory", b.cfg.DataDir, err)
	case err != nil:
		return fmt.Errorf("data directory %s: %w", b.cfg.DataDir, err)
	}
	if err := b.bind(); err != nil {
		return err
	}
	if err := b.startProfiles(); err != nil {
		return err
	}
	if err := b.startAdmin(); err != nil {
		return err
	}
	if err := b.startLink(); err != nil {
		return err
	}
	b.at("starting: looks for its cluster")
	if err := b.startMetadata(ctx); err != nil {
		return err
	}
	if err := b.startTier(); err != nil {
		return err
	}
	if err := b.startReplication(); err != nil {
		return err
	}
	b.startParts()
	if err := b.startGroups(); err != nil {
		return err
	}
	b.startAPI()
	if err := b.follow(ctx); err != nil {
		return err
	}
	if err := b.takePart(ctx); err != nil {
		return err
	}
	if b.tier != nil {
		b.tier.run(b)
	}
	b.startCleaner()
	return b.startRetention()
}

// handler lets the listeners be bound before there is something to serve.
type handler struct{ b *Broker }

func (h handler) ServeKafka(r *wire.Request) { h.b.api.ServeKafka(r) }

// bind opens the listeners. Connections queue until Serve.
func (b *Broker) bind() error {
	table, err := api.Table(b.cfg.RequestMaxBytes)
	if err != nil {
		return fmt.Errorf("table of APIs: %w", err)
	}
	opts := wire.Options{
		Handler: handler{b}, Table: table, Logger: b.log,
		MaxConnections: b.cfg.MaxConnections, MaxConnectionsPerIP: b.cfg.MaxConnectionsPerIP,
		SendBufferBytes: b.cfg.SendBufferBytes, ReceiveBufferBytes: b.cfg.ReceiveBufferBytes,
		IdleTimeout: b.cfg.MaxIdle, MaxInFlight: b.cfg.PipelineDepth, MemoryBudget: b.cfg.MemoryBudgetBytes,
	}
	for _, l := range b.cfg.Listeners {
		opts.Listeners = append(opts.Listeners, wire.Listener{Name: l.Name, Addr: l.Address})
	}
	if b.wire, err = wire.NewServer(opts); err != nil {
		return fmt.Errorf("listeners: %w", err)
	}
	if err := b.wire.Listen(); err != nil {
		return fmt.Errorf("listeners: %w%s", err, bindAdvice(err))
	}
	b.undo = append(b.undo, func() {
		cut, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = b.wire.Shutdown(cut) // a second time it has nothing left to say
	})
	return nil
}

// bindAdvice says what to do about an address that cannot be bound; "" when there
// is nothing to add.
func bindAdvice(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another process listens there; stop that one, or choose another port"
	case errors.Is(err, syscall.EACCES):
		return ": this user may not bind that port; choose one above 1023"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": no interface of this machine has that address; bind one that it has, and let advertised.listeners say what clients connect to"
	}
	return ""
}

// checkOrigin refuses a data directory that something is missing from: an empty
// metadata log would begin an empty cluster, to which all logs here are strangers.
func (b *Broker) checkOrigin(metadataDir string) error {
	if b.dir.ClusterID() == "" {
		return nil
	}
	if _, err := os.Stat(metadataDir); err != nil {
		return fmt.Errorf("%s belongs to cluster %s, but its metadata cannot be read: %w: bring it back, or begin anew with an empty data.dir",
			b.cfg.DataDir, b.dir.ClusterID(), err)
	}
	return nil
}

func (b *Broker) startParts() {
	b.parts = partition.NewSet(partition.SetOptions{
		NodeID: b.cfg.ID, FS: vfs.Default, Dir: b.dir, FlushWorkers: flushWorkers, MaxFiles: logFiles(),
		Openers: b.cfg.RecoveryThreads, ProducerExpiration: b.cfg.ProducerIDExpiration,
		LagMax: b.cfg.ReplicaLagTimeMax, BrokerConfigs: b.cfg.Static, Meta: b.meta, OnLeadership: b.leadershipChanged,
		OnFollow:        b.pulls.Follow,
		LastRemoteState: b.lastRemoteState(), Lease: b.cluster.beats.Lease(), Now: b.now, OnFatal: b.fail, Logger: b.log,
	})
}

// flushWorkers is the number of fsyncs under way at one time.
const flushWorkers = 16

func (b *Broker) startAPI() {
	b.sessions = fetch.NewSessions(b.cfg.FetchSessions)
	opts := fetch.Options{Partitions: b.parts, Logger: b.log, MaxBytes: int64(b.cfg.FetchMaxBytes),
		ColdFetches: b.cfg.ReaderConcurrency, RemoteWait: b.cfg.FetchMaxWait, Lease: b.cluster.beats.Lease()}
	finder := &fetch.Finder{Entries: b.meta}
	if b.tier != nil {
		opts.Remote, finder.Remote = b.tier.reader, b.tier.reader
	}
	b.fetches = fetch.New(opts)
	b.undo = append(b.undo, b.fetches.Close)
	b.api = api.New(api.Options{
		Config: &b.cfg, Meta: b.meta, Partitions: b.parts, Fetch: b.fetches, Sessions: b.sessions,
		Groups: b.groups, Quorum: b.meta, Times: finder, Static: b.cfg.Static, Logger: b.log,
	})
	b.undo = append(b.undo, b.api.Close)
	b.servePeers()
}

// follow opens the logs that the image places here, and goes on with each change.
func (b *Broker) follow(ctx context.Context) error {
	b.at("starting: opens its logs")
	cancel := b.meta.Subscribe(b.parts.Apply)
	b.undo = append(b.undo, cancel)
	if err := b.meta.Delivered(ctx, b.meta.Image().Index()); err != nil {
		return fmt.Errorf("open logs: %w", err)
	}
	return nil
}

// every runs f at a pace until the broker stops; f is not run beside itself.
func (b *Broker) every(pace time.Duration, f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				f(ctx)
			}
		}
	})
	b.undo = append(b.undo, func() { cancel(); wg.Wait() })
}
