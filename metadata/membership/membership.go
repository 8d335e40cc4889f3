// Package membership owns who is in the cluster, as far as gossip can tell, and
// how a cluster begins.
//
// Gossip ([Membership]) is hashicorp/serf: it finds peers from one address, carries
// their tags, and hints at failure within one to two seconds. It never decides:
// leases, Raft and the state machine do. A member's name is its directory id.
//
// [Formation] is the pure machine that turns some first nodes into one cluster and
// lets every later one join it; [Former] carries it out over calls between
// brokers. [PlanVoters] is the pure planner of Raft's voters; [KeepVoters] is the
// metadata leader's task that carries it out.
//
// Goroutines of a Membership: Serf's own; one that keeps the table of members and
// calls the subscribers in order; one that joins until there is somebody, and goes
// on now and then; one that asks suspected doubles whether they live. Close stops
// them. No lock is held while a subscriber runs.
//
// Lock order: memberlist's lock before Membership.mu, never the other way.
package membership

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Options configure a Membership.
type Options struct {
	// DirectoryID is the member's name. Required.
	DirectoryID uuid.UUID
	// Listen is HOST:PORT for UDP and TCP; port 0 lets the system choose. Advertise
	// is what others gossip to; empty is the bound address, or a private address of
	// this machine where that is every address. Hosts are resolved at Open.
	Listen, Advertise string
	// Key encrypts gossip: 16, 24 or 32 bytes, or none.
	Key []byte
	// Join are HOST:PORT of peers. They are tried in the background until one
	// answers, and now and then after that.
	Join []string
	// PeersFile remembers where members gossip, so that a restart needs no Join.
	// Empty: nothing is remembered. It is written only once Remember was called. FS
	// nil is the operating system's.
	FS        vfs.FS
	PeersFile string
	// Tags are what this node says of itself at first.
	Tags   Tags
	Logger *slog.Logger

	// JoinRetry and JoinAgain are the pauses of the joining goroutine: after a
	// failed round (doubling, up to ten times that), and while there are members.
	// Defaults 500 ms and 30 s.
	JoinRetry, JoinAgain time.Duration
}

// Membership is this node's part in gossip. Safe for concurrent use.
type Membership struct {
	opts Options
	log  *slog.Logger
	serf *serf.Serf

	events   chan serf.Event
	troubles chan Event
	suspects chan suspicion
	tried    chan struct{} // closed once every address was tried
	cancel   context.CancelFunc
	running  sync.WaitGroup
	stopped  chan struct{}

	mu       sync.Mutex // guards the below; nothing is called under it
	self     Member
	others   map[uuid.UUID]Member
	problems map[problemKey]*noted
	open     int       // suspicions not decided yet
	reached  bool      // an address to join answered
	contest  time.Time // when somebody had this node at another address last
	keepers  bool      // Remember was called

	suspected map[problemKey]time.Time // when a suspicion was queued last
	saved     []string
	subs      map[int]func(Event)
	nextSub   int

	tagging sync.Mutex // one change of tags at a time; held over Serf's call
	saving  sync.Mutex // one writer of the peers' file at a time
	close   sync.Once
	closed  error
}

