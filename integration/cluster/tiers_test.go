package cluster

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/record"
)

// segmentBases are the first offsets of the segments that a broker's disk has.
func segmentBases(t *testing.T, b *fleet.Broker, topicID string, p int32) (bases []int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.DataDir, topicID, fmt.Sprint(p), "*.log"))
	require.NoError(t, err)
	slices.Sort(files)
	for _, f := range files {
		var base int64
		_, err := fmt.Sscanf(filepath.Base(f), "%d.log", &base)
		require.NoError(t, err)
		bases = append(bases, base)
	}
	return bases
}

// alterTopic sets a config of a topic.
func alterTopic(t *testing.T, c *harness.Cluster, topic, name, value string) {
	t.Helper()
	client := c.Client()
	defer client.Close()
	of, err := kadm.NewClient(client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, topic)
	require.NoError(t, err)
	require.NoError(t, of[0].Err)
}

// TestDeposedUploads stops leaders in the middle of an upload. The object that nobody
// will refer to goes, whether it is in the bucket when the next leader takes over or
// lands there after it was given up for deleted; and the next leader carries on where
// the metadata is, in the middle of its own segment.
func TestDeposedUploads(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c, holders := onHolders(t)
	s := &stage{workload: startWorkload(t, c, "local.retention.bytes", "16777216"), r: random(t)}
	s.awaitTiered()
	id := s.topicID()

	// The next leader of partition 0 gets segments that end elsewhere than its
	// leader's: it is away while larger ones are made.
	parts := c.Partitions(topicName)
	old, next := c.Broker(parts[0].Leader), c.Broker(parts[0].Replicas[1])
	require.Equal(t, old.ID, parts[0].Replicas[0])
	c.KillBroker(next)
	alterTopic(t, c, topicName, "segment.bytes", "1600000")
	harness.Eventually(t, harnessLimit, func() string {
		bases := segmentBases(t, old, id, 0)
		last := slices.Max(bases)
		r := readReplica(t, old, id, 0)
		if have := int64(r.end) - last; have*recordBytes < 1_300_000 {
			return fmt.Sprintf("the last segment has %d records", have)
		}
		return ""
	})
	alterTopic(t, c, topicName, "segment.bytes", "1048576")
	c.StartBroker(next)
	c.AwaitWhole()
	s.electPreferred()
	harness.Eventually(t, harnessLimit, func() string {
		if end, bases := s.remoteEnd(old), segmentBases(t, next, id, 0); slices.Contains(bases, end) || end < bases[0] {
			return fmt.Sprintf("the bucket ends at %d, and the next leader's segments begin at %v", end, bases)
		}
		return ""
	})

	deposed := func(late bool) (key string, u *upload) {
		t.Helper()
		u = holders[old.ID].hold(late)
		key = u.await(t)
		s.must(old.Pause())
		c.AwaitLeader(topicName, 0, harnessLimit, old)
		return key, u
	}
	// In the bucket already, and its leader cannot tell: it goes after its grace.
	from := s.remoteEnd(old)
	key, u := deposed(false)
	<-u.landed
	require.Equal(t, next.ID, c.Leader(topicName, 0).ID)
	harness.Eventually(t, harnessLimit, func() string {
		if _, there := c.Objects()[key]; there {
			return "the deposed leader's object is still in the bucket"
		}
		return ""
	})
	harness.Eventually(t, harnessLimit, func() string {
		if end := s.remoteEnd(next); end < from+1500 { // an object on, whoever made the first
			return fmt.Sprintf("the new leader has copied up to %d, from %d", end, from)
		}
		return ""
	})
	resumed := time.Now()
	s.must(old.Resume())
	u.letGo()
	c.AwaitWhole()
	// The broker led other partitions, too, whose uploads the same pause may have caught
	// in the middle, or between the intent and the first byte.
	mayBeLate := holders[old.ID].during(resumed, time.Now())
	bases, inside := segmentBases(t, next, id, 0), false
	for _, r := range c.TierMap(next, topicName).Partitions[0].Ranges {
		require.NotEqual(t, key, r.Object, "the deposed leader's object is referred to")
		inside = inside || r.InBucket && r.Start >= from && r.Start > bases[0] && !slices.Contains(bases, r.Start)
	}
	require.True(t, inside, "no object of the new leader begins inside one of its segments, which begin at %v", bases)

	// Not there yet, and sent after its deletion was confirmed: one for the listing of
	// orphans, which waits for a day.
	s.electPreferred()
	log := map[int32]int{}
	for _, b := range c.Brokers {
		log[b.ID] = len(logOf(t, b))
	}
	key, u = deposed(true)
	s.awaitSwept(log, old)
	u.letGo()
	<-u.landed
	resumed = time.Now()
	s.must(old.Resume())
	c.AwaitWhole()
	mayBeLate = append(append(mayBeLate, key), holders[old.ID].during(resumed, time.Now())...)
	s.progress(100, harnessLimit)
	require.Contains(t, c.Objects(), key)
	t.Logf("longest pause %v", s.pauses())
	s.finish()
	s.verifyTiersBut(func(extra []string) bool {
		return !slices.ContainsFunc(extra, func(key string) bool { return !slices.Contains(mayBeLate, key) })
	})
	s.compareDisks()
}

