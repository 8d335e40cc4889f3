package raftnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
)

// Server is a member of the Raft configuration.
type Server struct {
	DirectoryID uuid.UUID
	// Address is that of the cluster port, as it was when the server was added.
	Address string
	// Voter is false for one that only follows the log.
	Voter bool
}

// ServerState is how far a server is, as the leader knows from its heartbeats.
type ServerState struct {
	Server
	// LastIndex is the server's last log index, 0 if it was never heard of.
	LastIndex uint64
	// LastContact is when it answered last, CaughtUp a time at which it had all of
	// the leader's log; zero if never under this leader. By the leader's clock.
	LastContact, CaughtUp time.Time
}

// Quorum is what the leader knows of itself and the servers.
type Quorum struct {
	Leader uuid.UUID
	Term   uint64
	// LastIndex is the end of the leader's log, CommitIndex what of it is committed.
	LastIndex, CommitIndex uint64
	Servers                []ServerState
}

// ErrConflict says that the servers are not those that a change of them was decided
// at.
var ErrConflict = errors.New("metadata: the servers have changed meanwhile")

func serverID(dir uuid.UUID) raft.ServerID { return raft.ServerID(dir.String()) }

// parseServer is uuid.Nil for the empty id of nobody.
func parseServer(id raft.ServerID) uuid.UUID {
	u, err := uuid.Parse(string(id))
	if err != nil {
		return uuid.Nil
	}
	return u
}

