package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata/link"
)

const (
	// rpcTimeout bounds one RPC of Raft, and how long a heartbeat stays in a
	// connection that leads nowhere. Snapshots have this much per 256 KiB.
	rpcTimeout = 2 * time.Second
	// rpcPool is how many idle connections to each peer are kept: one for
	// heartbeats, one for entries and votes.
	rpcPool = 2
	// holdTime bounds how long entries for a peer that does not answer heartbeats
	// are held back.
	holdTime = time.Minute
)

// network is what Raft needs of what carries its RPCs.
type network interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// transport stands between Raft and the network. It
//
//   - finds a server's present address, and never speaks to another directory than
//     the one that is meant: a wiped node at an old address must not vote for, or
//     acknowledge in the place of, the voter that it was;
//   - hands RPCs to Raft that come from this node itself (elect);
//   - notes, from heartbeats, how far each follower is, and which took this node for
//     the leader;
//   - notes when leaders are heard (contact.go);
//   - holds entries back from a peer whose heartbeats fail, until they succeed.
//     Raft would try by itself, and wait longer with each failure: up to 10 s more
//     after the peer is back;
//   - sends one request with entries after the other's answer. Raft's pipeline stops
//     to read answers at the first refusal; if more entries come just then, it waits
//     for itself, for ever: the follower gets nothing any more, and the node does not
//     close. Each request takes all entries that came meanwhile, so little is lost;
//   - has votes asked for without the candidate's id, by which Raft refuses whom its own
//     log does not know as a voter (and pre-votes in a known voter's name): where the leader
//     died right after it gave a vote, whoever has that entry needs the votes of those who do
//     not (Raft, section 6: servers vote whatever their configuration; the log decides);
//   - lets no heartbeat change what Raft is behind the back of its main goroutine
//     (heartbeat);
//   - takes in whole snapshots, and no old ones (inbound.go).
//
// One goroutine passes RPCs on, in order; each snapshot has one while it arrives, and
// while Raft installs it.
type transport struct {
	network
	// resolve finds the address of a server, given the one that Raft has stored.
	resolve func(id raft.ServerID, stored raft.ServerAddress) raft.ServerAddress
	// streams is nil without a network.
	streams *streams
	rpcs    chan raft.RPC
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once
	// raft is what the transport needs of our own Raft.
	raft local
	// contacts is written as leaders are heard, and as this node leads.
	contacts contacts
	// inbounds are whole snapshots for run, answering the goroutines they have.
	inbounds  chan *inbound
	answering sync.WaitGroup

	mu struct {
		sync.Mutex
		stopped bool
		// woken is closed, and replaced, to let held entries go.
		woken chan struct{}
		peers map[raft.ServerID]*peer
	}
}

// local is our own Raft, for its transport.
type local struct {
	header raft.RPCHeader
	logs   *logStore
	// fs and dir are where snapshots are.
	fs  vfs.FS
	dir string
	// running is Raft, once it runs.
	running atomic.Pointer[raft.Raft]
}

// end is the last index of the log.
func (l *local) end() uint64 {
	if r := l.running.Load(); r != nil {
		return r.LastIndex()
	}
	return 0
}

// term is 0 for a node that never heard of any.
func (l *local) term() uint64 {
	if r := l.running.Load(); r != nil {
		return r.CurrentTerm()
	}
	return 0
}

func (l *local) committed() uint64 {
	if r := l.running.Load(); r != nil {
		return r.CommitIndex()
	}
	return 0
}

// voter is the id of some voter by our own log's newest configuration. A pre-vote is asked for
// in such a one's name: Raft insists on an id, of one that has a vote. Our own will not
// do: the leader may have died right after it gave the vote to us.
func (l *local) voter() []byte {
	if r := l.running.Load(); r != nil {
		for _, s := range r.GetConfiguration().Configuration().Servers {
			if s.Suffrage == raft.Voter {
				return []byte(s.ID)
			}
		}
	}
	return l.header.ID
}

// peer is what the leader knows of one server from its heartbeats.
type peer struct {
	down bool
	// lastIndex is the peer's last log index at contact; caughtUp is when the
	// heartbeat left that found all there that the leader had then.
	lastIndex         uint64
	contact, caughtUp time.Time
	// acked is when the last heartbeat left that the peer took for its leader's, in
	// ackTerm.
	acked   time.Time
	ackTerm uint64
}

// newTransport starts a transport. s is nil without a network.
func newTransport(inner network, s *streams, logs *logStore, snaps *snapStore, self uuid.UUID, resolve func(raft.ServerID, raft.ServerAddress) raft.ServerAddress) *transport {
	t := &transport{network: inner, streams: s, resolve: resolve, rpcs: make(chan raft.RPC), quit: make(chan struct{}), done: make(chan struct{}), inbounds: make(chan *inbound)}
	t.raft.header = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(serverID(self)), Addr: []byte(serverID(self))}
	t.raft.logs, t.raft.fs, t.raft.dir = logs, snaps.fs, snaps.dir
	t.contacts.record = NewContacts(time.Now())
	t.mu.woken = make(chan struct{})
	t.mu.peers = map[raft.ServerID]*peer{}
	go t.run()
	return t
}

