package raftnode

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/link"
)

// puppet is a voter beside one real node: it says what the test has it say.
type puppet struct {
	dir   uuid.UUID
	addr  string
	inner *raft.NetworkTransport
	rpcs  chan raft.RPC // what the node asks; the test answers
}

func newPuppet(t *testing.T) *puppet {
	t.Helper()
	p := &puppet{dir: uuid.New(), rpcs: make(chan raft.RPC)}
	l, err := link.Open(link.Options{Listen: "127.0.0.1:0", Self: func() link.Peer {
		return link.Peer{NodeID: 7, DirectoryID: p.dir, ClusterID: testCluster}
	}})
	require.NoError(t, err)
	p.addr = l.Addr()
	p.inner = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: newStreams(l), MaxPool: 1, Timeout: 10 * time.Second, Logger: newRaftLogger(quiet)})
	l.Serve()
	t.Cleanup(func() {
		require.NoError(t, p.inner.Close())
		require.NoError(t, l.Close())
	})
	return p
}

// header is what begins the puppet's requests and answers.
func (p *puppet) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(p.dir)), Addr: []byte(p.addr)}
}

// beat sends the node a heartbeat.
func (p *puppet) beat(to *member, term uint64) (raft.AppendEntriesResponse, error) {
	var resp raft.AppendEntriesResponse
	err := p.inner.AppendEntries("", targetAddress(serverID(to.dir), to.link.Addr()), &raft.AppendEntriesRequest{RPCHeader: p.header(), Term: term}, &resp)
	return resp, err
}

// answer runs fn for each request of the node, until the test ends.
func (p *puppet) answer(t *testing.T, fn func(rpc raft.RPC)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case rpc := <-p.inner.Consumer():
				fn(rpc)
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// vote answers what a candidate asks.
func (p *puppet) vote(rpc raft.RPC, term uint64) {
	switch rpc.Command.(type) {
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: p.header(), Term: term, Granted: true}, nil)
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: p.header(), Term: term, Granted: true}, nil)
	}
}

// amongPuppets starts a node whose fellow voters are puppets. Its files are fs.
func amongPuppets(t *testing.T, opts Options, fs vfs.FS, puppets ...*puppet) *member {
	t.Helper()
	m := &member{id: 1, dir: uuid.New(), path: "/data/meta"}
	l, err := link.Open(link.Options{Listen: "127.0.0.1:0", Self: func() link.Peer {
		return link.Peer{NodeID: m.id, DirectoryID: m.dir, ClusterID: testCluster}
	}})
	require.NoError(t, err)
	opts.FS, opts.Dir, opts.DirectoryID, opts.Link = fs, m.path, m.dir, l
	opts.Bootstrap = []Server{{DirectoryID: m.dir, Address: l.Addr(), Voter: true}}
	for _, p := range puppets {
		opts.Bootstrap = append(opts.Bootstrap, Server{DirectoryID: p.dir, Address: p.addr, Voter: true})
	}
	n, err := Open(opts)
	require.NoError(t, err)
	l.Serve()
	m.node, m.link = n, l
	t.Cleanup(func() {
		require.NoError(t, n.Close())
		require.NoError(t, l.Close())
	})
	return m
}

// barrier holds whoever comes while it is down.
type barrier struct {
	mu   sync.Mutex
	held chan struct{} // nil: it is up
	come chan struct{}
}

func newBarrier() *barrier { return &barrier{come: make(chan struct{}, 64)} }

func (b *barrier) lower() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = make(chan struct{})
}

func (b *barrier) raise() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held != nil {
		close(b.held)
		b.held = nil
	}
}

func (b *barrier) pass() {
	b.mu.Lock()
	held := b.held
	b.mu.Unlock()
	if held == nil {
		return
	}
	select {
	case b.come <- struct{}{}:
	default:
	}
	<-held
}

// slowSync is a disk whose syncs wait at the barrier.
type slowSync struct{ *barrier }

// MaybeError implements errorfs.Injector.
func (s slowSync) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo {
		s.pass()
	}
	return nil
}

// String implements errorfs.Injector.
func (slowSync) String() string { return "slow sync" }

// stopAt is a log that waits at the barrier with the lines that begin with text.
type stopAt struct {
	*barrier
	text string
}

func (s stopAt) Enabled(context.Context, slog.Level) bool { return true }
func (s stopAt) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s stopAt) WithGroup(string) slog.Handler            { return s }
func (s stopAt) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, s.text) {
		s.pass()
	}
	return nil
}