// remoteEnd is how far the bucket has the workload's first partition, as its leader
// knows.
func (s *stage) remoteEnd(leader *fleet.Broker) int64 {
	s.t.Helper()
	m := s.c.TierMap(leader, topicName)
	require.EqualValues(s.t, 0, m.Partitions[0].Partition)
	return m.Partitions[0].RemoteEnd
}

// awaitSwept waits until the metadata leader has given an upload up, and has
// confirmed that its object is gone. after is how long the logs were before.
func (s *stage) awaitSwept(after map[int32]int, but *fleet.Broker) {
	s.t.Helper()
	harness.Eventually(s.t, harnessLimit, func() string {
		for _, b := range s.others(but) {
			text := logOf(s.t, b)[after[b.ID]:]
			if at := bytes.Index([]byte(text), []byte("intents_given_up=")); at >= 0 && bytes.Contains([]byte(text[at:]), []byte("objects_deleted=")) {
				return ""
			}
		}
		return "no upload was given up and deleted yet"
	})
}

// The topics of TestTailAlone: of one the disks have little, of the other everything.
const (
	deepTopic, recentTopic = "deep", "recent"
	deepRecord             = 16 << 10
	deepBytes              = 24 << 20
	recentBytes            = 8 << 20
	// tailBytes bounds what the disks have of the deep topic: two segments kept, one
	// that is written, and one on its way.
	tailBytes = 5 << 20
)

// fillTopic writes numbered records into a topic's one partition, slowly enough for
// segments to move.
func fillTopic(t *testing.T, c *harness.Cluster, topic string, size int) (records int) {
	t.Helper()
	client := c.Client(kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DefaultProduceTopic(topic))
	defer client.Close()
	for range size / deepRecord {
		client.Produce(t.Context(), &kgo.Record{Value: deepValue(records)}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Errorf("produce to %s: %v", topic, err)
			}
		})
		records++
	}
	require.NoError(t, client.Flush(t.Context()))
	return records
}

func deepValue(n int) []byte {
	value := bytes.Repeat([]byte{byte(n)}, deepRecord)
	binary.BigEndian.PutUint64(value, uint64(n))
	return value
}

// readAll reads a topic's one partition from its start.
func readAll(t *testing.T, c *harness.Cluster, topic string, records int) {
	t.Helper()
	client := c.Client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	defer client.Close()
	for n := 0; n < records; {
		fetches := client.PollFetches(t.Context())
		require.NoError(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			require.EqualValues(t, n, r.Offset)
			require.True(t, bytes.Equal(deepValue(n), r.Value), "%s at %d", topic, n)
			n++
		})
	}
}

// awaitInBucket waits until all but the tail of a topic is in the bucket, and the
// disks have no more of it than a bound.
func awaitInBucket(t *testing.T, c *harness.Cluster, topic string, disk int64, brokers ...*fleet.Broker) {
	t.Helper()
	id := c.TierMap(c.Leader(topic, 0), topic).TopicID
	harness.Eventually(t, harnessLimit, func() string {
		p := c.Tiers(topic)[0]
		if tail := (p.LogEnd - p.RemoteEnd) * deepRecord; tail > 2<<20 {
			return fmt.Sprintf("%d bytes of %s are not in the bucket", tail, topic)
		}
		for _, b := range brokers {
			if have := onDisk(t, b, id); have > disk {
				return fmt.Sprintf("broker %d has %d bytes of %s on its disk", b.ID, have, topic)
			}
		}
		return ""
	})
}