// run passes the network's RPCs to Raft, in order, and snapshots once they are whole.
func (t *transport) run() {
	defer close(t.done)
	defer t.answering.Wait()
	for {
		select {
		case rpc := <-t.network.Consumer():
			t.noteInbound(rpc)
			switch req := rpc.Command.(type) {
			case *raft.InstallSnapshotRequest:
				t.answering.Go(func() { t.receive(rpc, req) })
				continue
			case *raft.RequestPreVoteRequest:
				req.ID = t.raft.voter()
			case *raft.RequestVoteRequest:
				req.ID = nil
			}
			select {
			case t.rpcs <- rpc:
			case <-t.quit:
				return
			}
		case in := <-t.inbounds:
			t.install(in)
		case <-t.quit:
			return
		}
	}
}

// Consumer implements raft.Transport.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// elect makes this node a candidate at once: the RPC by which a leader hands over,
// from the node to itself.
func (t *transport) elect() error { return t.ask(&raft.TimeoutNowRequest{RPCHeader: t.raft.header}) }

// ask makes a request of our own Raft, and waits for the answer.
func (t *transport) ask(request any) error {
	answer := make(chan raft.RPCResponse, 1)
	select {
	case t.rpcs <- raft.RPC{Command: request, RespChan: answer}:
	case <-t.quit:
		return raft.ErrTransportShutdown
	}
	select {
	case r := <-answer:
		return r.Error
	case <-t.quit:
		return raft.ErrTransportShutdown
	}
}

// isHeartbeat tells heartbeats from other AppendEntries, as Raft's transport does.
func isHeartbeat(r *raft.AppendEntriesRequest) bool {
	return r.PrevLogEntry == 0 && r.PrevLogTerm == 0 && len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if !isHeartbeat(args) {
		t.hold(id)
		err := t.network.AppendEntries(id, t.resolve(id, target), args, resp)
		t.contacts.note(args.Term) // before Raft counts the answer, and may commit by it
		return err
	}
	sent, end := time.Now(), t.raft.end()
	t.contacts.note(args.Term) // no earlier than sent, for Verify
	err := t.network.AppendEntries(id, t.resolve(id, target), args, resp)
	t.heard(id, sent, end, args.Term, resp, err)
	return err
}

// heard notes what became of a heartbeat of a term that was sent when our log ended
// at end.
func (t *transport) heard(id raft.ServerID, sent time.Time, end, term uint64, resp *raft.AppendEntriesResponse, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peerLocked(id)
	if err != nil {
		p.down = true
		return
	}
	p.lastIndex, p.contact = resp.LastLog, time.Now()
	if resp.LastLog >= end {
		p.caughtUp = sent
	}
	if resp.Success {
		p.acked, p.ackTerm = sent, term
	}
	if p.down {
		p.down = false
		t.wakeLocked()
	}
}

func (t *transport) peerLocked(id raft.ServerID) *peer {
	p := t.mu.peers[id]
	if p == nil {
		p = &peer{}
		t.mu.peers[id] = p
	}
	return p
}

// progress is what the heartbeats told of a server since this node leads.
func (t *transport) progress(id raft.ServerID) peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.mu.peers[id]; p != nil {
		return *p
	}
	return peer{}
}

// hold waits while a peer does not answer heartbeats.
func (t *transport) hold(id raft.ServerID) {
	t.mu.Lock()
	p, woken := t.mu.peers[id], t.mu.woken
	wait := p != nil && p.down && !t.mu.stopped
	t.mu.Unlock()
	if !wait {
		return
	}
	timer := time.NewTimer(holdTime)
	defer timer.Stop()
	select {
	case <-woken:
	case <-timer.C:
	}
}

// reset forgets what heartbeats told, and lets held entries go: the leadership
// changed.
func (t *transport) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.mu.peers)
	t.wakeLocked()
}

func (t *transport) wakeLocked() {
	close(t.mu.woken)
	t.mu.woken = make(chan struct{})
}

// AppendEntriesPipeline implements raft.Transport: there is none.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// SetHeartbeatHandler implements raft.Transport. Raft's own handler would be called
// beside its main goroutine, and takes a higher term there, or makes a candidate a
// follower. A candidate that wins at the same moment then leads in a term that is
// another's, and terms can go back. So it is not used: see heartbeat.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {
	t.network.SetHeartbeatHandler(t.heartbeat)
}

