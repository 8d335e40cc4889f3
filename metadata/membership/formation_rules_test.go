package membership

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// pool makes a machine of the lowest of n nodes, and what it sees.
func pool(expect, n int) (*Formation, *View, []Server) {
	v := &View{Tried: true}
	var servers []Server
	for i := range n {
		s := Server{DirectoryID: uuid.UUID{0: byte(i + 1)}, Address: string(rune('a' + i))}
		servers = append(servers, s)
		v.Members = append(v.Members, Member{DirectoryID: s.DirectoryID, Tags: Tags{ClusterAddr: s.Address, Expect: expect, State: Forming}})
	}
	return NewFormation(servers[0], expect, Ledger{}, rand.New(rand.NewPCG(1, 1))), v, servers
}

// tell answers the questions for clocks, all of which agree but those that are ahead.
func tell(t *testing.T, f *Formation, out []Outgoing, ahead map[uuid.UUID]time.Duration) {
	t.Helper()
	for _, o := range out {
		require.Equal(t, Ask, o.Message.Kind)
		f.HeardClock(o.To, ahead[o.To])
	}
}

// begin steps past the time that candidates are awaited.
func begin(t *testing.T, f *Formation, v *View, now *time.Time) []Outgoing {
	t.Helper()
	tell(t, f, f.Step(*now, v).Send, nil)
	require.Empty(t, f.Step(*now, v).Send)
	*now = now.Add(settle)
	out := f.Step(*now, v).Send
	require.NotEmpty(t, out)
	return out
}

func TestThreeNodesBegin(t *testing.T) {
	now := time.Unix(1, 0)
	f, v, servers := pool(3, 3)
	v.Tried = false
	require.Empty(t, f.Step(now, v).Send)
	v.Tried = true
	out := begin(t, f, v, &now)
	require.Len(t, out, 2)
	require.Equal(t, Prepare, out[0].Message.Kind)

	two := NewFormation(servers[1], 3, Ledger{}, nil)
	three := NewFormation(servers[2], 3, Ledger{}, nil)
	a := two.Handle(&out[0].Message, false)
	require.True(t, a.OK)
	require.Empty(t, f.Answered(now, &a))
	a = three.Handle(&out[1].Message, false)
	out = f.Answered(now, &a)
	require.Len(t, out, 2)
	require.Equal(t, servers, out[0].Message.Value)
	a = two.Handle(&out[0].Message, false)
	require.Empty(t, f.Answered(now, &a))
	require.Empty(t, f.Answered(now, &a), "an answer that comes twice counts once")
	require.Equal(t, Wait, f.Step(now, v).Outcome)
	a = three.Handle(&out[1].Message, false)
	out = f.Answered(now, &a)
	require.Equal(t, Inform, out[0].Message.Kind)
	require.Equal(t, Step{Outcome: Bootstrap, Servers: servers}, f.Step(now, v))

	two.Handle(&out[0].Message, false)
	require.Equal(t, Step{Outcome: Bootstrap, Servers: servers}, two.Step(now, v))
	v.Members[0].ClusterID = "c"
	require.Equal(t, Join, three.Step(now, v).Outcome, "who hears late of the list hears of the cluster")
	v.HasState = true
	require.Equal(t, Resume, two.Step(now, v).Outcome)
}

// What was accepted under the highest ballot may have been chosen; what was
// accepted under lower ones was not.
func TestHighestAcceptedIsProposed(t *testing.T) {
	for _, order := range [][]int{{1, 2}, {2, 1}} {
		now := time.Unix(1, 0)
		f, v, servers := pool(3, 4)
		out := begin(t, f, v, &now)
		older, newer := servers[1:4], []Server{servers[0], servers[2], servers[3]}
		ballot := out[0].Message.Ballot
		answers := map[int]*Answer{
			1: {Kind: Prepare, From: servers[1].DirectoryID, Ballot: ballot, OK: true, Promised: ballot, Accepted: Ballot{Counter: 1}, Value: newer, Expect: 3},
			2: {Kind: Prepare, From: servers[2].DirectoryID, Ballot: ballot, OK: true, Promised: ballot, Accepted: Ballot{Counter: 0, Proposer: servers[0].DirectoryID}, Value: older, Expect: 3},
		}
		require.Empty(t, f.Answered(now, answers[order[0]]))
		out = f.Answered(now, answers[order[1]])
		require.NotEmpty(t, out)
		require.Equal(t, newer, out[0].Message.Value)
	}
}

