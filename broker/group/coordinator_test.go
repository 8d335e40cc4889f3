package group

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf16"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// newCoordinator returns a coordinator of one partition, not yet led.
func newCoordinator(t *testing.T, log Log, edit func(*Config)) *Coordinator {
	cfg := DefaultConfig()
	cfg.InitialRebalanceDelay = 0
	if edit != nil {
		edit(&cfg)
	}
	ids := 0
	c, err := New(Options{
		Log: log, Partitions: func() int32 { return 1 }, Config: cfg, Logger: quiet(),
		NewID: func() string { ids++; return fmt.Sprint(ids) },
	})
	require.NoError(t, err)
	return c
}

// lead makes c lead its partition and waits until it is loaded.
func lead(c *Coordinator) {
	c.Lead(0, 1)
	synctest.Wait()
}

// answer is what a callback got.
type answer[T any] struct {
	mu sync.Mutex
	n  int
	v  T
}

func ask[T any](call func(done func(T))) *answer[T] {
	a := &answer[T]{}
	call(func(v T) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.n++
		a.v = v
	})
	return a
}

func (a *answer[T]) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

func (a *answer[T]) get(t *testing.T) T {
	t.Helper()
	synctest.Wait()
	require.Equal(t, 1, a.count(), "answers")
	return a.v
}

func (a *answer[T]) waits(t *testing.T) {
	t.Helper()
	synctest.Wait()
	require.Equal(t, 0, a.count(), "answers")
}

func commitOne(c *Coordinator, group, topic string, partition int32, offset int64) *answer[CommitResponse] {
	return ask(func(done func(CommitResponse)) {
		c.Commit(&CommitRequest{Group: group, Generation: -1, Retention: -1, Offsets: []OffsetCommit{
			{Topic: topic, Partition: partition, Offset: offset, LeaderEpoch: 7, Metadata: "m"},
		}}, done)
	})
}

func fetchAll(c *Coordinator, group string, stable bool) *answer[FetchResponse] {
	return ask(func(done func(FetchResponse)) {
		c.Fetch(&FetchRequest{Group: group, All: true, RequireStable: stable}, done)
	})
}

// offsetsOf prints a group's offsets.
func offsetsOf(t *testing.T, c *Coordinator, group string) string {
	t.Helper()
	r := fetchAll(c, group, false).get(t)
	require.NoError(t, r.Err)
	var s []string
	for _, topic := range r.Topics {
		for _, p := range topic.Partitions {
			s = append(s, fmt.Sprintf("%s-%d=%d", topic.Topic, p.Partition, p.Offset))
		}
	}
	return strings.Join(s, " ")
}

func joinRequest(group, member string, topics ...string) *JoinRequest {
	return &JoinRequest{
		Group: group, MemberID: member, ClientID: "c", ClientHost: "/127.0.0.1",
		SessionTimeout: 10 * time.Second, RebalanceTimeout: time.Minute,
		ProtocolType: "consumer", Protocols: []Protocol{{"range", subscription(topics...)}},
	}
}

// stabilize makes a Stable group of one member, and returns the member's id.
func stabilize(t *testing.T, c *Coordinator, group string, topics ...string) string {
	t.Helper()
	j := ask(func(done func(JoinResponse)) { c.Join(joinRequest(group, "", topics...), done) })
	time.Sleep(time.Nanosecond) // the initial delay of 0
	r := j.get(t)
	require.NoError(t, r.Err)
	s := ask(func(done func(SyncResponse)) {
		c.Sync(&SyncRequest{Group: group, MemberID: r.MemberID, Generation: r.Generation,
			Assignments: []Assignment{{r.MemberID, []byte("all")}}}, done)
	}).get(t)
	require.NoError(t, s.Err)
	require.Equal(t, "all", string(s.Assignment))
	return r.MemberID
}

func leave(t *testing.T, c *Coordinator, group, member string) {
	t.Helper()
	r := ask(func(done func(LeaveResponse)) {
		c.Leave(&LeaveRequest{Group: group, Members: []LeaveMember{{MemberID: member}}}, done)
	}).get(t)
	require.NoError(t, r.Err)
	require.NoError(t, r.Members[0])
}

