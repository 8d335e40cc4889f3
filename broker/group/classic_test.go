package group

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// machine drives one classicGroup by hand and prints what it does. Member ids
// are short: <client>-1, -2, …
type machine struct {
	t      *testing.T
	cfg    Config
	g      *classicGroup
	now    time.Time
	ids    int
	timers timerQueue
	writes []persist
	out    strings.Builder
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, cfg: DefaultConfig(), now: epoch, timers: newTimerQueue()}
	m.g = newClassicGroup("g", &m.cfg, func() string { m.ids++; return strconv.Itoa(m.ids) }, m.now)
	return m
}

func errName(err error) string {
	var ke *kerr.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &ke):
		return ke.Message
	}
	return err.Error()
}

func (m *machine) printf(format string, args ...any) { fmt.Fprintf(&m.out, format+"\n", args...) }

func (m *machine) apply(out *effects) {
	for _, e := range out.list {
		switch e := e.(type) {
		case answerJoin:
			e.to(e.resp)
		case answerSync:
			e.to(e.resp)
		case persist:
			m.writes = append(m.writes, e)
			v, err := decodeGroup(e.record.Value)
			require.NoError(m.t, err)
			ids := []string{}
			for _, mv := range v.members {
				ids = append(ids, fmt.Sprintf("%s=%q", mv.id, mv.assignment))
			}
			m.printf("persist generation=%d protocol=%q leader=%q [%s]", v.generation, v.protocol, v.leader, strings.Join(ids, " "))
		case setTimer:
			m.timers.set(e.key, e.at)
		case stopTimer:
			m.timers.stop(e.key)
		}
	}
	m.check()
}

// check holds the machine's invariants.
func (m *machine) check() {
	g := m.g
	awaiting, statics := 0, 0
	offered := map[string]int{}
	require.Len(m.t, g.order, len(g.members))
	for _, mem := range g.order {
		require.Same(m.t, mem, g.members[mem.id])
		require.NotContains(m.t, g.pending, mem.id)
		if mem.join != nil {
			awaiting++
		}
		if mem.isStatic() {
			statics++
			require.Equal(m.t, mem.id, g.statics[*mem.instanceID])
		}
		for _, p := range mem.protocols {
			offered[p.Name]++
		}
		key := timerKey{kind: timerSession, group: g.id, member: mem.id}
		require.True(m.t, m.timers.armed(key) || mem.join != nil || mem.sync != nil, "member %s has no deadline", mem.id)
	}
	require.Equal(m.t, awaiting, g.awaiting)
	require.Len(m.t, g.statics, statics)
	require.Equal(m.t, offered, g.offered)
	switch g.state {
	case Empty:
		require.Empty(m.t, g.members)
	case PreparingRebalance:
		require.True(m.t, m.timers.armed(timerKey{kind: timerJoin, group: g.id}), "join phase without an end")
	case CompletingRebalance:
		if len(g.unsynced) > 0 {
			require.True(m.t, m.timers.armed(timerKey{kind: timerSync, group: g.id}), "sync phase without an end")
		}
		require.Contains(m.t, g.members, g.leader)
	case Stable:
		require.Contains(m.t, g.members, g.leader)
	default: // Dead holds nothing to check
	}
}

func (m *machine) join(req *JoinRequest, name string) {
	var out effects
	m.g.joinGroup(req, func(r JoinResponse) {
		s := fmt.Sprintf("join %s -> %s member=%q", name, errName(r.Err), r.MemberID)
		if r.Err == nil {
			s += fmt.Sprintf(" generation=%d protocol=%q leader=%q", r.Generation, r.Protocol, r.Leader)
			for _, jm := range r.Members {
				s += fmt.Sprintf(" %s=%q", jm.ID, jm.Metadata)
			}
			if r.SkipAssignment {
				s += " skip"
			}
		}
		m.printf("%s", s)
	}, m.now, &out)
	m.apply(&out)
}

