package membership

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/serf/serf"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/internal/testlog"
)

// node is a membership under test with all that it told.
type node struct {
	*Membership
	events chan Event
	logged *testlog.Buffer
}

func open(t *testing.T, id int32, change func(*Options)) *node {
	t.Helper()
	n := &node{events: make(chan Event, 1000), logged: &testlog.Buffer{}}
	o := Options{
		DirectoryID: uuid.New(), Listen: "127.0.0.1:0", JoinRetry: 20 * time.Millisecond, JoinAgain: time.Second,
		Tags:   Tags{NodeID: id, Expect: 3, ClusterAddr: "127.0.0.1:1", State: Forming},
		Logger: slog.New(slog.NewTextHandler(n.logged, nil)),
	}
	if change != nil {
		change(&o)
	}
	m, err := Open(o)
	require.NoError(t, err)
	n.Membership = m
	m.Subscribe(func(e Event) { n.events <- e })
	n.catchUp()
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return n
}

// catchUp makes events of what happened before anybody listened.
func (n *node) catchUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.others {
		if other.Status == Alive {
			n.events <- Event{Kind: MemberJoined, Member: other}
		}
	}
	for _, p := range n.problems {
		n.events <- Event{Kind: Trouble, Err: p.problem}
	}
}

func join(addrs ...string) func(*Options) { return func(o *Options) { o.Join = addrs } }

// await returns the first event that fits, of those not looked at yet.
func (n *node) await(t *testing.T, what string, fits func(Event) bool) Event {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case e := <-n.events:
			if fits(e) {
				return e
			}
		case <-limit:
			t.Fatalf("no event: %s; log:\n%s", what, n.logged)
		}
	}
}

func kindOf(kind EventKind, id int32) func(Event) bool {
	return func(e Event) bool { return e.Kind == kind && e.Member.NodeID == id }
}

func troubleOf(kind error) func(Event) bool {
	return func(e Event) bool { return e.Kind == Trouble && errors.Is(e.Err, kind) }
}

func TestMembersFindEachOther(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	keyed := func(addrs ...string) func(*Options) {
		return func(o *Options) { o.Key, o.Join = key, addrs }
	}
	one := open(t, 1, keyed())
	two := open(t, 2, keyed(one.Addr()))
	three := open(t, 3, keyed(two.Addr()))
	for _, n := range []*node{one, two, three} {
		n.await(t, "two others", func(Event) bool { return len(n.Members()) == 3 })
	}
	require.NoError(t, one.SetTags(func(tags *Tags) { tags.ClusterID, tags.State = "cluster", Formed }))
	e := three.await(t, "tags", func(e Event) bool { return e.Kind == MemberUpdated && e.Member.NodeID == 1 && e.Member.State == Formed })
	require.Equal(t, one.Self().Tags, e.Member.Tags)
	require.Equal(t, one.Addr(), e.Member.GossipAddr.String())

	// A leave is told apart from a failure.
	require.NoError(t, three.serf.Leave())
	one.await(t, "left", kindOf(MemberLeft, 3))
	began := time.Now()
	require.NoError(t, two.Close())
	one.await(t, "failed", kindOf(MemberFailed, 2))
	t.Logf("a dead peer was noticed after %s", time.Since(began))
	require.Less(t, time.Since(began), 5*time.Second)
}

// A member has a status since it got it, whatever is told of it meanwhile.
func TestSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Membership{log: slog.New(slog.DiscardHandler), others: map[uuid.UUID]Member{}, problems: map[problemKey]*noted{}}
		dir := uuid.UUID{1}
		began := time.Now()
		tell := func(kind serf.EventType, state State) time.Duration {
			time.Sleep(time.Second)
			tags, err := (&Tags{NodeID: 1, Expect: 1, State: state}).encode()
			require.NoError(t, err)
			m.apply(&serf.MemberEvent{Type: kind, Members: []serf.Member{{Name: dir.String(), Addr: net.IPv4(127, 0, 0, 1), Tags: tags}}})
			who, ok := m.Member(dir)
			require.True(t, ok)
			return who.Since.Sub(began)
		}
		require.Equal(t, 1*time.Second, tell(serf.EventMemberJoin, Checking))
		require.Equal(t, 1*time.Second, tell(serf.EventMemberUpdate, Formed))
		require.Equal(t, 3*time.Second, tell(serf.EventMemberFailed, Formed))
		require.Equal(t, 4*time.Second, tell(serf.EventMemberJoin, Formed))
		require.Equal(t, 5*time.Second, tell(serf.EventMemberFailed, Formed))
		require.Equal(t, 6*time.Second, tell(serf.EventMemberLeave, Formed))
	})
}

// A start does not wait for its peers, and a peer that comes later is found.
func TestPeerThatIsDownAtStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	one := open(t, 1, join(addr, "no-such-host.invalid:1"))
	select {
	case <-one.Tried():
	case <-time.After(10 * time.Second):
		t.Fatal("never done with trying")
	}
	require.Len(t, one.Members(), 1)
	require.Empty(t, one.Problems())
	open(t, 2, func(o *Options) { o.Listen = addr })
	one.await(t, "joined", kindOf(MemberJoined, 2))
}

