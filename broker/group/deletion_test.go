package group

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
)

func deleteGroup(c *Coordinator, group string) *answer[error] {
	return ask(func(done func(error)) { c.DeleteGroup(group, done) })
}

func deleteOffsets(c *Coordinator, group string, topics ...TopicPartitions) *answer[DeleteOffsetsResponse] {
	return ask(func(done func(DeleteOffsetsResponse)) {
		c.DeleteOffsets(&DeleteOffsetsRequest{Group: group, Topics: topics}, done)
	})
}

// reload returns a coordinator that has loaded what is in the log.
func reload(t *testing.T, log Log) *Coordinator {
	t.Helper()
	c := newCoordinator(t, log, nil)
	lead(c)
	return c
}

func groupsOf(t *testing.T, c *Coordinator) []string {
	t.Helper()
	list, err := c.List(nil, nil)
	require.NoError(t, err)
	ids := []string{}
	for _, l := range list {
		ids = append(ids, l.Group)
	}
	return ids
}

func TestDeleteGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, func(c *Config) { c.MaxBatchBytes = 1024 })
		defer c.Close()
		lead(c)
		require.Equal(t, kerr.GroupIDNotFound, deleteGroup(c, "g").get(t))
		member := stabilize(t, c, "g", "t")
		for p := range int32(40) { // tombstones take several batches
			require.NoError(t, ask(func(done func(CommitResponse)) {
				c.Commit(&CommitRequest{Group: "g", MemberID: member, Generation: 1, Retention: -1,
					Offsets: []OffsetCommit{{Topic: "t", Partition: p, Offset: 1}}}, done)
			}).get(t).Err)
		}
		require.Equal(t, kerr.NonEmptyGroup, deleteGroup(c, "g").get(t))
		leave(t, c, "g", member)

		log.fail = func() error { return errDisk }
		require.Equal(t, kerr.NotCoordinator, deleteGroup(c, "g").get(t))
		require.Equal(t, 40, c.Stats().Offsets, "nothing happened")
		log.fail = nil
		again := reload(t, log)
		require.Equal(t, 40, again.Stats().Offsets)
		again.Close()

		// A commit in flight is waited for; what comes later finds a new group.
		log.setHold(true)
		before := commitOne(c, "g", "t", 99, 1)
		del := deleteGroup(c, "g")
		after := commitOne(c, "g", "t", 7, 7)
		join := ask(func(done func(JoinResponse)) { c.Join(joinRequest("g", member, "t"), done) })
		before.waits(t)
		log.release()
		require.NoError(t, before.get(t).Err)
		for after.count() == 0 {
			del.waits(t)
			after.waits(t)
			join.waits(t)
			log.release()
			synctest.Wait()
			if del.count() == 1 {
				log.release()
				synctest.Wait()
			}
		}
		require.NoError(t, del.get(t))
		require.NoError(t, after.get(t).Err)
		require.Equal(t, kerr.UnknownMemberID, join.get(t).Err)
		require.Equal(t, "t-7=7", offsetsOf(t, c, "g"))
		log.setHold(false)
		again = reload(t, log)
		defer again.Close()
		require.Equal(t, "t-7=7", offsetsOf(t, again, "g"))
	})
}

// What comes while a group's tombstone is on its way finds it gone, or as it
// was when the append fails.
func TestDeleteGroupIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, fails := range []bool{false, true} {
			log := newFakeLog()
			c := newCoordinator(t, log, nil)
			lead(c)
			require.NoError(t, commitOne(c, "g", "t", 0, 1).get(t).Err)
			log.setHold(true)
			del := deleteGroup(c, "g")
			join := ask(func(done func(JoinResponse)) { c.Join(joinRequest("g", "", "t"), done) })
			twice := deleteGroup(c, "g")
			commit := commitOne(c, "g", "t", 5, 5)
			join.waits(t)
			log.setHold(false)
			if fails {
				log.fail = func() error {
					log.fail = nil
					return kerr.NotEnoughReplicas
				}
			}
			require.Equal(t, 1, log.release())
			time.Sleep(time.Nanosecond)
			require.NoError(t, join.get(t).Err)
			require.Equal(t, kerr.NonEmptyGroup, twice.get(t))
			require.Equal(t, kerr.UnknownMemberID, commit.get(t).Err)
			if fails {
				require.Equal(t, kerr.CoordinatorNotAvailable, del.get(t))
				require.Equal(t, "t-0=1", offsetsOf(t, c, "g"))
			} else {
				require.NoError(t, del.get(t))
				require.Empty(t, offsetsOf(t, c, "g"))
			}
			c.Close()
		}
	})
}