func (m *machine) sync(req *SyncRequest, name string) {
	var out effects
	m.g.syncGroup(req, func(r SyncResponse) {
		if r.Err != nil {
			m.printf("sync %s -> %s", name, errName(r.Err))
			return
		}
		m.printf("sync %s -> ok protocol=%q %q", name, r.Protocol, r.Assignment)
	}, &out)
	m.apply(&out)
}

// advance lets time pass, deadline by deadline.
func (m *machine) advance(d time.Duration) {
	end := m.now.Add(d)
	for {
		next, ok := m.timers.next()
		if !ok || next.After(end) {
			break
		}
		if next.After(m.now) {
			m.now = next
		}
		for key, ok := m.timers.pop(m.now); ok; key, ok = m.timers.pop(m.now) {
			m.printf("%s deadline %s %s", m.now.Sub(epoch), [...]string{"session", "join", "sync"}[key.kind], key.member)
			var out effects
			m.g.expire(key, m.now, &out)
			m.apply(&out)
		}
	}
	m.now = end
}

func (m *machine) persisted(err error) {
	w := m.writes[0]
	m.writes = m.writes[1:]
	var out effects
	m.g.persisted(&w.note, err, m.now, &out)
	m.apply(&out)
}

func protocols(list string) []Protocol {
	var out []Protocol
	for p := range strings.SplitSeq(list, ",") {
		name, meta, _ := strings.Cut(p, ":")
		out = append(out, Protocol{name, []byte(meta)})
	}
	return out
}

// TestClassicGroup runs the transcripts of testdata/classic.
//
//	join NAME [member=ID] [instance=I] [client=C] [protocols=p:meta,q] [type=T] [session=D] [rebalance=D] [v=N]
//	sync NAME member=ID generation=N [instance=I] [assign=ID:data,…] [type=T] [protocol=P]
//	heartbeat member=ID generation=N [instance=I]
//	leave [member=ID] [instance=I] …   one member per line of input
//	commit [member=ID] [generation=N] [instance=I]
//	persisted [ERROR]                  outcome of the oldest record written
//	advance D
//	config [delay=D] [max=N]
func TestClassicGroup(t *testing.T) {
	datadriven.Walk(t, "testdata/classic", func(t *testing.T, path string) {
		m := newMachine(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			m.out.Reset()
			get := func(key, def string) string {
				for _, a := range d.CmdArgs {
					if a.Key == key {
						return strings.Join(a.Vals, ",")
					}
				}
				return def
			}
			opt := func(key string) *string {
				if v := get(key, "\x00"); v != "\x00" {
					return &v
				}
				return nil
			}
			num := func(key string, def int) int {
				n, err := strconv.Atoi(get(key, strconv.Itoa(def)))
				require.NoError(t, err)
				return n
			}
			dur := func(key, def string) time.Duration {
				v, err := time.ParseDuration(get(key, def))
				require.NoError(t, err)
				return v
			}
			name := func() string { return d.CmdArgs[0].Key }
			var out effects
			switch d.Cmd {
			case "config":
				m.cfg.InitialRebalanceDelay = dur("delay", "3s")
				m.cfg.MaxSize = num("max", 1000)
			case "join":
				m.join(&JoinRequest{
					Group: "g", MemberID: get("member", ""), InstanceID: opt("instance"), ClientID: get("client", "c"),
					SessionTimeout: dur("session", "10s"), RebalanceTimeout: dur("rebalance", "60s"),
					ProtocolType: get("type", "consumer"), Protocols: protocols(get("protocols", "range:m")),
					RequireMemberID: num("v", 9) >= 4, CanSkipAssignment: num("v", 9) >= 9,
				}, name())
			case "sync":
				req := &SyncRequest{
					Group: "g", MemberID: get("member", ""), InstanceID: opt("instance"),
					Generation: int32(num("generation", 1)), ProtocolType: opt("type"), Protocol: opt("protocol"),
				}
				if a := get("assign", ""); a != "" {
					for _, p := range protocols(a) {
						req.Assignments = append(req.Assignments, Assignment{p.Name, p.Metadata})
					}
				}
				m.sync(req, name())
			case "heartbeat":
				err := m.g.heartbeat(&HeartbeatRequest{MemberID: get("member", ""), InstanceID: opt("instance"), Generation: int32(num("generation", 1))}, m.now, &out)
				m.printf("%s", errName(err))
				m.apply(&out)
			case "leave":
				req := &LeaveRequest{}
				for line := range strings.SplitSeq(strings.TrimSpace(d.Input), "\n") {
					var l LeaveMember
					for f := range strings.FieldsSeq(line) {
						k, v, _ := strings.Cut(f, "=")
						if k == "instance" {
							l.InstanceID = &v
						} else {
							l.MemberID = v
						}
					}
					req.Members = append(req.Members, l)
				}
				for _, err := range m.g.leaveGroup(req, m.now, &out) {
					m.printf("%s", errName(err))
				}
				m.apply(&out)
			case "commit":
				req := &CommitRequest{MemberID: get("member", ""), InstanceID: opt("instance"), Generation: int32(num("generation", -1))}
				err := m.g.validateCommit(req)
				if err == nil {
					m.g.committed(req.MemberID, m.now, &out)
				}
				m.printf("%s", errName(err))
				m.apply(&out)
			case "persisted":
				var err error
				if len(d.CmdArgs) > 0 {
					err = map[string]error{"NOT_ENOUGH_REPLICAS": kerr.NotEnoughReplicas, "NOT_LEADER_OR_FOLLOWER": kerr.NotLeaderForPartition}[name()]
					require.Error(t, err)
				}
				if len(m.writes) == 0 {
					m.printf("nothing to persist")
				} else {
					m.persisted(err)
				}
			case "advance":
				v, err := time.ParseDuration(name())
				require.NoError(t, err)
				m.advance(v)
			default:
				t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			}
			m.printf("%s generation=%d", m.g.state, m.g.generation)
			return m.out.String()
		})
	})
}