// An answer of an earlier ballot says nothing of what its sender did since.
func TestLateAnswersCountForNothing(t *testing.T) {
	now := time.Unix(1, 0)
	f, v, servers := pool(3, 3)
	old := begin(t, f, v, &now)[0].Message.Ballot
	now = now.Add(ballotTimeout)
	require.Empty(t, f.Step(now, v).Send, "given up")
	now = now.Add(2 * ballotPause)
	out := f.Step(now, v).Send
	require.True(t, old.Less(out[0].Message.Ballot))
	late := Answer{Kind: Prepare, Ballot: old, OK: true, Promised: old, Expect: 3}
	for _, s := range servers[1:] {
		late.From = s.DirectoryID
		require.Empty(t, f.Answered(now, &late))
	}
	// Nor does the word of one who was not asked.
	stranger := Answer{Kind: Prepare, From: uuid.New(), Ballot: out[0].Message.Ballot, OK: true, Expect: 3}
	require.Empty(t, f.Answered(now, &stranger))
	first := Answer{Kind: Prepare, From: servers[1].DirectoryID, Ballot: out[0].Message.Ballot, OK: true, Expect: 3}
	require.Empty(t, f.Answered(now, &first))
}

func TestWhoDoesNotTakePart(t *testing.T) {
	now := time.Unix(1, 0)
	f, v, _ := pool(3, 3)
	for name, change := range map[string]func(m *Member){
		"failed":             func(m *Member) { m.Status = Failed },
		"checking":           func(m *Member) { m.State = Checking },
		"another expect":     func(m *Member) { m.Expect = 5 },
		"left":               func(m *Member) { m.Status = Left },
		"formed, unknown id": func(m *Member) { m.State = Formed },
	} {
		was := v.Members[2]
		change(&v.Members[2])
		for range 100 {
			now = now.Add(time.Second)
			for _, out := range f.Step(now, v).Send {
				require.Equal(t, Ask, out.Message.Kind, name)
			}
		}
		v.Members[2] = was
	}
	m := Message{Kind: Prepare, Ballot: Ballot{Counter: 9}, Expect: 5}
	require.False(t, func() bool { a := f.Handle(&m, false); return a.OK }(), "of another bootstrap.expect")
	m.Expect = 3
	require.False(t, func() bool { a := f.Handle(&m, true); return a.OK }(), "with Raft state")
	require.True(t, func() bool { a := f.Handle(&m, false); return a.OK }())
}

// All that start together are heard before the first word, so that the lowest
// begin, and a pool of many needs a majority.
func TestManyStartTogether(t *testing.T) {
	now := time.Unix(1, 0)
	f, v, servers := pool(3, 8)
	out := begin(t, f, v, &now)
	require.Len(t, out, 7)
	ballot := out[0].Message.Ballot
	for i, s := range servers[1:5] {
		a := Answer{Kind: Prepare, From: s.DirectoryID, Ballot: ballot, OK: true, Promised: ballot, Expect: 3}
		out = f.Answered(now, &a)
		require.Equal(t, i == 3, len(out) > 0)
	}
	require.Equal(t, servers[:3], out[0].Message.Value)
}

// A half of those that cluster.join names does not begin: the other half may be
// beginning too.
func TestThreeOfSixWait(t *testing.T) {
	now := time.Unix(1, 0)
	f, v, _ := pool(3, 3)
	v.Named = 6
	for range 100 {
		now = now.Add(time.Second)
		tell(t, f, f.Step(now, v).Send, nil)
	}
	f, v, _ = pool(3, 4)
	v.Named = 6
	require.Len(t, begin(t, f, v, &now), 3)
	require.Equal(t, 4, f.quorum)
	f, v, _ = pool(3, 3)
	v.Named = 5
	require.Len(t, begin(t, f, v, &now), 2)
	require.Equal(t, 1, quorum(1, 1, 6), "it was told to begin alone")
}

// Whoever names this node may do so by what it is called, or by its address.
func TestNamed(t *testing.T) {
	m := &Membership{opts: Options{Advertise: "me:7946"}, self: Member{Tags: Tags{ClusterAddr: "broker-1:9094"}, GossipAddr: netip.MustParseAddrPort("10.0.0.1:7946")}}
	for want, join := range map[int][]string{
		1: {},
		2: {"broker-2:7946"},
		3: {"broker-1:7946", "broker-2:7946", "broker-3:7946", "broker-3:7946"},
		4: {"10.0.0.1:7946", "a:1", "b:1", "c:1"},
		5: {"me:7946", "a:1", "b:1", "c:1", "d:1"},
		6: {"broker-1:7947", "a:1", "b:1", "c:1", "d:1"},
	} {
		m.opts.Join = join
		require.Equal(t, want, m.named())
	}
}

