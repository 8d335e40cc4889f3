package peer_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/api"
	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/peer"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// cluster is several brokers in one process: logs in memory, Fetch over loopback
// through the wire and api layers, and a metadata log that is a mutex.
type cluster struct {
	t     testing.TB
	topic record.TopicID
	nodes map[int32]*broker
	log   *slog.Logger
	tune  func(*peer.Options)

	mu     sync.Mutex // guards img and orders Apply
	img    *metadata.Image
	newest atomic.Pointer[metadata.Image] // img, for those who do not change it
	fence  atomic.Int32                   // proposals are lost while it is not zero
	// state is the real state machine, where a test needs what follows from a
	// broker's state; then everything changes by commit.
	state *fsm.FSM
}

// broker is one node of it. It is the node's metadata client.
type broker struct {
	metadata.Client
	c      *cluster
	id     int32
	epoch  int64
	fs     vfs.FS
	path   string
	dir    *commitlog.Dir
	set    *partition.Set
	fetch  *fetch.Service
	api    *api.Server
	wire   *wire.Server
	addr   atomic.Pointer[string]
	port   net.Listener
	served sync.WaitGroup
	pull   *peer.Manager
	remote atomic.Pointer[partition.RemoteState]
	down   bool

	mu    sync.Mutex
	conns map[net.Conn]bool // that others made to it
	cut   map[int32]bool    // brokers that cannot be reached from here
}

func newCluster(t testing.TB, tune func(*peer.Options), ids ...int32) *cluster {
	return newClusterOn(t, func(int32) (vfs.FS, string) { return vfs.NewMem(), "data" }, tune, ids...)
}

func newClusterOn(t testing.TB, disk func(id int32) (vfs.FS, string), tune func(*peer.Options), ids ...int32) *cluster {
	c := &cluster{t: t, img: metadata.Empty(), topic: record.NewTopicID(), nodes: make(map[int32]*broker),
		log: slog.New(slog.DiscardHandler), tune: tune}
	c.newest.Store(c.img)
	for _, id := range ids {
		fs, path := disk(id)
		c.nodes[id] = &broker{c: c, id: id, fs: fs, path: path, cut: make(map[int32]bool), down: true}
	}
	for _, id := range ids {
		c.start(id)
	}
	return c
}

func (b *broker) Image() *metadata.Image { return b.c.newest.Load() }

func (b *broker) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	if b.c.fence.Load() != 0 {
		return command.Result{}, metadata.ErrUnknownOutcome
	}
	if b.c.state != nil {
		return b.c.commit(cmd)
	}
	c := cmd.(*command.AlterPartition)
	res := command.Result{Items: make([]command.ItemResult, len(c.Partitions))}
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	b.c.editLocked(func(e *metadata.Editor) {
		for i, ch := range c.Partitions {
			have := b.c.img.Partition(ch.Partition)
			if have == nil || have.Leader != b.id || have.LeaderEpoch != ch.LeaderEpoch || have.PartitionEpoch != ch.PartitionEpoch {
				res.Items[i].Err = command.ErrStalePartitionEpoch
				continue
			}
			next := *have
			next.ISR = nil
			for _, m := range ch.ISR {
				next.ISR = append(next.ISR, m.BrokerID)
				if reg := b.c.img.Broker(m.BrokerID); m.BrokerID != b.id && (!reg.Eligible() || m.BrokerEpoch >= 0 && m.BrokerEpoch != reg.Epoch) {
					res.Items[i].Err = command.ErrIneligibleReplica
				}
			}
			if res.Items[i].Err == nil {
				next.PartitionEpoch++
				e.PutPartition(ch.Partition, &next)
			}
		}
	})
	return res, nil
}

func (c *cluster) edit(f func(*metadata.Editor)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.editLocked(f)
}

func (c *cluster) editLocked(f func(*metadata.Editor)) {
	e := c.img.Edit()
	f(e)
	next, delta := e.Commit(c.img.Index() + 1)
	c.publishLocked(next, delta)
}

func (c *cluster) publishLocked(next *metadata.Image, delta metadata.Delta) {
	old := c.img
	c.img = next
	c.newest.Store(next)
	for _, b := range c.nodes {
		if !b.down {
			b.set.Apply(old, next, delta)
		}
	}
}

