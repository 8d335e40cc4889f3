package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/link"
	"github.com/firnlog/firn/record"
)

const testCluster = "AAAAAAAAAAAAAAAAAAAAAA"

// member is one node of a test cluster. A killed one has no node and no link.
type member struct {
	id   int32
	dir  uuid.UUID
	fs   *vfs.MemFS // nil: path is on the disk
	path string
	node *Node
	link *link.Link
}

// testNodes is a cluster over TCP on the loopback. Each pair of members speaks
// through a cable in each direction, so that it can be cut.
type testNodes struct {
	t       testing.TB
	opts    Options // template
	hints   bool    // that a peer is gone are passed on
	direct  bool    // without cables
	members []*member

	mu     sync.Mutex
	cables map[[2]int]*cable // who dialled, whom
	addrs  map[uuid.UUID]string
	places map[uuid.UUID]int
}

// newTestNodes makes n members, none of which runs.
func newTestNodes(t testing.TB, n int, opts Options) *testNodes {
	t.Helper()
	c := &testNodes{t: t, opts: opts, cables: map[[2]int]*cable{}, addrs: map[uuid.UUID]string{}, places: map[uuid.UUID]int{}}
	for range n {
		c.add(vfs.NewCrashableMem(), "/data/meta")
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			c.close(m)
		}
		for _, cable := range c.cables {
			cable.close()
		}
	})
	return c
}

// add makes one more member, which does not run. fs nil is the disk.
func (c *testNodes) add(fs *vfs.MemFS, path string) *member {
	m := &member{id: int32(len(c.members) + 1), dir: uuid.New(), fs: fs, path: path}
	for i := range c.members {
		if c.direct {
			break
		}
		c.cables[[2]int{i, len(c.members)}] = newCable(c.t)
		c.cables[[2]int{len(c.members), i}] = newCable(c.t)
	}
	c.places[m.dir] = len(c.members)
	c.members = append(c.members, m)
	return m
}

// index is a member's place, -1 for a directory that is none's.
func (c *testNodes) index(dir uuid.UUID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.places[dir]
	if !ok {
		return -1
	}
	return i
}

// nodeOf is the node of a member, nil while it does not run; for the goroutines of
// clients. The test's own writes the field.
func (c *testNodes) nodeOf(i int) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[i].node
}

func (c *testNodes) set(m *member, n *Node, l *link.Link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.node, m.link = n, l
}

// servers are the first n members, as voters.
func (c *testNodes) servers(n int) []Server {
	var s []Server
	for i, m := range c.members[:n] {
		s = append(s, Server{DirectoryID: m.dir, Address: fmt.Sprintf("of-member-%d", i), Voter: true})
	}
	return s
}

// start opens a member.
func (c *testNodes) start(m *member, bootstrap []Server) {
	c.t.Helper()
	var node atomic.Pointer[Node]
	gone := func(p link.Peer) {
		if n := node.Load(); n != nil && c.hints {
			n.PeerGone(p.DirectoryID)
		}
	}
	l, err := link.Open(link.Options{Listen: "127.0.0.1:0", OnGone: gone, Self: func() link.Peer {
		return link.Peer{NodeID: m.id, DirectoryID: m.dir, ClusterID: testCluster}
	}})
	require.NoError(c.t, err)
	me := c.index(m.dir)
	c.mu.Lock()
	c.addrs[m.dir] = l.Addr()
	for pair, cable := range c.cables {
		if pair[1] == me {
			cable.to.Store(l.Addr())
		}
	}
	c.mu.Unlock()
	opts := c.opts
	opts.Dir, opts.DirectoryID, opts.ClusterID, opts.Bootstrap, opts.Link = m.path, m.dir, testCluster, bootstrap, l
	if m.fs != nil {
		opts.FS = m.fs
	}
	opts.Addresses = func(dir uuid.UUID) (string, bool) {
		to := c.index(dir)
		if to < 0 {
			return "", false
		}
		if c.direct {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.addrs[dir], c.addrs[dir] != ""
		}
		return c.cables[[2]int{me, to}].addr(), true
	}
	if os.Getenv("RAFT_LOG") != "" {
		opts.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("n", m.id)
	}
	opts.OnFatal = func(err error) { c.t.Errorf("node %d: %v", m.id, err) }
	n, err := Open(opts)
	require.NoError(c.t, err)
	node.Store(n)
	l.Serve()
	c.set(m, n, l)
}

// begin starts all members as voters of one cluster, and registers them as brokers.
func (c *testNodes) begin() {
	c.t.Helper()
	servers := c.servers(len(c.members))
	for _, m := range c.members[1:] {
		c.start(m, nil)
	}
	c.start(c.members[0], servers)
	require.NoError(c.t, c.members[0].node.transport.elect()) // why wait
	for _, m := range c.members {
		c.ready(m)
	}
	for _, m := range c.members {
		c.register(m)
	}
}

func (c *testNodes) ready(m *member) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(c.t, m.node.Ready(ctx), "node %d", m.id)
}