// heartbeat takes a heartbeat of another node. One that tells nothing new, of the
// leader that is followed, is answered at once, so that the leader hears of this node
// though its disk is slow; Raft is told of it unless it is busy, with what mostly
// comes from the leader. Any other one waits for Raft.
func (t *transport) heartbeat(rpc raft.RPC) {
	t.noteInbound(rpc)
	req := rpc.Command.(*raft.AppendEntriesRequest)
	if r := t.raft.running.Load(); r != nil && r.CurrentTerm() == req.Term {
		if _, leader := r.LeaderWithID(); leader == raft.ServerID(req.ID) {
			rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: t.raft.header, Term: req.Term, LastLog: r.LastIndex(), Success: true}, nil)
			select {
			case t.rpcs <- raft.RPC{Command: req, RespChan: make(chan raft.RPCResponse, 1)}:
			default:
			}
			return
		}
	}
	select {
	case t.rpcs <- rpc:
	case <-t.quit:
		rpc.Respond(nil, raft.ErrTransportShutdown)
	}
}

// EncodePeer implements raft.Transport: what Raft calls a node by, in its requests and
// in the vote that it remembers, is its directory. By addresses, two candidates that
// were given the same one could have one vote both.
func (t *transport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.network.RequestVote(id, t.resolve(id, target), args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.network.RequestPreVote(id, t.resolve(id, target), args, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.network.InstallSnapshot(id, t.resolve(id, target), args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.network.TimeoutNow(id, t.resolve(id, target), args, resp)
}

// stop ends every RPC under way and to come, so that Raft, which waits for them,
// can shut down.
func (t *transport) stop() {
	t.mu.Lock()
	t.mu.stopped = true
	t.wakeLocked()
	t.mu.Unlock()
	if t.streams != nil {
		t.streams.hangUp()
	}
}

// Close implements raft.WithClose. Raft calls it when it is shut down.
func (t *transport) Close() error {
	var err error
	t.once.Do(func() {
		t.stop()
		err = t.network.Close()
		close(t.quit)
		<-t.done
	})
	return err
}

// streams carries Raft over a link (raft.StreamLayer). Addresses given to Dial are
// those of targetAddress.
type streams struct {
	link  *link.Link
	conns chan net.Conn
	quit  chan struct{}

	mu struct {
		sync.Mutex
		closed bool
		open   map[*raftConn]struct{}
	}
	// dialling bounds dials to the time until hangUp.
	ctx    context.Context
	cancel context.CancelFunc
}

var _ raft.StreamLayer = (*streams)(nil)

func newStreams(l *link.Link) *streams {
	s := &streams{link: l, conns: make(chan net.Conn), quit: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.open = map[*raftConn]struct{}{}
	l.HandleStream(link.KindRaft, s.serve)
	return s
}

// targetAddress names a server by directory and address, for Dial to check.
func targetAddress(id raft.ServerID, addr string) raft.ServerAddress {
	return raft.ServerAddress(string(id) + "@" + addr)
}

// raftConn is a stream of Raft; closed when it is.
type raftConn struct {
	net.Conn
	streams *streams
	closed  chan struct{}
	once    sync.Once
}

// Close implements net.Conn.
func (c *raftConn) Close() error {
	c.once.Do(func() {
		c.streams.mu.Lock()
		delete(c.streams.mu.open, c)
		c.streams.mu.Unlock()
		close(c.closed)
	})
	return c.Conn.Close()
}

// add notes an open stream; it is closed at once after hangUp.
func (s *streams) add(conn net.Conn) (*raftConn, error) {
	c := &raftConn{Conn: conn, streams: s, closed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		conn.Close()
		return nil, raft.ErrTransportShutdown
	}
	s.mu.open[c] = struct{}{}
	return c, nil
}

// serve takes an accepted stream from the link, until it is closed.
func (s *streams) serve(conn net.Conn, _ link.Peer) {
	c, err := s.add(conn)
	if err != nil {
		return // at shutdown
	}
	select {
	case s.conns <- c:
		<-c.closed
	case <-s.quit:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.quit:
		return nil, raft.ErrTransportShutdown
	}
}

// Dial implements raft.StreamLayer.
func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	want, addr, ok := strings.Cut(string(address), "@")
	directory, err := uuid.Parse(want)
	if !ok || err != nil {
		return nil, fmt.Errorf("raft address %q is not of a directory", address)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, p, err := s.link.Dial(ctx, addr, link.KindRaft)
	if err != nil {
		return nil, err
	}
	if p.DirectoryID != directory {
		conn.Close()
		return nil, fmt.Errorf("%w: %s is of directory %s, not of %s", errOtherServer, addr, p.DirectoryID, directory)
	}
	return s.add(conn)
}

// errOtherServer says that another server answers at an address.
var errOtherServer = errors.New("another server")

// hangUp closes all streams, and refuses new ones.
func (s *streams) hangUp() {
	s.cancel()
	s.mu.Lock()
	s.mu.closed = true
	var open []*raftConn
	for c := range s.mu.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close() // a broken stream is as good as a closed one
	}
}

// Close implements net.Listener.
func (s *streams) Close() error {
	s.hangUp()
	close(s.quit)
	return nil
}

// Addr implements net.Listener.
func (s *streams) Addr() net.Addr { return linkAddr(s.link.Addr()) }

// linkAddr is the address of a link.
type linkAddr string

// Network implements net.Addr.
func (linkAddr) Network() string { return "tcp" }

// String implements net.Addr.
func (a linkAddr) String() string { return string(a) }