// TestNoSecondLeaderOfATerm: a candidate hears, in one moment, of the leader of the
// next term and of the vote that it waited for. Raft's own way of taking heartbeats
// past its main goroutine would make it a leader of the other's term.
func TestNoSecondLeaderOfATerm(t *testing.T) {
	disk, log := newBarrier(), newBarrier()
	one, two := newPuppet(t), newPuppet(t)
	asked := make(chan raft.RPC, 16)
	var mu sync.Mutex
	var claims []uint64 // terms in which the node said that it leads
	for _, p := range []*puppet{one, two} {
		p.answer(t, func(rpc raft.RPC) {
			switch r := rpc.Command.(type) {
			case *raft.RequestPreVoteRequest:
				p.vote(rpc, r.Term-1)
			case *raft.RequestVoteRequest:
				asked <- rpc
			case *raft.AppendEntriesRequest:
				mu.Lock()
				claims = append(claims, r.Term)
				mu.Unlock()
				rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: p.header(), Term: max(r.Term, 3), LastLog: 1}, nil)
			}
		})
	}
	m := amongPuppets(t, Options{Logger: slog.New(stopAt{log, "entering leader state"})}, errorfs.Wrap(vfs.NewMem(), slowSync{disk}), one, two)
	t.Cleanup(func() { disk.raise(); log.raise() })

	// It is a candidate, and has asked both.
	first, second := <-asked, <-asked
	term := first.Command.(*raft.RequestVoteRequest).Term
	disk.lower()
	log.lower()
	beaten := make(chan error, 1)
	go func() {
		_, err := one.beat(m, term+1)
		beaten <- err
	}()
	<-disk.come // it writes the new term
	for _, rpc := range []raft.RPC{first, second} {
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: two.header(), Term: term, Granted: true}, nil)
	}
	select {
	case <-log.come:
	case <-time.After(300 * time.Millisecond): // as it should be
	}
	disk.raise()
	require.NoError(t, <-beaten)
	log.raise()
	for range 20 {
		_, err := one.beat(m, term+1)
		require.NoError(t, err)
		mu.Lock()
		require.NotContains(t, claims, term+1, "it leads in the term of another")
		mu.Unlock()
	}
	require.Equal(t, raft.Follower, m.node.raft.State())
	require.Equal(t, term+1, m.node.raft.CurrentTerm())
	leader, ok := m.node.Leader()
	require.True(t, ok)
	require.Equal(t, one.dir, leader)
}

// TestFollowerThatRefuses: a leader under load, whose follower refuses entries now
// and then, goes on to send it more; and it closes when it was deposed meanwhile.
// Raft's pipeline stops reading answers at the first refusal, and could wait for
// ever for its own reader.
func TestFollowerThatRefuses(t *testing.T) {
	one, two := newPuppet(t), newPuppet(t)
	var refusals, deposed atomic.Int32
	var last atomic.Uint64
	for _, p := range []*puppet{one, two} {
		n := 0
		var mine uint64
		p.answer(t, func(rpc raft.RPC) {
			r, ok := rpc.Command.(*raft.AppendEntriesRequest)
			if !ok {
				p.vote(rpc, 1)
				return
			}
			resp := &raft.AppendEntriesResponse{RPCHeader: p.header(), Term: r.Term, LastLog: mine, Success: true}
			if n++; p == one && len(r.Entries) > 0 {
				if n%10 == 0 {
					resp.Success, resp.NoRetryBackoff = false, true
					refusals.Add(1)
				}
			}
			if p == one && deposed.Load() > 0 {
				resp.Term, resp.Success = r.Term+1, false
			}
			if resp.Success {
				mine = max(mine, r.PrevLogEntry+uint64(len(r.Entries)))
				if p == one {
					last.Store(mine)
				}
			}
			rpc.Respond(resp, nil)
		})
	}
	m := amongPuppets(t, Options{ClusterID: testCluster}, vfs.NewMem(), one, two)
	ready(t, m.node)
	register(t, m.node)
	load, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for load.Err() == nil {
				if err := makeTopic(load, m.node, uuid.NewString()); err != nil {
					return
				}
			}
		})
	}
	require.Eventually(t, func() bool { return refusals.Load() >= 40 }, 20*time.Second, time.Millisecond, "it is sent nothing any more after %v refusals", &refusals)
	at := m.node.raft.LastIndex()
	require.Eventually(t, func() bool { return last.Load() >= at }, 5*time.Second, time.Millisecond)
	deposed.Store(1)
	require.Eventually(t, func() bool { return !m.node.leads() }, 5*time.Second, time.Millisecond)
	stop()
	wg.Wait()
	closed := make(chan error, 1)
	go func() { closed <- m.node.Close() }()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(15 * time.Second):
		t.Fatal("it does not close")
	}
}

// TestVotesAreByDirectory: two candidates that were given one address by mistake must
// not count for one, since a voter remembers whom it voted for by that name.
func TestVotesAreByDirectory(t *testing.T) {
	p := newPuppet(t)
	asked := make(chan *raft.RequestVoteRequest, 16)
	p.answer(t, func(rpc raft.RPC) {
		if r, ok := rpc.Command.(*raft.RequestVoteRequest); ok {
			asked <- r
		}
		p.vote(rpc, 1)
	})
	m := amongPuppets(t, Options{}, vfs.NewMem(), p)
	require.Equal(t, m.dir.String(), string((<-asked).Addr))
}