func FuzzLedger(f *testing.F) {
	f.Add([]byte(`{"format":"firn-formation","version":1,"promised":{"counter":1,"proposer":"00000000-0000-0000-0000-000000000001"}}`))
	f.Add([]byte(`{"format":"firn-formation","version":1,"accepted":{"counter":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLedger(b)
		if err == nil {
			require.False(t, l.Promised.Less(l.Accepted))
		}
	})
}

// A node whose clock most others contradict must not run; one that a few do begins
// without them; where there is no majority nobody begins.
func TestClocksOfThoseWhoBegin(t *testing.T) {
	for name, tc := range map[string]struct {
		expect, nodes int
		ahead         map[byte]time.Duration // of the others, by the first byte of their ids
		asked         int                    // to promise
		refused       string
	}{
		"all agree":          {3, 3, map[byte]time.Duration{2: MaxClockSkew, 3: -MaxClockSkew}, 2, ""},
		"ours is off":        {3, 3, map[byte]time.Duration{2: time.Hour, 3: time.Hour + MaxClockSkew}, 0, "clock is off: the clock of this node is 1h0m0s behind those of nodes 2, 3, with which a cluster begins; at most 10s is allowed: set it, and keep it by NTP"},
		"ours is ahead":      {2, 3, map[byte]time.Duration{2: -time.Hour, 3: -time.Hour}, 0, "is 1h0m0s ahead of those of nodes 2, 3"},
		"another's is off":   {3, 3, map[byte]time.Duration{3: MaxClockSkew + 1}, 0, ""},
		"one more than need": {3, 4, map[byte]time.Duration{4: time.Hour}, 2, ""},
		"all differ":         {3, 3, map[byte]time.Duration{2: time.Hour, 3: 2 * time.Hour}, 0, ""},
		"two differ":         {2, 2, map[byte]time.Duration{2: time.Hour}, 0, ""},
		"half and half":      {2, 4, map[byte]time.Duration{3: time.Hour, 4: time.Hour}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1, 0)
			f, v, servers := pool(tc.expect, tc.nodes)
			ahead := map[uuid.UUID]time.Duration{}
			for i, s := range servers {
				v.Members[i].NodeID = int32(i + 1)
				ahead[s.DirectoryID] = tc.ahead[s.DirectoryID[0]]
			}
			require.Len(t, f.Step(now, v).Send, tc.nodes-1)
			now = now.Add(askEvery)
			tell(t, f, f.Step(now, v).Send, ahead)
			prepared := 0
			var refused error
			for range 4 {
				s := f.Step(now, v)
				for _, o := range s.Send {
					require.Equal(t, Prepare, o.Message.Kind)
					require.LessOrEqual(t, ahead[o.To].Abs(), MaxClockSkew)
					prepared++
				}
				refused = s.Refused
				now = now.Add(settle)
			}
			require.Equal(t, tc.asked, prepared)
			if tc.refused == "" {
				require.NoError(t, refused)
				return
			}
			require.ErrorIs(t, refused, ErrClock)
			require.ErrorContains(t, refused, tc.refused)
		})
	}
	// A clock that is set right meanwhile is good.
	now := time.Unix(1, 0)
	f, v, servers := pool(2, 2)
	off := map[uuid.UUID]time.Duration{servers[1].DirectoryID: time.Hour}
	tell(t, f, f.Step(now, v).Send, off)
	require.Empty(t, f.Step(now, v).Send)
	require.Len(t, f.ClocksOff(v), 1)
	now = now.Add(askClock)
	tell(t, f, f.Step(now, v).Send, nil)
	require.Empty(t, f.ClocksOff(v))
	require.Len(t, begin(t, f, v, &now), 1)
}

// What the way took says nothing of a clock.
func TestClockAhead(t *testing.T) {
	sent := time.UnixMilli(1_000_000)
	at := func(d time.Duration) int64 { return sent.Add(d).UnixMilli() }
	require.Zero(t, clockAhead(sent, 4*time.Second, 0), "an older program")
	require.Zero(t, clockAhead(sent, 4*time.Second, at(0)))
	require.Zero(t, clockAhead(sent, 4*time.Second, at(3999*time.Millisecond)))
	require.InDelta(t, time.Hour, clockAhead(sent, 4*time.Second, at(time.Hour+4*time.Second)), float64(2*time.Millisecond))
	require.InDelta(t, -time.Hour, clockAhead(sent, 4*time.Second, at(-time.Hour)), float64(2*time.Millisecond))
}