func (c *cluster) start(id int32) {
	b := c.nodes[id]
	t := c.t
	var err error
	b.conns = make(map[net.Conn]bool)
	b.dir, err = commitlog.OpenDir(b.fs, b.path, commitlog.DirOptions{BootID: "boot"})
	require.NoError(t, err)
	opts := peer.Options{NodeID: id, BrokerEpoch: func() int64 { return atomic.LoadInt64(&b.epoch) }, Dial: b.dial,
		Backoff: 100 * time.Millisecond, Logger: c.log}
	if c.tune != nil {
		c.tune(&opts)
	}
	b.pull, err = peer.New(opts)
	require.NoError(t, err)
	b.set = partition.NewSet(partition.SetOptions{NodeID: id, FS: b.fs, Dir: b.dir, FlushWorkers: 4, MaxFiles: 256,
		LagMax: 10 * time.Second, Meta: b, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }, Logger: c.log,
		OnFollow: b.pull.Follow,
		LastRemoteState: func(ctx context.Context, tp record.TopicPartition) (record.Offset, []manifest.EpochStart, []byte, error) {
			if f := b.remote.Load(); f != nil {
				return (*f)(ctx, tp)
			}
			return 0, nil, nil, errors.New("no bucket")
		}})
	b.fetch = fetch.New(fetch.Options{Partitions: b.set, Logger: c.log, MaxBytes: 55 << 20, ColdFetches: 1, RemoteWait: time.Second})
	b.api = api.New(api.Options{Config: &config.Config{Node: config.Node{ID: id}}, Meta: b, Partitions: b.set, Fetch: b.fetch,
		Sessions: fetch.NewSessions(100), Times: &fetch.Finder{}, Logger: c.log})
	table, err := api.Table(100 << 20)
	require.NoError(t, err)
	b.wire, err = wire.NewServer(wire.Options{Listeners: []wire.Listener{{Name: "PLAINTEXT", Addr: "127.0.0.1:0"}},
		Handler: b.api, Table: table, Logger: c.log})
	require.NoError(t, err)
	b.port, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.served.Go(func() { b.accept(b.port) })
	t.Cleanup(func() { c.stop(id, true) })

	c.mu.Lock()
	defer c.mu.Unlock()
	addr := b.port.Addr().String()
	b.addr.Store(&addr)
	if c.state != nil {
		atomic.StoreInt64(&b.epoch, c.registerLocked(b))
		b.set.Apply(metadata.Empty(), c.img, c.img.Everything())
		b.down = false
		return
	}
	b.down = false
	atomic.StoreInt64(&b.epoch, int64(c.img.Index())+1)
	if c.img.Index() > 0 {
		b.set.Apply(metadata.Empty(), c.img, c.img.Everything())
	}
	c.editLocked(func(e *metadata.Editor) { e.PutBroker(&metadata.Broker{ID: id, Epoch: atomic.LoadInt64(&b.epoch)}) })
}

func (b *broker) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[conn] = true
		b.mu.Unlock()
		b.served.Go(func() {
			var hello [4]byte
			if _, err := io.ReadFull(conn, hello[:]); err == nil {
				_ = b.wire.ServeConn(conn, int32(binary.BigEndian.Uint32(hello[:]))) // ends with the connection
			}
			b.mu.Lock()
			delete(b.conns, conn)
			b.mu.Unlock()
		})
	}
}

func (b *broker) dial(ctx context.Context, to int32) (net.Conn, error) {
	b.mu.Lock()
	cut := b.cut[to]
	b.mu.Unlock()
	if cut {
		return nil, errors.New("no route")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", *b.c.nodes[to].addr.Load())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, uint32(b.id))); err != nil { // a hello, as far as there is need
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// stop ends a broker; not clean, as kill -9 does.
func (c *cluster) stop(id int32, clean bool) {
	b := c.nodes[id]
	c.mu.Lock()
	already := b.down
	b.down = true
	c.mu.Unlock()
	if already {
		return
	}
	t := c.t
	b.pull.Close()
	require.NoError(t, b.port.Close())
	b.fetch.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b.mu.Lock()
	for conn := range b.conns {
		_ = conn.Close()
	}
	b.mu.Unlock()
	_ = b.wire.Shutdown(ctx) // connections were cut
	b.served.Wait()
	b.fetch.Close()
	b.api.Close()
	require.NoError(t, b.set.Close(clean))
	require.NoError(t, b.dir.Close(clean))
}

// create makes the topic with a number of partitions, led in turn.
func (c *cluster) create(partitions int, configs map[string]string, replicas ...int32) {
	c.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: c.topic, Name: "t", Partitions: int32(partitions), Configs: configs})
		for n := range partitions {
			order := append(slices.Clone(replicas[n%len(replicas):]), replicas[:n%len(replicas)]...)
			e.PutPartition(c.tp(n), &metadata.Partition{Replicas: order, ISR: order, Leader: order[0], PartitionEpoch: 1,
				RemoteEpoch: -1, LastKnownLeader: -1})
		}
	})
}

func (c *cluster) tp(n int) record.TopicPartition {
	return record.TopicPartition{Topic: c.topic, Partition: int32(n)}
}