// TestChangeThatIsGivenUp: the caller of a change gives up while the leader's disk is
// slow. The next one was decided at the servers before it, and is refused.
func TestChangeThatIsGivenUp(t *testing.T) {
	disk := newBarrier()
	t.Cleanup(disk.raise)
	one, two := newPuppet(t), newPuppet(t)
	for _, p := range []*puppet{one, two} {
		p.follow(t)
	}
	m := amongPuppets(t, Options{ClusterID: testCluster}, errorfs.Wrap(vfs.NewMem(), slowSync{disk}), one, two)
	t.Cleanup(disk.raise)
	ready(t, m.node)
	_, version := m.node.Servers()
	disk.lower()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	fresh := uuid.New()
	require.Error(t, m.node.AddNonvoter(short, fresh, "somewhere", version))
	done := make(chan error, 1)
	go func() { done <- m.node.Remove(t.Context(), two.dir, version) }()
	select {
	case err := <-done:
		t.Fatalf("done while the first is under way: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	disk.raise()
	require.ErrorIs(t, <-done, ErrConflict)
	servers, _ := m.node.Servers()
	require.Len(t, servers, 4)
}

// follow has the puppet vote for the node and acknowledge all.
func (p *puppet) follow(t *testing.T) {
	t.Helper()
	var last uint64
	p.answer(t, func(rpc raft.RPC) {
		r, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if !ok {
			p.vote(rpc, 1)
			return
		}
		last = max(last, r.PrevLogEntry+uint64(len(r.Entries)))
		rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: p.header(), Term: r.Term, LastLog: last, Success: true}, nil)
	})
}

// TestVoteForAVoterNotHeardOf: the leader died right after it had given a vote, with that
// entry on the new voter's disk and not on ours. Only the new voter can lead, and needs
// our vote, though by our log it has none.
func TestVoteForAVoterNotHeardOf(t *testing.T) {
	fellow, lost, newcomer := newPuppet(t), newPuppet(t), newPuppet(t)
	m := amongPuppets(t, Options{}, vfs.NewMem(), fellow, lost)
	fellow.answer(t, func(rpc raft.RPC) { rpc.Respond(nil, raft.ErrTransportShutdown) })
	lost.answer(t, func(rpc raft.RPC) { rpc.Respond(nil, raft.ErrTransportShutdown) })
	to := targetAddress(serverID(m.dir), m.link.Addr())
	const term = 1000 // above that of all pre-votes that fail
	ask := func(lastIndex, lastTerm uint64) (pre, vote bool) {
		var p raft.RequestPreVoteResponse
		require.NoError(t, newcomer.inner.RequestPreVote("", to, &raft.RequestPreVoteRequest{RPCHeader: newcomer.header(), Term: term,
			LastLogIndex: lastIndex, LastLogTerm: lastTerm}, &p))
		var v raft.RequestVoteResponse
		require.NoError(t, newcomer.inner.RequestVote("", to, &raft.RequestVoteRequest{RPCHeader: newcomer.header(), Term: term,
			LastLogIndex: lastIndex, LastLogTerm: lastTerm}, &v))
		return p.Granted, v.Granted
	}
	pre, vote := ask(0, 0)
	require.False(t, pre || vote, "a log that lacks what ours has")
	pre, vote = ask(100, 2)
	require.True(t, pre, "pre-vote")
	require.True(t, vote, "vote")
}

// TestVoteWithoutAVote: a node that was given a vote, and has not heard of it when the
// leader dies, is needed for the majority that chooses the next one.
func TestVoteWithoutAVote(t *testing.T) {
	c := newTestNodes(t, 1, Options{})
	m := c.members[0]
	c.start(m, nil)
	p := newPuppet(t)
	to := targetAddress(serverID(m.dir), m.link.Addr())
	servers := raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: serverID(p.dir), Address: raft.ServerAddress(p.addr)},
		{Suffrage: raft.Nonvoter, ID: serverID(m.dir), Address: raft.ServerAddress(m.link.Addr())},
	}}
	var took raft.AppendEntriesResponse
	require.NoError(t, p.inner.AppendEntries("", to, &raft.AppendEntriesRequest{RPCHeader: p.header(), Term: 2,
		Entries: []*raft.Log{{Index: 1, Term: 2, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)}}}, &took))
	require.True(t, took.Success)
	known, _ := m.node.Servers()
	require.Len(t, known, 2)

	var pre raft.RequestPreVoteResponse
	require.NoError(t, p.inner.RequestPreVote("", to, &raft.RequestPreVoteRequest{RPCHeader: p.header(), Term: 3, LastLogIndex: 2, LastLogTerm: 2}, &pre))
	require.True(t, pre.Granted, "pre-vote")
	var vote raft.RequestVoteResponse
	require.NoError(t, p.inner.RequestVote("", to, &raft.RequestVoteRequest{RPCHeader: p.header(), Term: 3, LastLogIndex: 2, LastLogTerm: 2}, &vote))
	require.True(t, vote.Granted, "vote")
}
