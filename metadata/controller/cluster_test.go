package controller_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/controller"
	"github.com/firnlog/firn/metadata/link"
	"github.com/firnlog/firn/metadata/raftnode"
	"github.com/firnlog/firn/record"
)

// broker is one node of a cluster: Raft, controller and heartbeats over a real port.
type broker struct {
	id    int32
	dir   uuid.UUID
	link  *link.Link
	node  *raftnode.Node
	beats *controller.Heartbeater
	stop  func()
}

// cluster is brokers in one process.
type cluster struct {
	mu    sync.Mutex
	addrs map[uuid.UUID]string
}

func (c *cluster) addr(dir uuid.UUID) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.addrs[dir]
	return a, ok
}

// start opens a broker the way that a process does: the parts know each other only
// once all are made.
func (c *cluster) start(t *testing.T, b *broker, servers []raftnode.Server) {
	var ctl *controller.Controller
	made := make(chan struct{})
	var err error
	b.link, err = link.Open(link.Options{Listen: "127.0.0.1:0",
		Self: func() link.Peer { return link.Peer{NodeID: b.id, DirectoryID: b.dir, ClusterID: "c"} },
		OnGone: func(p link.Peer) {
			<-made
			b.node.PeerGone(p.DirectoryID)
			ctl.Suspect(p.DirectoryID, true)
		}})
	require.NoError(t, err)
	c.mu.Lock()
	c.addrs[b.dir] = b.link.Addr()
	c.mu.Unlock()
	b.node, err = raftnode.Open(raftnode.Options{FS: vfs.NewMem(), Dir: "meta", DirectoryID: b.dir, ClusterID: "AAAAAAAAAAAAAAAAAAAAAA",
		Bootstrap: servers, Link: b.link, Addresses: c.addr, OnLead: func(ctx context.Context) { <-made; ctl.Run(ctx) },
		OnFatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	lead := b.node.AsLeader()
	ctl = controller.New(controller.Options{Meta: lead, Verify: lead.Verify, Reign: lead.Reign, Calls: b.link})
	close(made)
	b.link.Serve()
	b.beats = controller.NewHeartbeater(controller.HeartbeaterOptions{
		Registration: command.RegisterBroker{BrokerID: b.id, DirectoryID: b.dir, ClusterAddress: b.link.Addr()},
		Meta:         b.node, Calls: b.link, Contact: b.node.Contact,
		Leader: func() (string, bool) {
			dir, ok := b.node.Leader()
			if !ok {
				return "", false
			}
			return c.addr(dir)
		}})
}

func (b *broker) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.beats.Run(ctx) })
	b.stop = func() { cancel(); wg.Wait() }
}

// kill ends a broker as the end of its process does: its port refuses at once.
func (b *broker) kill(t *testing.T) {
	if b.stop == nil {
		return
	}
	require.NoError(t, b.link.Close())
	b.stop()
	b.stop = nil
	require.NoError(t, b.node.Close())
}

// await waits until the image of a node is as wanted.
func await(t *testing.T, n *raftnode.Node, what string, ok func(*metadata.Image) bool) {
	t.Helper()
	changed := make(chan struct{}, 1)
	defer n.Subscribe(func(_, _ *metadata.Image, _ metadata.Delta) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	late := time.After(20 * time.Second)
	for !ok(n.Image()) {
		select {
		case <-changed:
		case <-late:
			require.Fail(t, "waited in vain", what)
		}
	}
}

// TestFailoverOverRealNodes: the brokers of a real cluster lose one that only leads
// partitions, and one that leads the metadata too. Nothing is left without a leader,
// and the leases of the others last.
func TestFailoverOverRealNodes(t *testing.T) {
	for name, leader := range map[string]bool{"a broker": false, "the metadata leader": true} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{addrs: map[uuid.UUID]string{}}
			brokers := []*broker{{id: 1, dir: uuid.New()}, {id: 2, dir: uuid.New()}, {id: 3, dir: uuid.New()}}
			var servers []raftnode.Server
			for _, b := range brokers {
				servers = append(servers, raftnode.Server{DirectoryID: b.dir, Address: b.dir.String(), Voter: true})
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for i, b := range brokers {
				s := servers
				if i > 0 {
					s = nil
				}
				c.start(t, b, s)
				defer b.kill(t)
			}
			for _, b := range brokers {
				require.NoError(t, b.node.Ready(ctx))
				_, err := b.beats.Register(ctx)
				require.NoError(t, err)
				b.run()
				require.NoError(t, b.beats.Active(ctx))
			}
			dir, ok := brokers[0].node.Leader()
			require.True(t, ok)
			at := slices.IndexFunc(brokers, func(b *broker) bool { return (b.dir == dir) == leader })
			victim, rest := brokers[at], slices.Delete(slices.Clone(brokers), at, at+1)
			order := []int32{victim.id, rest[0].id, rest[1].id}
			topic := command.NewTopic{ID: record.NewTopicID(), Name: "a", Assignments: [][]int32{order, order, {victim.id}}}
			_, err := rest[0].node.Propose(ctx, &command.CreateTopics{Topics: []command.NewTopic{topic}})
			require.NoError(t, err)

			start := time.Now()
			victim.kill(t)
			for _, b := range rest {
				await(t, b.node, "another leader", func(img *metadata.Image) bool {
					p := img.Partition(record.TopicPartition{Topic: topic.ID})
					return p != nil && p.Leader == rest[0].id
				})
			}
			t.Logf("another leader everywhere after the loss of %s: %v", name, time.Since(start))
			for n, p := range rest[1].node.Image().Partitions(topic.ID) {
				want := rest[0].id
				if n == 2 {
					want = -1
				}
				require.Equal(t, want, p.Leader, "partition %d", n)
			}
			require.NoError(t, metadata.Check(rest[0].node.Image()))
			for _, b := range rest {
				require.True(t, b.beats.Lease().Valid())
			}
		})
	}
}