// lead elects a leader for a partition.
func (c *cluster) lead(n int, leader int32) {
	c.edit(func(e *metadata.Editor) {
		p := *c.img.Partition(c.tp(n))
		p.Leader, p.LeaderEpoch, p.PartitionEpoch = leader, p.LeaderEpoch+1, p.PartitionEpoch+1
		if !slices.Contains(p.ISR, leader) {
			p.ISR = []int32{leader}
		}
		e.PutPartition(c.tp(n), &p)
	})
}

// join adds a replica to a partition, and waits until it is in sync.
func (c *cluster) join(n int, id int32) {
	c.edit(func(e *metadata.Editor) {
		p := *c.img.Partition(c.tp(n))
		p.Replicas, p.PartitionEpoch = append(slices.Clone(p.Replicas), id), p.PartitionEpoch+1
		e.PutPartition(c.tp(n), &p)
	})
	c.inSync(n, len(c.img.Partition(c.tp(n)).Replicas))
}

// fenceOut takes a broker out of every ISR and leads elsewhere what it led.
func (c *cluster) fenceOut(id int32) {
	c.edit(func(e *metadata.Editor) {
		e.PutBroker(&metadata.Broker{ID: id, Epoch: c.img.Broker(id).Epoch, Fenced: true})
		for tp, have := range c.img.AllPartitions() {
			if !slices.Contains(have.ISR, id) || len(have.ISR) == 1 {
				continue
			}
			p := *have
			p.ISR = slices.DeleteFunc(slices.Clone(p.ISR), func(x int32) bool { return x == id })
			if p.Leader == id {
				p.Leader, p.LeaderEpoch = p.ISR[0], p.LeaderEpoch+1
			}
			p.PartitionEpoch++
			e.PutPartition(tp, &p)
		}
	})
}

func (c *cluster) part(id int32, n int) *partition.Partition {
	p := c.nodes[id].set.Get(c.tp(n))
	require.NotNil(c.t, p)
	return p
}

// waiting is an owner that waits for its append.
type waiting struct{ done chan struct{} }

func (w *waiting) AppendWritten(*partition.Append) {}
func (w *waiting) AppendDone(*partition.Append)    { close(w.done) }

// produce appends with acks=all and returns what to wait for.
func (c *cluster) produce(id int32, n int, raw []byte) (*partition.Append, <-chan struct{}) {
	w := &waiting{done: make(chan struct{})}
	a := &partition.Append{Raw: raw, AcksAll: true, LeaderEpoch: -1, ZstdOK: true, Owner: w}
	c.part(id, n).Append(a)
	return a, w.done
}

func (c *cluster) acked(id int32, n int, raw []byte) *partition.Append {
	c.t.Helper()
	a, done := c.produce(id, n, raw)
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		c.t.Fatalf("partition %d on %d is not acknowledged: %+v", n, id, c.part(id, n).State())
	}
	require.NoError(c.t, a.Err)
	return a
}

func batch(n int, opts record.BuilderOptions) []byte {
	b := record.NewBuilder(opts)
	for i := range n {
		b.Append(time.Now().UnixMilli(), []byte("k"), fmt.Appendf(nil, "value %d", i))
	}
	return b.Build()
}

func plain() record.BuilderOptions {
	return record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
}

// bytesOf is all that a log holds from an offset on.
func (c *cluster) bytesOf(id int32, n int, from record.Offset) []byte {
	l := c.part(id, n).Log()
	s, err := l.Read(from, l.End(), 1<<30, true)
	require.NoError(c.t, err)
	defer s.Release()
	raw, err := s.ReadAll(nil)
	require.NoError(c.t, err)
	return raw
}

// same waits until the logs of all brokers are the same, byte by byte, with the
// same watermark.
func (c *cluster) same(n int, from record.Offset, ids ...int32) {
	c.t.Helper()
	first := c.part(ids[0], n)
	require.Eventually(c.t, func() bool {
		want := first.State()
		for _, id := range ids {
			if st := c.part(id, n).State(); st.LogEnd != want.LogEnd || st.HighWatermark != want.LogEnd {
				return false
			}
		}
		return true
	}, 20*time.Second, time.Millisecond, "partition %d", n)
	want := c.bytesOf(ids[0], n, from)
	for _, id := range ids[1:] {
		require.Equal(c.t, want, c.bytesOf(id, n, from), "broker %d has other bytes than %d in partition %d", id, ids[0], n)
	}
	for _, id := range ids {
		counts := c.part(id, n).Counters()
		require.Zero(c.t, counts.Violations)
		require.Zero(c.t, counts.BelowWatermark)
	}
}

// inSync waits until the ISR of a partition has so many members.
func (c *cluster) inSync(n, count int) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.img.Partition(c.tp(n)).ISR) == count
	}, 20*time.Second, time.Millisecond, "ISR of partition %d", n)
}