func (c *testNodes) register(m *member) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := m.node.Propose(ctx, &command.RegisterBroker{BrokerID: m.id, DirectoryID: m.dir, Incarnation: uuid.New()})
	require.NoError(c.t, err)
	_, err = m.node.Propose(ctx, &command.SetBrokerState{BrokerID: m.id, BrokerEpoch: res.BrokerEpoch, State: command.BrokerActive})
	require.NoError(c.t, err)
}

// close ends a member in order.
func (c *testNodes) close(m *member) {
	c.t.Helper()
	if m.node == nil {
		return
	}
	n, l := m.node, m.link
	c.set(m, nil, nil)
	require.NoError(c.t, n.Close())
	require.NoError(c.t, l.Close())
}

// kill ends a member as if its machine lost power: of what it has not synced, keep
// percent stay. Nothing leaves it after the moment of which its disk is.
func (c *testNodes) kill(m *member, keep int, seed int64) {
	c.t.Helper()
	n, l := m.node, m.link
	c.set(m, nil, nil)
	// Nothing leaves, and nothing arrives: neither on streams that others have
	// dialled nor on its own. What it commits with others after this moment would be
	// missing on its disk.
	require.NoError(c.t, l.Close())
	n.transport.stop()
	disk := m.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: testRand(seed)})
	require.NoError(c.t, n.Close())
	m.fs = disk
}

// wipe gives a member that does not run an empty disk, so that it is another server.
func (c *testNodes) wipe(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := m.dir
	m.dir, m.fs = uuid.New(), vfs.NewCrashableMem()
	// The old directory is still looked for at the same address.
	c.places[m.dir] = c.places[was]
}

// cut sets the mode of every cable between a member and the others.
func (c *testNodes) cut(m *member, mode cableMode) {
	me := c.index(m.dir)
	for pair, cable := range c.cables {
		if pair[0] == me || pair[1] == me {
			cable.mode.Store(int32(mode))
		}
	}
}

// leader waits until one of the running members leads and says so.
func (c *testNodes) leader() *member {
	c.t.Helper()
	var found *member
	require.Eventually(c.t, func() bool {
		for _, m := range c.members {
			if m.node != nil && m.node.leads() {
				found = m
				return true
			}
		}
		return false
	}, 20*time.Second, time.Millisecond)
	return found
}

// others are the running members but one.
func (c *testNodes) others(not *member) []*member {
	var rest []*member
	for _, m := range c.members {
		if m != not && m.node != nil {
			rest = append(rest, m)
		}
	}
	return rest
}

// same waits until every running member has all, and compares their states.
func (c *testNodes) same() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var index uint64
	for _, m := range c.members {
		if m.node != nil {
			require.NoError(c.t, m.node.ReadBarrier(ctx), "node %d", m.id)
			index = max(index, m.node.Image().Index())
		}
	}
	var want [32]byte
	first := true
	for _, m := range c.members {
		if m.node == nil {
			continue
		}
		require.NoError(c.t, m.node.dispatch.published.wait(ctx, index, m.node.quit), "node %d", m.id)
		at, hash, err := m.node.StateHash()
		require.NoError(c.t, err)
		require.Equal(c.t, index, at, "node %d", m.id)
		if first {
			want, first = hash, false
		}
		require.Equal(c.t, want, hash, "node %d differs at index %d", m.id, index)
	}
}

// makeTopic proposes one topic, and returns the error.
func makeTopic(ctx context.Context, n *Node, name string) error {
	res, err := n.Propose(ctx, &command.CreateTopics{Request: command.Request{RequestID: uuid.New()},
		Topics: []command.NewTopic{{ID: record.NewTopicID(), Name: name, Assignments: [][]int32{{1}}}}})
	if err == nil {
		err = res.Items[0].Err
	}
	return err
}

// cableMode is what a cable does with bytes.
type cableMode int32

const (
	passes cableMode = iota
	// swallows accepts bytes and connections, and delivers nothing.
	swallows
	// hangs stops to read, so that the senders' buffers fill.
	hangs
)

// cable carries connections to an address, or does not.
type cable struct {
	ln   net.Listener
	mode atomic.Int32
	to   atomic.Value // string
	quit chan struct{}
	wg   sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func newCable(t testing.TB) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cable{ln: ln, quit: make(chan struct{})}
	c.to.Store("")
	c.wg.Go(c.accept)
	return c
}

func (c *cable) addr() string { return c.ln.Addr().String() }

func (c *cable) accept() {
	for {
		in, err := c.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.to.Load().(string))
		if err != nil {
			in.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, in, out)
		c.mu.Unlock()
		c.wg.Go(func() { c.pump(out, in) })
		c.wg.Go(func() { c.pump(in, out) })
	}
}

func (c *cable) pump(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 64<<10)
	lost := false
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		for cableMode(c.mode.Load()) == hangs {
			select {
			case <-c.quit:
				return
			case <-time.After(time.Millisecond):
			}
		}
		// A stream that lost bytes never makes sense again.
		lost = lost || cableMode(c.mode.Load()) == swallows
		if lost {
			if cableMode(c.mode.Load()) == passes {
				return
			}
			continue
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (c *cable) close() {
	close(c.quit)
	c.ln.Close()
	c.mu.Lock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.mu.Unlock()
	c.wg.Wait()
}