func TestCommitIsReadableOncePersisted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		log.setHold(true)
		first := commitOne(c, "g", "t", 0, 5)
		second := commitOne(c, "g", "t", 1, 6)
		first.waits(t)
		require.Empty(t, offsetsOf(t, c, "g"))
		stable := fetchAll(c, "g", true)
		stable.waits(t)
		require.Equal(t, 1, log.release())
		require.NoError(t, first.get(t).Err)
		second.waits(t)
		stable.waits(t) // the second commit came before it, too
		require.Equal(t, 1, log.release(), "what came meanwhile is one batch")
		require.NoError(t, second.get(t).Partitions[0])
		require.Len(t, stable.get(t).Topics[0].Partitions, 2)
		require.Equal(t, "t-0=5 t-1=6", offsetsOf(t, c, "g"))

		r := ask(func(done func(FetchResponse)) {
			c.Fetch(&FetchRequest{Group: "g", Topics: []FetchTopic{
				{Topic: "t", Partitions: []int32{1, 9}}, {Topic: "u", Partitions: []int32{0}},
			}}, done)
		}).get(t)
		require.Equal(t, []FetchedTopic{
			{Topic: "t", Partitions: []FetchedOffset{{Partition: 1, Offset: 6, LeaderEpoch: 7, Metadata: "m"}, {Partition: 9, Offset: -1, LeaderEpoch: -1}}},
			{Topic: "u", Partitions: []FetchedOffset{{Offset: -1, LeaderEpoch: -1}}},
		}, r.Topics)
		require.Empty(t, fetchAll(c, "unknown", false).get(t).Topics)
	})
}

func TestCommitErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, func(c *Config) { c.MaxBatchBytes = 4096; c.OffsetMetadataMaxSize = 3 })
		defer c.Close()
		lead(c)
		commit := func(req CommitRequest) CommitResponse {
			req.Group, req.Retention = "g", -1
			return ask(func(done func(CommitResponse)) { c.Commit(&req, done) }).get(t)
		}
		require.Equal(t, kerr.IllegalGeneration, commit(CommitRequest{Generation: 1, MemberID: "m"}).Err)
		require.Equal(t, kerr.GroupIDNotFound, commit(CommitRequest{Generation: 1, MemberID: "m", GroupMustExist: true}).Err)
		list, err := c.List(nil, nil)
		require.NoError(t, err)
		require.Empty(t, list)

		r := commit(CommitRequest{Generation: -1, Offsets: []OffsetCommit{
			{Topic: "t", Metadata: "abcd"}, {Topic: "t", Partition: 1, Offset: 2, Metadata: "äöü"}, {Topic: "t", Partition: 2, Metadata: "ä😀x"},
		}})
		require.NoError(t, r.Err)
		require.Equal(t, []error{kerr.OffsetMetadataTooLarge, nil, kerr.OffsetMetadataTooLarge}, r.Partitions)
		require.Equal(t, "t-1=2", offsetsOf(t, c, "g"))

		big := make([]OffsetCommit, 100)
		for i := range big {
			big[i] = OffsetCommit{Topic: "t", Partition: int32(i)}
		}
		require.Equal(t, kerr.InvalidCommitOffsetSize, commit(CommitRequest{Generation: -1, Offsets: big}).Err)
		require.Equal(t, "t-1=2", offsetsOf(t, c, "g"), "a commit is whole or nothing")

		for appendErr, want := range map[error]error{
			kerr.NotEnoughReplicas:     kerr.CoordinatorNotAvailable,
			kerr.NotLeaderForPartition: kerr.NotCoordinator,
			errDisk:                    kerr.NotCoordinator,
			kerr.RecordListTooLarge:    kerr.InvalidCommitOffsetSize,
			io.ErrUnexpectedEOF:        kerr.CoordinatorNotAvailable,
		} {
			log.fail = func() error { return fmt.Errorf("append: %w", appendErr) }
			require.Equal(t, want, commit(CommitRequest{Generation: -1, Offsets: []OffsetCommit{{Topic: "t", Offset: 9}}}).Err)
			require.Equal(t, want, commitOne(c, "other", "t", 0, 1).get(t).Err)
		}
		require.Equal(t, "t-1=2", offsetsOf(t, c, "g"))
		list, err = c.List(nil, nil)
		require.NoError(t, err)
		require.Equal(t, []Listed{{Group: "g", State: "Empty", Type: "classic"}}, list, "a group that was never stored is none")
	})
}

func TestCommitTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		log.setHold(true)
		first := commitOne(c, "g", "t", 0, 1)
		time.Sleep(3 * time.Second)
		second := commitOne(c, "g", "t", 0, 2)
		time.Sleep(1999 * time.Millisecond)
		first.waits(t)
		time.Sleep(time.Millisecond)
		require.Equal(t, kerr.CoordinatorNotAvailable, first.get(t).Err)
		time.Sleep(2999 * time.Millisecond)
		second.waits(t)
		time.Sleep(time.Millisecond)
		require.Equal(t, kerr.CoordinatorNotAvailable, second.get(t).Err)
		log.setHold(false)
		log.release()
		synctest.Wait()
		require.Equal(t, "t-0=2", offsetsOf(t, c, "g"), "memory follows the log, answered or not")
	})
}