// An operation alone waits for the writes of those that waited before it.
func TestWaitingKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		for _, appendErr := range []error{kerr.NotEnoughReplicas, nil} {
			require.NoError(t, commitOne(c, "g", "t", 0, 1).get(t).Err)
			log.fail = func() error {
				log.fail = nil
				return appendErr
			}
			log.setHold(true)
			del := deleteGroup(c, "g")
			commit := commitOne(c, "g", "t", 0, 2)
			stable := fetchAll(c, "g", true)
			require.Equal(t, 1, log.release())
			require.Equal(t, appendErr == nil, del.get(t) == nil)
			stable.waits(t)
			require.Equal(t, 1, log.release())
			require.NoError(t, commit.get(t).Err)
			require.EqualValues(t, 2, stable.get(t).Topics[0].Partitions[0].Offset)
			log.setHold(false)
		}
	})
}

func TestDeleteOffsets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		require.Equal(t, kerr.InvalidGroupID, deleteOffsets(c, "").get(t).Err)
		require.Equal(t, kerr.GroupIDNotFound, deleteOffsets(c, "g").get(t).Err)
		require.NoError(t, commitOne(c, "g", "t", 0, 1).get(t).Err)
		require.NoError(t, commitOne(c, "g", "u", 0, 2).get(t).Err)
		require.NoError(t, commitOne(c, "g", "u", 1, 3).get(t).Err)
		stabilize(t, c, "g", "t")
		r := deleteOffsets(c, "g", TopicPartitions{"t", []int32{0}}, TopicPartitions{"u", []int32{1, 5, 1}}).get(t)
		require.Equal(t, DeleteOffsetsResponse{Topics: [][]error{{kerr.GroupSubscribedToTopic}, {nil, nil, nil}}}, r)
		require.Equal(t, "t-0=1 u-0=2", offsetsOf(t, c, "g"))
		log.fail = func() error { return kerr.NotEnoughReplicas }
		require.Equal(t, kerr.CoordinatorNotAvailable, deleteOffsets(c, "g", TopicPartitions{"u", []int32{0}}).get(t).Err)
		log.fail = nil
		require.Equal(t, "t-0=1 u-0=2", offsetsOf(t, c, "g"))
		again := reload(t, log)
		defer again.Close()
		require.Equal(t, "t-0=1 u-0=2", offsetsOf(t, again, "g"))

		// What Connect's workers consume cannot be known.
		connect := joinRequest("connect", "")
		connect.ProtocolType = "connect"
		j := ask(func(done func(JoinResponse)) { c.Join(connect, done) })
		time.Sleep(time.Nanosecond)
		require.NoError(t, j.get(t).Err)
		require.Equal(t, kerr.NonEmptyGroup, deleteOffsets(c, "connect", TopicPartitions{"u", []int32{0}}).get(t).Err)
	})
}

func TestTopicDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		lead(c)
		old, new := record.NewTopicID(), record.NewTopicID()
		commit := func(partition int32, id record.TopicID) {
			t.Helper()
			require.NoError(t, ask(func(done func(CommitResponse)) {
				c.Commit(&CommitRequest{Group: "g", Generation: -1, Retention: -1, Offsets: []OffsetCommit{
					{Topic: "t", TopicID: id, Partition: partition, Offset: 1}, {Topic: "u", TopicID: old, Partition: partition, Offset: 1},
				}}, done)
			}).get(t).Err)
		}
		commit(0, old)
		commit(1, new)
		commit(2, record.TopicID{})
		// Asked by id, an offset of another life of the topic is none.
		byID := func(id record.TopicID) int64 {
			return ask(func(done func(FetchResponse)) {
				c.Fetch(&FetchRequest{Group: "g", Topics: []FetchTopic{{Topic: "t", ID: id, Partitions: []int32{0}}}}, done)
			}).get(t).Topics[0].Partitions[0].Offset
		}
		require.EqualValues(t, 1, byID(old))
		require.EqualValues(t, -1, byID(new))
		c.TopicDeleted(old, "t")
		synctest.Wait()
		want := "t-1=1 u-0=1 u-1=1 u-2=1"
		require.Equal(t, want, offsetsOf(t, c, "g"))
		c.Close()

		log.scanned = make(chan struct{})
		c = newCoordinator(t, log, nil)
		defer c.Close()
		c.Lead(0, 5)
		c.TopicDeleted(old, "u") // while it loads
		close(log.scanned)
		synctest.Wait()
		require.Equal(t, "t-1=1", offsetsOf(t, c, "g"))
	})
}