// Open binds the port and begins to gossip. It does not wait for anybody.
func Open(o Options) (*Membership, error) {
	if o.DirectoryID == uuid.Nil {
		return nil, errors.New("membership: no directory id")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.JoinRetry <= 0 {
		o.JoinRetry = 500 * time.Millisecond
	}
	if o.JoinAgain <= 0 {
		o.JoinAgain = 30 * time.Second
	}
	var life [8]byte
	if _, err := rand.Read(life[:]); err != nil {
		return nil, err
	}
	o.Tags.Incarnation = hex.EncodeToString(life[:])
	peers, err := readPeers(o.FS, o.PeersFile)
	if err != nil {
		o.Logger.Warn("gossip: the peers of last time are not known; cluster.join finds them", "err", err)
		peers = nil
	}
	m := &Membership{
		opts: o, log: o.Logger, events: make(chan serf.Event, 256), troubles: make(chan Event, 16), suspects: make(chan suspicion, 16),
		tried: make(chan struct{}), stopped: make(chan struct{}), self: Member{Tags: o.Tags, DirectoryID: o.DirectoryID},
		others: map[uuid.UUID]Member{}, subs: map[int]func(Event){}, saved: peers,
	}
	config, err := m.serfConfig()
	if err != nil {
		return nil, err
	}
	if m.serf, err = serf.Create(config); err != nil {
		return nil, fmt.Errorf("membership: gossip at %s: %w", o.Listen, plainer(err))
	}
	local := m.serf.LocalMember()
	addr, _ := netip.AddrFromSlice(local.Addr)
	m.mu.Lock()
	m.self.GossipAddr = netip.AddrPortFrom(addr.Unmap(), local.Port)
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.running.Go(func() { m.follow() })
	m.running.Go(func() { m.join(ctx, peers) })
	m.running.Go(func() { m.interrogate(ctx) })
	return m, nil
}

// plainer says what to do about the one failure that happens on hosts with public
// addresses alone.
func plainer(err error) error {
	if strings.Contains(err.Error(), "no private IP address found") {
		return fmt.Errorf("%w: set gossip.advertised to the address that the other brokers reach this machine by", err)
	}
	return err
}

// Failure detection: a dead peer is noticed within a probe of each member and is
// failed a suspicion later, which for a few members is one to two seconds.
const (
	probeInterval  = 250 * time.Millisecond
	probeTimeout   = 150 * time.Millisecond
	suspicionMult  = 3 // × probeInterval, by log10 of the members above ten
	suspicionMost  = 2 // × that, while nobody confirms
	gossipInterval = 100 * time.Millisecond
	pushPull       = 5 * time.Second
	streamTimeout  = 3 * time.Second
	reconnectEvery = 2 * time.Second
	// forget is when a failed or left member is gone for good.
	forget = 24 * time.Hour
	// reclaimAddress lets a member that is known to be dead come back elsewhere.
	reclaimAddress = time.Millisecond
)

func (m *Membership) serfConfig() (*serf.Config, error) {
	o := &m.opts
	tags, err := o.Tags.encode()
	if err != nil {
		return nil, err
	}
	host, port, err := resolve(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("membership: gossip.listen %s: %w", o.Listen, err)
	}
	ml := memberlist.DefaultLANConfig()
	ml.BindAddr, ml.BindPort, ml.AdvertisePort = host.String(), int(port), int(port)
	if host.Is6() && host.IsUnspecified() && o.Advertise == "" {
		return nil, fmt.Errorf("membership: gossip.listen %s is every address: set gossip.advertised to the one that the other brokers reach", o.Listen)
	}
	if o.Advertise != "" {
		host, port, err = resolve(o.Advertise)
		if err != nil {
			return nil, fmt.Errorf("membership: gossip.advertised %s: %w", o.Advertise, err)
		}
		ml.AdvertiseAddr, ml.AdvertisePort = host.String(), int(port)
	}
	ml.ProbeInterval, ml.ProbeTimeout = probeInterval, probeTimeout
	ml.SuspicionMult, ml.SuspicionMaxTimeoutMult, ml.AwarenessMaxMultiplier = suspicionMult, suspicionMost, 2
	ml.GossipInterval, ml.PushPullInterval, ml.TCPTimeout = gossipInterval, pushPull, streamTimeout
	ml.DeadNodeReclaimTime = reclaimAddress
	ml.EnableCompression = false
	ml.SecretKey = o.Key
	logger := newLines(m.log, m.undecryptable)
	ml.Logger, ml.LogOutput = logger, nil

	c := serf.DefaultConfig()
	c.NodeName, c.Tags, c.MemberlistConfig = o.DirectoryID.String(), tags, ml
	c.EventCh, c.Merge = m.events, guard{m}
	c.Logger, c.LogOutput = logger, nil
	c.DisableCoordinates, c.EnableNameConflictResolution = true, false
	c.ReconnectInterval, c.ReconnectTimeout, c.TombstoneTimeout = reconnectEvery, forget, forget
	c.BroadcastTimeout, c.LeavePropagateDelay = 2*time.Second, 500*time.Millisecond
	return c, nil
}

// resolve turns HOST:PORT into an address; an empty host is every IPv4 address.
func resolve(text string) (netip.Addr, uint16, error) {
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("port %q", portText)
	}
	if host == "" {
		return netip.IPv4Unspecified(), uint16(port), nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap(), uint16(port), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	addr := found[0].Unmap()
	for _, other := range found {
		if other.Unmap().Is4() { // what most networks of brokers speak
			addr = other.Unmap()
			break
		}
	}
	return addr, uint16(port), nil
}

func (m *Membership) own() Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self
}

// Self is this node as it shows itself to others.
func (m *Membership) Self() Member { return m.own() }

// Addr is HOST:PORT that others gossip to.
func (m *Membership) Addr() string { return m.own().GossipAddr.String() }

// Members are all that gossip knows, this node first, then by directory id.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Member, 1, len(m.others)+1)
	all[0] = m.self
	for _, other := range m.others {
		all = append(all, other)
	}
	slices.SortFunc(all[1:], func(a, b Member) int { return strings.Compare(a.DirectoryID.String(), b.DirectoryID.String()) })
	return all
}

