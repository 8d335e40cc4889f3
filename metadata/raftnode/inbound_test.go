package raftnode

import (
	"io"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/link"
)

// otherLeader speaks Raft to a member, as a leader of the present term would.
type otherLeader struct {
	inner  *raft.NetworkTransport
	header raft.RPCHeader
	target raft.ServerAddress
}

func newOtherLeader(t *testing.T, lead, m *member) *otherLeader {
	t.Helper()
	l, err := link.Open(link.Options{Listen: "127.0.0.1:0", Self: func() link.Peer { return link.Peer{NodeID: 99, DirectoryID: uuid.New(), ClusterID: testCluster} }})
	require.NoError(t, err)
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: newStreams(l), MaxPool: 1, Timeout: 10 * time.Second, Logger: newRaftLogger(quiet)})
	t.Cleanup(func() {
		require.NoError(t, inner.Close())
		require.NoError(t, l.Close())
	})
	return &otherLeader{inner: inner, header: lead.node.transport.raft.header, target: targetAddress(serverID(m.dir), m.link.Addr())}
}

// send installs the newest snapshot of a member, through a reader that may hang.
func (o *otherLeader) send(t *testing.T, from *member, through func(io.Reader) io.Reader) (raft.InstallSnapshotResponse, error) {
	t.Helper()
	store := &snapStore{fs: from.fs, dir: from.path + "/snapshots"}
	metas, err := store.List()
	require.NoError(t, err)
	require.NotEmpty(t, metas)
	meta, r, err := store.Open(metas[0].ID)
	require.NoError(t, err)
	defer r.Close()
	req := &raft.InstallSnapshotRequest{RPCHeader: o.header, SnapshotVersion: meta.Version, Term: from.node.raft.CurrentTerm(),
		LastLogIndex: meta.Index, LastLogTerm: meta.Term, Configuration: raft.EncodeConfiguration(meta.Configuration),
		ConfigurationIndex: meta.ConfigurationIndex, Size: meta.Size}
	var resp raft.InstallSnapshotResponse
	err = o.inner.InstallSnapshot("", o.target, req, &resp, through(r))
	return resp, err
}

// gate lets a reader pass up to half of it, and the rest once it is opened.
type gate struct {
	io.Reader
	half   int
	at     chan struct{}
	opened chan struct{}
}

// Read implements io.Reader.
func (g *gate) Read(b []byte) (int, error) {
	if g.half == 0 {
		close(g.at)
		<-g.opened
		g.half = -1
	}
	if g.half > 0 {
		b = b[:min(len(b), g.half)]
	}
	n, err := g.Reader.Read(b)
	if g.half > 0 {
		g.half -= n
	}
	return n, err
}

// TestSnapshotThatHangs begins to send a follower a snapshot, and hangs: the follower
// goes on to acknowledge and to vote. When the rest comes, late, it does not go back.
func TestSnapshotThatHangs(t *testing.T) {
	c := newTestNodes(t, 3, Options{TrailingEntries: 1 << 20})
	c.begin()
	lead := c.leader()
	fillState(t, lead.node, 5, 200)
	c.same()
	require.NoError(t, lead.node.Snapshot())
	follower, third := c.others(lead)[0], c.others(lead)[1]
	other := newOtherLeader(t, lead, follower)

	// Entries that the follower acknowledges, above the snapshot.
	for _, name := range []string{"a", "b", "c"} {
		require.NoError(t, makeTopic(t.Context(), lead.node, name))
	}
	g := &gate{half: 2000, at: make(chan struct{}), opened: make(chan struct{})}
	type answer struct {
		resp raft.InstallSnapshotResponse
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		resp, err := other.send(t, lead, func(r io.Reader) io.Reader { g.Reader = r; return g })
		answered <- answer{resp, err}
	}()
	<-g.at
	c.kill(third, 0, 1) // now the follower's word is needed
	require.NoError(t, makeTopic(t.Context(), lead.node, "d"))
	require.NoError(t, lead.node.TransferLeadership(t.Context()))
	require.NoError(t, makeTopic(t.Context(), follower.node, "e"))
	require.NoError(t, follower.node.TransferLeadership(t.Context()))
	require.NoError(t, makeTopic(t.Context(), follower.node, "f"))
	before := follower.node.raft.LastIndex()

	close(g.opened)
	got := <-answered
	require.NoError(t, got.err)
	require.True(t, got.resp.Success)
	require.GreaterOrEqual(t, follower.node.raft.LastIndex(), before)
	logs := &logStore{db: follower.node.logDB}
	first, last, err := logs.bounds()
	require.NoError(t, err)
	require.Equal(t, uint64(1), first, "the log was emptied")
	require.GreaterOrEqual(t, last, before)
	require.NotNil(t, follower.node.Image().TopicByName("f"))
	require.NoError(t, makeTopic(t.Context(), follower.node, "g"))
	c.same()
	names, err := follower.fs.List(follower.path + "/snapshots")
	require.NoError(t, err)
	require.Empty(t, names, "the snapshot's file is still there")
}