func subscription(topics ...string) []byte {
	s := kmsg.NewConsumerMemberMetadata()
	s.Version, s.Topics = 3, topics
	return s.AppendTo(nil)
}

func TestSubscribedTopics(t *testing.T) {
	topics := map[string]struct{}{}
	require.True(t, subscribedTopics(subscription("a", "b"), topics))
	require.Equal(t, map[string]struct{}{"a": {}, "b": {}}, topics)
	require.False(t, subscribedTopics([]byte("connect's own"), topics))
	require.False(t, subscribedTopics(nil, topics))
	require.False(t, subscribedTopics([]byte{0, 0, 0x7f, 0xff, 0xff, 0xff}, topics))
}

// Subscriptions decide which offsets may be deleted: known ones protect their
// topics, unknown ones all.
func TestSubscriptions(t *testing.T) {
	m := newMachine(t)
	m.cfg.InitialRebalanceDelay = 0
	join := func(member string, meta []byte) {
		m.join(&JoinRequest{
			MemberID: member, ClientID: "c", SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute,
			ProtocolType: "consumer", Protocols: []Protocol{{"range", meta}},
		}, "m")
	}
	require.False(t, m.g.subscribes("a"), "a simple group subscribes to nothing")
	join("", subscription("a"))
	require.True(t, m.g.subscribes("z"), "not known before the first generation")
	m.advance(0)
	require.True(t, m.g.subscribes("a"))
	require.False(t, m.g.subscribes("z"))
	join("c-1", []byte("garbage"))
	require.Equal(t, CompletingRebalance, m.g.state)
	require.True(t, m.g.subscribes("z"), "metadata that does not parse")
	var out effects
	m.g.leaveGroup(&LeaveRequest{Members: []LeaveMember{{MemberID: "c-1"}}}, m.now, &out)
	m.apply(&out)
	require.Equal(t, Empty, m.g.state)
	require.False(t, m.g.subscribes("a"))
}