// Member finds one by its directory.
func (m *Membership) Member(dir uuid.UUID) (Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if dir == m.self.DirectoryID {
		return m.self, true
	}
	other, ok := m.others[dir]
	return other, ok
}

// Subscribe calls fn with each event from now on, in order, on one goroutine for
// all subscribers: fn must not block. After cancel returns no new call begins. What
// happened before is in Members and Problems.
func (m *Membership) Subscribe(fn func(Event)) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextSub
	m.nextSub++
	m.subs[id] = fn
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.subs, id)
	}
}

// SetTags changes what this node says of itself, and gossips it. It waits for the
// first telling, up to two seconds, and must not be called by a subscriber.
func (m *Membership) SetTags(change func(*Tags)) error {
	m.tagging.Lock()
	defer m.tagging.Unlock()
	m.mu.Lock()
	tags := m.self.Tags
	m.mu.Unlock()
	was := tags
	change(&tags)
	tags.Incarnation = was.Incarnation
	if tags == was {
		return nil
	}
	encoded, err := tags.encode()
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.self.Tags = tags
	m.mu.Unlock()
	if err := m.serf.SetTags(encoded); err != nil {
		// They are set; it is the first telling of them that timed out.
		m.log.Debug("gossip: tags are told late", "err", err)
	}
	m.emit(Event{Kind: MemberUpdated, Member: m.own()})
	return nil
}

// emit hands an event to the subscribers' goroutine, or drops it at the end.
func (m *Membership) emit(e Event) {
	select {
	case m.troubles <- e:
	case <-m.stopped:
	}
}

// Problems are the troubles that last: each wraps one of the package's sentinels.
// Those that others' gossip brings are not among them: that its sender is wrong is
// as likely.
func (m *Membership) Problems() []error {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(m.problems), func(a, b problemKey) int { return strings.Compare(a.peer, b.peer) })
	var all []error
	for _, key := range keys {
		if strings.HasPrefix(key.peer, inbound) {
			continue
		}
		all = append(all, m.problems[key].problem)
	}
	return all
}

// follow keeps the table and calls subscribers until the channels end.
func (m *Membership) follow() {
	for {
		select {
		case raw := <-m.events:
			if e, ok := raw.(serf.MemberEvent); ok {
				m.apply(&e)
			}
		case e := <-m.troubles:
			m.tell(e)
		case <-m.stopped:
			return
		}
	}
}

// kinds are Serf's events as ours, and what they make of a member.
var kinds = map[serf.EventType]struct {
	kind   EventKind
	status Status
}{
	serf.EventMemberJoin:   {MemberJoined, Alive},
	serf.EventMemberUpdate: {MemberUpdated, Alive},
	serf.EventMemberFailed: {MemberFailed, Failed},
	serf.EventMemberLeave:  {MemberLeft, Left},
	serf.EventMemberReap:   {MemberGone, Left},
}

func (m *Membership) apply(e *serf.MemberEvent) {
	known, ok := kinds[e.Type]
	if !ok {
		return
	}
	for i := range e.Members {
		member, err := fromSerf(&e.Members[i])
		if err != nil {
			m.log.Warn("gossip: a member is left out", "err", err)
			continue
		}
		if member.DirectoryID == m.opts.DirectoryID {
			continue
		}
		member.Status = known.status
		m.mu.Lock()
		if was, ok := m.others[member.DirectoryID]; ok && was.Status == member.Status {
			member.Since = was.Since
		} else {
			member.Since = time.Now()
		}
		if known.kind == MemberGone {
			delete(m.others, member.DirectoryID)
		} else {
			m.others[member.DirectoryID] = member
		}
		if member.Status != Alive {
			delete(m.problems, problemKey{ErrDuplicateNode, member.GossipAddr.String()})
		}
		m.mu.Unlock()
		if known.kind != MemberUpdated {
			m.log.Info("gossip: "+known.kind.String(), "node", member.NodeID, "addr", member.GossipAddr, "directory", member.DirectoryID)
		}
		m.tell(Event{Kind: known.kind, Member: member})
	}
	m.remember()
}

func (m *Membership) tell(e Event) {
	m.mu.Lock()
	ids := slices.Sorted(maps.Keys(m.subs))
	m.mu.Unlock()
	for _, id := range ids {
		m.mu.Lock()
		fn := m.subs[id]
		m.mu.Unlock()
		if fn != nil {
			fn(e)
		}
	}
}

// Close stops gossiping without a word: others see a failure.
func (m *Membership) Close() error {
	m.close.Do(func() {
		m.cancel()
		if err := m.serf.Shutdown(); err != nil {
			m.closed = fmt.Errorf("membership: close: %w", err)
		}
		close(m.stopped)
		m.running.Wait()
	})
	return m.closed
}