// TestTailAlone wipes a broker and adds a fourth: both copy the tail of a tiered
// topic, and no more, and can lead all of it then. Of a topic that is in the bucket
// and on the others' disks too, the wiped one is cold: it does not lead while a warm
// one can, though it is the preferred leader.
func TestTailAlone(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c := harness.StartCluster(t, harness.ClusterOptions{Set: settings()})
	topics := map[string]string{deepTopic: "2097152", recentTopic: "1073741824"}
	records := map[string]int{}
	for _, topic := range []string{deepTopic, recentTopic} {
		c.CreateTopic(topic, 1, 3, "remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", topics[topic])
		records[topic] = fillTopic(t, c, topic, map[string]int{deepTopic: deepBytes, recentTopic: recentBytes}[topic])
	}
	// Followers drop what is in the bucket as the leader does.
	awaitInBucket(t, c, deepTopic, tailBytes, c.Brokers...)
	awaitInBucket(t, c, recentTopic, 2*recentBytes, c.Brokers...)
	deepID := c.TierMap(c.Brokers[0], deepTopic).TopicID
	const replicated = "kafka_server_brokertopicmetrics_replicationbytesin_total"

	recent := c.Partitions(recentTopic)[0]
	wiped := c.Broker(recent.Replicas[0])
	c.KillBroker(wiped)
	require.NoError(t, wiped.Wipe())
	c.StartBroker(wiped)
	c.AwaitWhole()
	require.Less(t, onDisk(t, wiped, deepID), int64(tailBytes))
	require.Less(t, c.Metric(wiped, replicated), float64(2*tailBytes), "it copied more than the tails from its peers") // of both topics

	// It is in sync and cold, and so is passed over where it would be next.
	leader := c.Leader(recentTopic, 0)
	require.NotEqual(t, wiped.ID, leader.ID)
	require.Contains(t, c.Partitions(recentTopic)[0].ISR, wiped.ID)
	third := c.Broker(recent.Replicas[1] + recent.Replicas[2] - leader.ID)
	c.KillBroker(leader)
	require.Equal(t, third.ID, c.AwaitLeader(recentTopic, 0, harnessLimit, leader).ID, "the cold replica leads, though a warm one could")
	c.StartBroker(leader)
	c.AwaitWhole()
	readAll(t, c, recentTopic, records[recentTopic])
	// Once the others have let go of what it lacks it is as warm as they are.
	alterTopic(t, c, recentTopic, "local.retention.bytes", "1048576")
	awaitInBucket(t, c, recentTopic, tailBytes, c.Brokers...)
	adm := kadm.NewClient(c.Client())
	harness.Eventually(t, harnessLimit, func() string {
		_, err := adm.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, nil)
		if err != nil {
			return err.Error()
		}
		if l := c.Leader(recentTopic, 0); l != wiped {
			return fmt.Sprintf("broker %d leads, and not the preferred one", l.ID)
		}
		return ""
	})

	// A fourth takes the deep topic over, and leads it.
	four := c.AddBroker()
	old := c.Partitions(deepTopic)[0]
	var move kadm.AlterPartitionAssignmentsReq
	move.Assign(deepTopic, 0, append([]int32{four.ID}, old.Replicas[:2]...))
	moved, err := adm.AlterPartitionAssignments(t.Context(), move)
	require.NoError(t, err)
	require.NoError(t, moved.Error())
	began := time.Now()
	harness.Eventually(t, harnessLimit, func() string {
		p := c.Partitions(deepTopic)[0]
		if len(p.Replicas) != 3 || !slices.Contains(p.ISR, four.ID) {
			return fmt.Sprintf("it is not moved: %+v", p)
		}
		return ""
	})
	t.Logf("moved after %v", time.Since(began).Round(time.Millisecond))
	require.Less(t, onDisk(t, four, deepID), int64(tailBytes))
	require.Less(t, c.Metric(four, replicated), float64(tailBytes), "it copied more than the tail from its peers")
	// The disk begins where the bucket ends, or before it, not at the log's start.
	require.Greater(t, localStart(t, four, deepID, 0), record.Offset((deepBytes-2*tailBytes)/deepRecord))
	harness.Eventually(t, harnessLimit, func() string {
		_, err := adm.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, nil)
		if err != nil {
			return err.Error()
		}
		if l := c.Leader(deepTopic, 0); l != four {
			return fmt.Sprintf("broker %d leads", l.ID)
		}
		return ""
	})
	readAll(t, c, deepTopic, records[deepTopic])
	require.Positive(t, c.Metric(four, "firn_cache_misses_total"), "nothing was read from the bucket")
	for topic := range topics {
		problems, objects := c.TierVerify(four, topic)
		require.Empty(t, problems)
		require.Positive(t, objects)
	}
	c.AwaitWhole()
}