func TestRestartWithoutJoin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster", "peers.json")
	one := open(t, 1, nil)
	keep := func(addrs ...string) func(*Options) {
		return func(o *Options) { o.PeersFile, o.Join = path, addrs }
	}
	two := open(t, 2, keep(one.Addr()))
	two.await(t, "joined", kindOf(MemberJoined, 1))
	_, err := os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist, "nothing is written before the node knows that it belongs here")
	two.Remember()
	require.NoError(t, two.Close())
	one.await(t, "failed", kindOf(MemberFailed, 2))
	again := open(t, 2, keep())
	again.await(t, "joined", kindOf(MemberJoined, 1))

	// What power loss left of the file keeps nobody from starting.
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	torn := open(t, 3, func(o *Options) { o.PeersFile, o.Join = path, []string{one.Addr()} })
	torn.await(t, "joined", kindOf(MemberJoined, 1))
}

func TestWrongKey(t *testing.T) {
	key := func(fill byte, addrs ...string) func(*Options) {
		return func(o *Options) {
			o.Join = addrs
			if fill != 0 {
				o.Key = bytes.Repeat([]byte{fill}, 16)
			}
		}
	}
	for name, tc := range map[string]struct {
		fill, theirs byte
		want         string
	}{
		"another":  {2, 1, "is encrypted by another key: copy gossip.key from a broker of the cluster"},
		"none":     {0, 1, "encrypts its gossip and this node does not: set gossip.key"},
		"too many": {2, 0, "this node has a gossip.key and"},
	} {
		t.Run(name, func(t *testing.T) {
			to := open(t, 1, key(tc.theirs))
			n := open(t, 3, key(tc.fill, to.Addr()))
			e := n.await(t, "trouble", troubleOf(ErrWrongKey))
			require.ErrorIs(t, e.Err, ErrWrongKey)
			require.ErrorContains(t, e.Err, tc.want)
			<-n.Tried()
			require.NotEmpty(t, n.Problems())
			require.Len(t, n.Members(), 1)
			require.Len(t, to.Members(), 1)
			to.await(t, "the other side's trouble", troubleOf(ErrWrongKey))
		})
	}
}

func TestOtherClustersStayOut(t *testing.T) {
	of := func(cluster string, addrs ...string) func(*Options) {
		return func(o *Options) { o.Tags.ClusterID, o.Join = cluster, addrs }
	}
	a := open(t, 1, of("aaaa"))
	b := open(t, 2, of("bbbb", a.Addr()))
	e := b.await(t, "trouble", troubleOf(ErrForeignCluster))
	require.ErrorContains(t, e.Err, "belongs to cluster aaaa, and this node to bbbb: correct cluster.join or cluster.id")
	a.await(t, "trouble", troubleOf(ErrForeignCluster))
	require.Len(t, a.Members(), 1)
	require.Len(t, b.Members(), 1)

	wants := open(t, 3, func(o *Options) { o.Tags.WantedCluster, o.Join = "cccc", []string{a.Addr()} })
	wants.await(t, "trouble", troubleOf(ErrForeignCluster))
	fresh := open(t, 4, join(a.Addr()))
	fresh.await(t, "joined", kindOf(MemberJoined, 1))
}

func TestDoubles(t *testing.T) {
	one := open(t, 1, nil)
	two := open(t, 2, join(one.Addr()))
	two.await(t, "joined", kindOf(MemberJoined, 1))

	same := open(t, 2, join(one.Addr()))
	e := same.await(t, "trouble", troubleOf(ErrDuplicateNode))
	require.ErrorIs(t, e.Err, ErrDuplicateNode)
	require.ErrorContains(t, e.Err, "has node.id 2 too: give this node an id of its own")
	two.await(t, "trouble at the first", troubleOf(ErrDuplicateNode))

	copied := open(t, 2, func(o *Options) { o.DirectoryID, o.Join = two.Self().DirectoryID, []string{one.Addr()} })
	e = copied.await(t, "trouble", troubleOf(ErrDuplicateDirectory))
	require.ErrorContains(t, e.Err, "runs on a copy of this data directory")
	two.await(t, "trouble at the original", troubleOf(ErrDuplicateDirectory))
}

// A node that comes back at another address, or wiped, is not its own double.
func TestPastLifeIsNoDouble(t *testing.T) {
	one := open(t, 1, nil)
	two := open(t, 2, join(one.Addr()))
	one.await(t, "joined", kindOf(MemberJoined, 2))
	dir := two.Self().DirectoryID
	require.NoError(t, two.Close())
	moved := open(t, 2, func(o *Options) { o.DirectoryID, o.Join = dir, []string{one.Addr()} })
	one.await(t, "joined again", func(e Event) bool {
		return e.Kind == MemberJoined && e.Member.GossipAddr.String() == moved.Addr()
	})
	require.NoError(t, moved.Close())
	wiped := open(t, 2, join(one.Addr()))
	wiped.await(t, "the past life fails", func(e Event) bool { return e.Kind == MemberFailed && e.Member.DirectoryID == dir })
	require.Empty(t, moved.Problems())
	require.Empty(t, wiped.Problems())
	require.Empty(t, one.Problems())
}