// An assignment that does not get into the log in time is taken back: its
// members join again rather than wait without end.
func TestAssignmentTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		j := ask(func(done func(JoinResponse)) { c.Join(joinRequest("g", "", "t"), done) })
		time.Sleep(time.Nanosecond)
		member := j.get(t).MemberID
		sync := func(generation int32) *answer[SyncResponse] {
			return ask(func(done func(SyncResponse)) {
				c.Sync(&SyncRequest{Group: "g", MemberID: member, Generation: generation, Assignments: []Assignment{{member, []byte("x")}}}, done)
			})
		}
		log.setHold(true)
		first := sync(1)
		time.Sleep(5*time.Second - time.Millisecond)
		first.waits(t)
		time.Sleep(time.Millisecond)
		require.Equal(t, kerr.CoordinatorNotAvailable, first.get(t).Err)
		again := ask(func(done func(JoinResponse)) { c.Join(joinRequest("g", member, "t"), done) }).get(t)
		require.EqualValues(t, 2, again.Generation)
		second := sync(2)
		second.waits(t)
		log.setHold(false)
		log.release()
		require.NoError(t, second.get(t).Err)
		memory := dump(c)
		restarted := reload(t, log)
		defer restarted.Close()
		require.Equal(t, memory, dump(restarted))
	})
}

func TestResignAnswersEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		member := stabilize(t, c, "g", "t")
		require.NoError(t, commitOne(c, "simple", "t", 0, 1).get(t).Err)
		log.setHold(true)
		commit, queued := commitOne(c, "s2", "t", 0, 5), commitOne(c, "simple", "t", 0, 5)
		stable := fetchAll(c, "simple", true)
		del := ask(func(done func(error)) { c.DeleteGroup("simple", done) })
		behind := commitOne(c, "simple", "t", 1, 5)
		join := ask(func(done func(JoinResponse)) { c.Join(joinRequest("g", "", "t"), done) })
		commit.waits(t)
		join.waits(t)
		c.Resign(0, 0)
		commit.waits(t) // an older epoch
		c.Resign(0, 1)
		require.Equal(t, kerr.NotCoordinator, commit.get(t).Err)
		require.Equal(t, kerr.NotCoordinator, queued.get(t).Err)
		require.Equal(t, kerr.NotCoordinator, stable.get(t).Err)
		require.Equal(t, kerr.NotCoordinator, del.get(t))
		require.Equal(t, kerr.NotCoordinator, behind.get(t).Err)
		require.Equal(t, kerr.NotCoordinator, join.get(t).Err)
		log.release()
		time.Sleep(time.Hour)
		require.Equal(t, kerr.NotCoordinator, commit.get(t).Err, "answered once")
		hb := func() error {
			return ask(func(done func(error)) {
				c.Heartbeat(&HeartbeatRequest{Group: "g", MemberID: member, Generation: 1}, done)
			}).get(t)
		}
		require.Equal(t, kerr.NotCoordinator, hb())
		log.setHold(false)
		c.Lead(0, 2)
		synctest.Wait()
		require.NoError(t, hb(), "the session began anew")
		c.Close()
		require.Equal(t, kerr.CoordinatorNotAvailable, hb())
		_, err := c.List(nil, nil)
		require.Equal(t, kerr.CoordinatorNotAvailable, err)
		c.Lead(0, 3)
		require.Equal(t, kerr.CoordinatorNotAvailable, hb())
	})
}

// A SyncGroup that waits for the leader's is answered by Resign.
func TestResignAnswersSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		j := ask(func(done func(JoinResponse)) { c.Join(joinRequest("g", "", "t"), done) })
		time.Sleep(time.Nanosecond)
		log.setHold(true)
		waiting := ask(func(done func(SyncResponse)) {
			c.Sync(&SyncRequest{Group: "g", MemberID: j.get(t).MemberID, Generation: 1}, done)
		})
		waiting.waits(t)
		c.Lead(0, 2) // a newer epoch resigns the older
		require.Equal(t, kerr.NotCoordinator, waiting.get(t).Err)
		c.Lead(0, 1)
		c.Resign(0, 1)
		synctest.Wait()
		_, err := c.Describe("nobody")
		require.Equal(t, kerr.GroupIDNotFound, err, "epoch 2 still leads")
	})
}

func TestLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		log.scanned = make(chan struct{})
		log.scanErr = errDisk
		c := newCoordinator(t, log, nil)
		defer c.Close()
		require.Equal(t, kerr.NotCoordinator, commitOne(c, "g", "t", 0, 1).get(t).Err)
		lead(c)
		loading := kerr.CoordinatorLoadInProgress
		check := func() {
			t.Helper()
			require.Equal(t, loading, commitOne(c, "g", "t", 0, 1).get(t).Err)
			require.Equal(t, loading, fetchAll(c, "g", false).get(t).Err)
			require.Equal(t, loading, ask(func(done func(JoinResponse)) { c.Join(joinRequest("g", ""), done) }).get(t).Err)
			require.Equal(t, loading, ask(func(done func(SyncResponse)) { c.Sync(&SyncRequest{Group: "g"}, done) }).get(t).Err)
			require.Equal(t, loading, ask(func(done func(LeaveResponse)) { c.Leave(&LeaveRequest{Group: "g"}, done) }).get(t).Err)
			require.Equal(t, loading, ask(func(done func(error)) { c.DeleteGroup("g", done) }).get(t))
			require.NoError(t, ask(func(done func(error)) { c.Heartbeat(&HeartbeatRequest{Group: "g"}, done) }).get(t))
			_, err := c.List(nil, nil)
			require.Equal(t, loading, err)
			_, err = c.Describe("g")
			require.Equal(t, loading, err)
			require.Equal(t, 1, c.Stats().Loading)
		}
		check()
		close(log.scanned)
		synctest.Wait()
		check() // the log cannot be read: it tries again
		log.mu.Lock()
		log.scanErr = nil
		log.mu.Unlock()
		time.Sleep(loadRetryMin)
		synctest.Wait()
		require.NoError(t, commitOne(c, "g", "t", 0, 1).get(t).Err)
	})
}

// A broker that has just started leads before it has a lease. That is no error, and does
// not cost the half second that a broken disk is left alone for.
func TestLoadWaitsForTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, told := newFakeLog(), &strings.Builder{}
		log.scanErr = fmt.Errorf("watermark: %w", kerr.NotLeaderForPartition)
		c := newCoordinator(t, log, nil)
		c.logger = slog.New(slog.NewTextHandler(told, nil))
		defer c.Close()
		lead(c)
		time.Sleep(2*loadRetryLease + loadRetryLease/2)
		log.mu.Lock()
		log.scanErr = nil
		log.mu.Unlock()
		time.Sleep(loadRetryLease)
		synctest.Wait()
		require.NoError(t, commitOne(c, "g", "t", 0, 1).get(t).Err)
		require.NotContains(t, told.String(), "cannot load")
	})
}

func TestRequestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoordinator(t, newFakeLog(), nil)
		defer c.Close()
		lead(c)
		join := func(edit func(*JoinRequest)) error {
			r := joinRequest("g", "", "t")
			edit(r)
			return ask(func(done func(JoinResponse)) { c.Join(r, done) }).get(t).Err
		}
		require.Equal(t, kerr.InvalidGroupID, join(func(r *JoinRequest) { r.Group = "" }))
		require.Equal(t, kerr.InvalidSessionTimeout, join(func(r *JoinRequest) { r.SessionTimeout = 5999 * time.Millisecond }))
		require.Equal(t, kerr.InvalidSessionTimeout, join(func(r *JoinRequest) { r.SessionTimeout = 30*time.Minute + 1 }))
		require.Equal(t, kerr.UnknownMemberID, join(func(r *JoinRequest) { r.MemberID = "x" }))
		require.Equal(t, kerr.InconsistentGroupProtocol, join(func(r *JoinRequest) { r.Protocols = nil }))
		require.Equal(t, kerr.InconsistentGroupProtocol, join(func(r *JoinRequest) { r.ProtocolType = "" }))
		list, err := c.List(nil, nil)
		require.NoError(t, err)
		require.Empty(t, list, "a refused join makes no group")
		require.Empty(t, c.log.(*fakeLog).part(0).batches)

		require.Equal(t, kerr.UnknownMemberID, ask(func(done func(SyncResponse)) { c.Sync(&SyncRequest{Group: "g"}, done) }).get(t).Err)
		require.Equal(t, kerr.UnknownMemberID, ask(func(done func(error)) { c.Heartbeat(&HeartbeatRequest{Group: "g"}, done) }).get(t))
		l := ask(func(done func(LeaveResponse)) {
			c.Leave(&LeaveRequest{Group: "g", Members: make([]LeaveMember, 2)}, done)
		}).get(t)
		require.Equal(t, LeaveResponse{Members: []error{kerr.UnknownMemberID, kerr.UnknownMemberID}}, l)
		require.NoError(t, commitOne(c, "", "t", 0, 1).get(t).Err, "offsets may be committed to the empty group")
		require.Equal(t, "t-0=1", offsetsOf(t, c, ""))

		_, err = New(Options{Log: newFakeLog(), Partitions: func() int32 { return 1 }})
		require.ErrorContains(t, err, "group.max.size: got 0, want 1 or more")
	})
}

func TestListAndDescribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoordinator(t, newFakeLog(), nil)
		defer c.Close()
		lead(c)
		member := stabilize(t, c, "b", "t")
		require.NoError(t, commitOne(c, "a", "t", 0, 1).get(t).Err)
		ids := func(states, types []string) string {
			list, err := c.List(states, types)
			require.NoError(t, err)
			var s []string
			for _, l := range list {
				s = append(s, l.Group+":"+l.ProtocolType+":"+l.State+":"+l.Type)
			}
			return strings.Join(s, " ")
		}
		require.Equal(t, "a::Empty:classic b:consumer:Stable:classic", ids(nil, nil))
		require.Equal(t, "b:consumer:Stable:classic", ids([]string{" stable ", "Dead"}, []string{"CLASSIC"}))
		require.Empty(t, ids(nil, []string{"consumer"}))
		require.Empty(t, ids([]string{"PreparingRebalance"}, nil))

		d, err := c.Describe("b")
		require.NoError(t, err)
		require.Equal(t, Description{State: "Stable", ProtocolType: "consumer", Protocol: "range", Members: []DescribedMember{{
			ID: member, ClientID: "c", ClientHost: "/127.0.0.1", Metadata: subscription("t"), Assignment: []byte("all"),
		}}}, d)
		ask(func(done func(JoinResponse)) { c.Join(joinRequest("b", "", "t"), done) }).waits(t)
		d, err = c.Describe("b")
		require.NoError(t, err)
		require.Equal(t, "PreparingRebalance", d.State)
		require.Empty(t, d.Protocol)
		require.Len(t, d.Members, 2)
		require.Nil(t, d.Members[0].Metadata)
		require.Equal(t, Stats{Partitions: 1, Groups: map[State]int{Empty: 1, PreparingRebalance: 1}, Offsets: 1}, c.Stats())
	})
}

// Operators see why groups rebalance.
func TestRebalancesAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoordinator(t, newFakeLog(), nil)
		defer c.Close()
		var b strings.Builder
		c.logger = slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		}}))
		lead(c)
		b.Reset()
		member := stabilize(t, c, "g", "t")
		r := ask(func(done func(LeaveResponse)) {
			c.Leave(&LeaveRequest{Group: "g", Members: []LeaveMember{{MemberID: member, Reason: strings.Repeat("ü", 200)}}}, done)
		}).get(t)
		require.NoError(t, r.Err)
		require.Equal(t, `msg="group: state changed" group=g state=PreparingRebalance generation=0 members=1 reason="member c-1 joins"
msg="group: state changed" group=g state=CompletingRebalance generation=1 members=1
msg="group: state changed" group=g state=Stable generation=1 members=1
msg="group: state changed" group=g state=Empty generation=2 members=0
`, b.String())
		require.Equal(t, "member c-1 leaves: "+strings.Repeat("ü", 127), c.shards[0].groups["g"].classic.reason)
	})
}

func TestPartitionFor(t *testing.T) {
	// Java's "hello".hashCode() and so on.
	for s, want := range map[string]int32{
		"": 0, "a": 97, "hello": 99162322, "Aa": 2112, "BB": 2112,
		"polygenelubricants": -1 << 31, "😀": 1772899,
	} {
		require.Equal(t, want, javaHash(s), s)
	}
	require.EqualValues(t, 0, PartitionFor("polygenelubricants", 50), "the minimum int has no absolute value")
	require.EqualValues(t, 99162322%50, PartitionFor("hello", 50))
	negative := 0
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "group")
		var h int32
		for _, u := range utf16.Encode([]rune(s)) {
			h = 31*h + int32(u)
		}
		if h < 0 {
			negative++
		}
		require.Equal(t, h, javaHash(s))
		want := int64(h)
		if want < 0 {
			want = -want
		}
		require.EqualValues(t, want%50, PartitionFor(s, 50))
		require.Equal(t, len(utf16.Encode([]rune(s))), utf16Len(s))
	})
	require.Positive(t, negative)
}