func fromRaft(s raft.Server) Server {
	return Server{DirectoryID: parseServer(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter}
}

// Leader returns the directory that leads, as far as this node knows.
func (n *Node) Leader() (dir uuid.UUID, ok bool) {
	_, id := n.raft.LeaderWithID()
	dir = parseServer(id)
	return dir, dir != uuid.Nil
}

// Servers returns the newest configuration that this node has, which may not be
// committed yet, and its version: a number that no other configuration has, not 0.
func (n *Node) Servers() (servers []Server, version uint64) {
	// Raft answers this at once, from memory; it tells no index.
	config := n.raft.GetConfiguration().Configuration()
	hash := fnv.New64a()
	for _, s := range config.Servers {
		servers = append(servers, fromRaft(s))
		fmt.Fprintf(hash, "%s %s %s;", s.ID, s.Suffrage, s.Address)
	}
	return servers, max(hash.Sum64(), 1)
}

// change is a change of one server, as it travels to the leader.
type change struct {
	Op        string    `json:"op"`
	Directory uuid.UUID `json:"directory"`
	Address   string    `json:"address,omitempty"`
	// Prev is the version of the configuration that the change was decided at; 0 is
	// any.
	Prev uint64 `json:"prev,omitempty"`
}

// The operations of a change.
const (
	opVoter    = "voter"
	opNonvoter = "nonvoter"
	opDemote   = "demote"
	opRemove   = "remove"
)

// AddVoter makes a server a voter, or notes its new address. It returns when the
// change is committed. prev is the version of the configuration that it was decided
// at (Servers), 0 for any; the error is ErrConflict if there is another. Like the
// other changes it is forwarded to the leader, and waits for one as Propose does.
func (n *Node) AddVoter(ctx context.Context, dir uuid.UUID, addr string, prev uint64) error {
	return n.changeServers(ctx, change{opVoter, dir, addr, prev})
}

// AddNonvoter has a server follow the log, or notes its new address; a voter stays
// one.
func (n *Node) AddNonvoter(ctx context.Context, dir uuid.UUID, addr string, prev uint64) error {
	return n.changeServers(ctx, change{opNonvoter, dir, addr, prev})
}

// Demote takes a server's vote; it goes on to follow the log.
func (n *Node) Demote(ctx context.Context, dir uuid.UUID, prev uint64) error {
	return n.changeServers(ctx, change{Op: opDemote, Directory: dir, Prev: prev})
}

// Remove takes a server out. A leader that removes itself steps down.
func (n *Node) Remove(ctx context.Context, dir uuid.UUID, prev uint64) error {
	return n.changeServers(ctx, change{Op: opRemove, Directory: dir, Prev: prev})
}

// TransferLeadership hands this node's leadership to the voter that has most of the
// log, and returns when it has stepped down. It is no error if it does not lead; it is
// one if there is no other voter. No command is lost, whatever goes wrong.
func (n *Node) TransferLeadership(ctx context.Context) error {
	if err := n.enter(ctx); err != nil {
		return err
	}
	defer n.calls.running.Done()
	if !n.leads() {
		return nil
	}
	servers, _ := n.Servers()
	if !slices.ContainsFunc(servers, func(s Server) bool { return s.Voter && s.DirectoryID != n.opts.DirectoryID }) {
		return fmt.Errorf("%w: there is no other voter", errRefusedCall)
	}
	if err := n.await(ctx, n.raft.LeadershipTransfer()); err != nil && n.leads() {
		return fmt.Errorf("hand the metadata's leadership over: %w", err)
	}
	return nil
}

func (n *Node) changeServers(ctx context.Context, c change) error {
	body, err := json.Marshal(c)
	if err == nil {
		// A change may be repeated: it says what shall be.
		err = n.retry(ctx, c.Prev == 0, func(ctx context.Context) error {
			if n.leads() {
				return n.change(ctx, c)
			}
			_, err := n.callLeader(ctx, callServers, body)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("metadata servers: %s %s: %w", c.Op, c.Directory, err)
	}
	return nil
}

func (n *Node) serveServers(ctx context.Context, body []byte) ([]byte, error) {
	var c change
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", errRefusedCall, err)
	}
	return nil, n.change(ctx, c)
}

// change carries out a change where this node leads.
func (n *Node) change(ctx context.Context, c change) error {
	// One at a time, so that the configuration is still the one that was looked at.
	// One that the caller has given up counts until Raft has answered it.
	select {
	case n.changing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", metadata.ErrNotLeader, ctx.Err())
	}
	f, err := n.begin(ctx, c)
	if err != nil {
		<-n.changing
		return err
	}
	return n.await(ctx, changing{f, n.changing})
}

// begin hands a change to Raft. REQUIRES: the caller holds the token of changing.
func (n *Node) begin(ctx context.Context, c change) (raft.Future, error) {
	if _, version := n.Servers(); c.Prev != 0 && version != c.Prev {
		return nil, fmt.Errorf("%w: version %d, not %d", ErrConflict, version, c.Prev)
	}
	id, addr := serverID(c.Directory), raft.ServerAddress(c.Address)
	switch c.Op {
	case opVoter:
		return n.raft.AddVoter(id, addr, 0, left(ctx)), nil
	case opNonvoter:
		return n.raft.AddNonvoter(id, addr, 0, left(ctx)), nil
	case opDemote:
		return n.raft.DemoteVoter(id, 0, left(ctx)), nil
	case opRemove:
		return n.raft.RemoveServer(id, 0, left(ctx)), nil
	default:
		return nil, fmt.Errorf("%w: unknown change %q", errRefusedCall, c.Op)
	}
}

// changing is a change under way, which gives its token back when Raft answers.
type changing struct {
	raft.Future
	token chan struct{}
}

// Error implements raft.Future. It is called once.
func (c changing) Error() error {
	defer func() { <-c.token }()
	return c.Future.Error()
}

// PeerGone says that the process of a server has certainly ended. If it led, the
// first of the other voters does not wait until it notices: it makes itself a
// candidate. The others do, so that the votes are not split.
func (n *Node) PeerGone(dir uuid.UUID) {
	if leader, ok := n.Leader(); !ok || leader != dir || dir == n.opts.DirectoryID {
		return
	}
	servers, _ := n.Servers()
	first := uuid.Nil
	for _, s := range servers {
		if s.Voter && s.DirectoryID != dir && (first == uuid.Nil || bytes.Compare(s.DirectoryID[:], first[:]) < 0) {
			first = s.DirectoryID
		}
	}
	if first != n.opts.DirectoryID {
		return
	}
	if err := n.transport.elect(); err != nil {
		n.opts.Logger.Debug("metadata node: no election for a leader that is gone", "error", err)
	}
}

// Quorum asks the leader how far the servers are. It waits for a leader as Propose
// does.
func (n *Node) Quorum(ctx context.Context) (Quorum, error) {
	var q Quorum
	err := n.retry(ctx, true, func(ctx context.Context) error {
		if n.leads() {
			q = n.quorum()
			return nil
		}
		answer, err := n.callLeader(ctx, callQuorum, nil)
		if err != nil {
			return err
		}
		q = Quorum{}
		return json.Unmarshal(answer, &q)
	})
	if err != nil {
		return Quorum{}, fmt.Errorf("metadata quorum: %w", err)
	}
	return q, nil
}

func (n *Node) serveQuorum(context.Context, []byte) ([]byte, error) { return json.Marshal(n.quorum()) }

// quorum is the leader's view.
func (n *Node) quorum() Quorum {
	q := Quorum{Leader: n.opts.DirectoryID, Term: n.raft.CurrentTerm(), LastIndex: n.raft.LastIndex(), CommitIndex: n.raft.CommitIndex()}
	servers, _ := n.Servers()
	for _, s := range servers {
		state := ServerState{Server: s}
		if s.DirectoryID == n.opts.DirectoryID {
			now := time.Now()
			state.LastIndex, state.LastContact, state.CaughtUp = q.LastIndex, now, now
		} else {
			p := n.transport.progress(serverID(s.DirectoryID))
			state.LastIndex, state.LastContact, state.CaughtUp = p.lastIndex, p.contact, p.caughtUp
		}
		q.Servers = append(q.Servers, state)
	}
	return q
}

// HasState reports whether dir holds Raft state: entries, a vote or a snapshot. A
// node without it may begin a cluster, or join one. It must not be open.
func HasState(files vfs.FS, dir string) (has bool, err error) {
	logDir := files.PathJoin(dir, "raft")
	switch desc, err := pebble.Peek(logDir, files); {
	case errors.Is(err, fs.ErrNotExist), err == nil && !desc.Exists:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("raft log in %s: %w", dir, err)
	}
	names, err := files.List(files.PathJoin(dir, "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("snapshots in %s: %w", dir, err)
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, snapSuffix) }) {
		return true, nil
	}
	db, err := pebble.Open(logDir, &pebble.Options{FS: files, ReadOnly: true, FormatMajorVersion: pebble.FormatNewest, Logger: fsm.PebbleLog{Logger: slog.Default(), Dir: logDir}})
	if err != nil {
		return false, fmt.Errorf("raft log in %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	logs := &logStore{db: db}
	if logs.mu.first, logs.mu.last, err = logs.bounds(); err != nil {
		return false, err
	}
	return raft.HasExistingState(logs, logs, noSnapshots{})
}

// noSnapshots is a snapshot store without any.
type noSnapshots struct{ raft.SnapshotStore }

// List implements raft.SnapshotStore.
func (noSnapshots) List() ([]*raft.SnapshotMeta, error) { return nil, nil }

// checkBootstrap says what is wrong with the servers that begin a cluster.
func checkBootstrap(servers []Server, self uuid.UUID) error {
	for _, s := range servers {
		if s.DirectoryID == self && s.Voter {
			return nil
		}
	}
	return fmt.Errorf("%w: this node is no voter among the servers that begin the cluster", command.ErrInvalid)
}