func TestTags(t *testing.T) {
	full := Tags{NodeID: 7, ClusterAddr: "h:1", ClusterID: "c", WantedCluster: "w", Rack: "r", Version: "v", Expect: 3, State: Formed, Incarnation: "i"}
	encoded, err := full.encode()
	require.NoError(t, err)
	again, err := decodeTags(encoded)
	require.NoError(t, err)
	require.Equal(t, full, again)
	for name, bad := range map[string]string{tagNode: "x", tagExpect: "0", tagState: "-1"} {
		encoded, err := full.encode()
		require.NoError(t, err)
		encoded[name] = bad
		_, err = decodeTags(encoded)
		require.ErrorIs(t, err, errTags, name)
	}
	full.Rack = strings.Repeat("r", 450)
	_, err = full.encode()
	require.ErrorContains(t, err, "shorten broker.rack (450)")
	_, err = Open(Options{DirectoryID: uuid.New(), Listen: "127.0.0.1:0", Tags: full})
	require.ErrorContains(t, err, "shorten broker.rack")
}

func TestAddressesThatCannotBe(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1":         "missing port",
		"127.0.0.1:x":       `port "x"`,
		"no-host.invalid:1": "no-host.invalid",
		"[::]:0":            "set gossip.advertised",
	} {
		_, err := Open(Options{DirectoryID: uuid.New(), Listen: listen, Tags: Tags{Expect: 1}})
		require.ErrorContains(t, err, want)
	}
	one := open(t, 1, nil)
	_, err := Open(Options{DirectoryID: uuid.New(), Listen: one.Addr(), Tags: Tags{Expect: 1}})
	require.ErrorContains(t, err, "address already in use")
}

// Lines of the libraries are told at levels that fit a broker's log.
func TestLevelsOfLines(t *testing.T) {
	out := &testlog.Buffer{}
	var from []string
	l := newLines(slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})), func(f string) { from = append(from, f) })
	l.Print("[ERR] memberlist: Push/Pull with x failed: y")
	l.Print("[WARN] memberlist: Refuting a dead message (from: x)")
	l.Print("[WARN] memberlist: Refuting a suspect message (from: x)")
	l.Print("[WARN] memberlist: Refuting an alive message for 'x' (1.2.3.4:5) meta:([255 136] VS [255]), vsn:([1] VS [1])")
	l.Print("[ERR] memberlist: Failed fallback TCP ping: EOF")
	l.Print("[WARN] memberlist: failed to resolve broker-77:7946: no such host")
	l.Print("[INFO] serf: EventMemberJoin: x")
	l.Print("[ERR] memberlist: failed to receive: EOF from=1.2.3.4:5")
	l.Print("[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=1.2.3.4:5")
	l.Print("[ERR] memberlist: msg type (77) not supported from=1.2.3.4:6")
	text := out.String()
	require.Contains(t, text, `level=WARN msg="gossip: memberlist: Push/Pull`)
	require.Contains(t, text, `level=INFO msg="gossip: memberlist: Refuting a dead`)
	require.Contains(t, text, `level=DEBUG msg="gossip: memberlist: Refuting a suspect`)
	require.Contains(t, text, `level=DEBUG msg="gossip: memberlist: Refuting an alive`)
	require.Contains(t, text, `level=DEBUG msg="gossip: memberlist: Failed fallback`)
	require.Contains(t, text, `level=DEBUG msg="gossip: memberlist: failed to resolve`)
	require.Contains(t, text, `level=DEBUG msg="gossip: serf: EventMemberJoin`)
	require.Contains(t, text, `level=DEBUG msg="gossip: memberlist: failed to receive: EOF`)
	require.NotContains(t, text, "Decrypt")
	require.Equal(t, []string{"1.2.3.4:5", "1.2.3.4:6"}, from)
}

func FuzzPeers(f *testing.F) {
	f.Add([]byte(`{"format":"firn-peers","version":1,"peers":["1.2.3.4:5"]}`))
	f.Add([]byte(`{"format":"firn-peers","version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		peers, err := parsePeers(b)
		if err == nil {
			require.LessOrEqual(t, len(peers), maxPeers)
		}
	})
}

func FuzzTags(f *testing.F) {
	f.Add("1", "3", "1")
	f.Fuzz(func(t *testing.T, node, expect, state string) {
		tags, err := decodeTags(map[string]string{tagNode: node, tagExpect: expect, tagState: state})
		if err == nil {
			require.GreaterOrEqual(t, tags.NodeID, int32(0))
			require.Positive(t, tags.Expect)
		}
	})
}