func TestOffsetsExpire(t *testing.T) {
	const day = 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		require.NoError(t, commitOne(c, "simple", "t", 0, 1).get(t).Err)
		require.NoError(t, commitOne(c, "g", "t", 0, 1).get(t).Err)
		require.NoError(t, commitOne(c, "g", "u", 0, 1).get(t).Err)
		require.NoError(t, ask(func(done func(CommitResponse)) { // OffsetCommit v2-4 with its own retention
			c.Commit(&CommitRequest{Group: "short", Generation: -1, Retention: time.Hour, Offsets: []OffsetCommit{{Topic: "t"}}}, done)
		}).get(t).Err)
		member := stabilize(t, c, "g", "t")
		live := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				time.Sleep(9 * time.Second)
				require.NoError(t, ask(func(done func(error)) {
					c.Heartbeat(&HeartbeatRequest{Group: "g", MemberID: member, Generation: 1}, done)
				}).get(t))
			}
		}
		live(50 * time.Minute)
		require.Equal(t, []string{"g", "short", "simple"}, groupsOf(t, c))
		live(15 * time.Minute)
		require.Equal(t, []string{"g", "simple"}, groupsOf(t, c), "an explicit retention")
		live(7 * day)
		require.Equal(t, []string{"g"}, groupsOf(t, c), "a simple group's offsets age from their commit")
		require.Equal(t, "t-0=1", offsetsOf(t, c, "g"), "and those of a topic that no member subscribes to")
		leave(t, c, "g", member)
		time.Sleep(7*day - time.Minute)
		require.Equal(t, "t-0=1", offsetsOf(t, c, "g"), "a group's offsets age from when it became empty")
		again := reload(t, log)
		defer again.Close()
		require.Equal(t, "t-0=1", offsetsOf(t, again, "g"))
		time.Sleep(11 * time.Minute)
		require.Empty(t, groupsOf(t, c))
		require.Empty(t, groupsOf(t, again), "the clock goes on over a restart")
		third := reload(t, log)
		defer third.Close()
		require.Empty(t, groupsOf(t, third))
	})
}

// While the clock is off, what it says is too old stays.
func TestOffsetsStayWhileTheClockIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		c := newCoordinator(t, log, nil)
		defer c.Close()
		var trusted atomic.Bool
		c.trusted = func(now time.Time) bool { return trusted.Load() && now.Equal(time.Now()) }
		lead(c)
		require.NoError(t, commitOne(c, "simple", "t", 0, 1).get(t).Err)
		time.Sleep(30 * 24 * time.Hour)
		require.Equal(t, []string{"simple"}, groupsOf(t, c))
		trusted.Store(true)
		time.Sleep(11 * time.Minute)
		require.Empty(t, groupsOf(t, c))
	})
}

// A group with an id given out, or offsets of an open transaction, is not
// empty enough to go.
func TestPendingKeepsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		openTxn(log, 7, "txn", "t", 0, 1)
		c := newCoordinator(t, log, nil)
		defer c.Close()
		lead(c)
		req := joinRequest("g", "")
		req.RequireMemberID, req.SessionTimeout = true, 30*time.Minute
		r := ask(func(done func(JoinResponse)) { c.Join(req, done) }).get(t)
		require.Equal(t, kerr.MemberIDRequired, r.Err)
		time.Sleep(29 * time.Minute)
		require.Equal(t, []string{"g", "txn"}, groupsOf(t, c))
		time.Sleep(12 * time.Minute)
		require.Equal(t, []string{"txn"}, groupsOf(t, c))
		time.Sleep(30 * 24 * time.Hour)
		require.Equal(t, []string{"txn"}, groupsOf(t, c))
	})
}
