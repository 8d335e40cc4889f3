package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// clockStage is a cluster whose brokers' clocks can be set, under load. Its topic
// keeps records for half an hour.
type clockStage struct {
	*stage
	clocks map[int32]*clock
}

// halfAnHour is the retention of everything.
const halfAnHour = "1800000"

// stampedTopic is a topic whose records get their time from the broker.
const stampedTopic = "stamped"

// clockIsOff is in the reasons of a cluster's health, of the brokers whose clocks are
// off.
func clockIsOff(b *fleet.Broker) string { return fmt.Sprintf("the clock of broker %d is", b.ID) }

// awaitDoubt waits until all brokers say that a clock is off.
func (s *clockStage) awaitDoubt(wrong *fleet.Broker) {
	s.t.Helper()
	harness.Eventually(s.t, harnessLimit, func() string {
		for _, b := range s.c.Living() {
			var h adminapi.ClusterHealth
			if err := b.GetJSON(s.t.Context(), adminapi.PathClusterHealth, &h); err != nil {
				return err.Error()
			}
			if !strings.Contains(fmt.Sprint(h.Reasons), clockIsOff(wrong)) {
				return fmt.Sprintf("broker %d does not say that the clock of %d is off: %+v", b.ID, wrong.ID, h)
			}
			for _, right := range s.others(wrong) {
				if strings.Contains(fmt.Sprint(h.Reasons), clockIsOff(right)) {
					s.t.Errorf("broker %d doubts the clock of %d, which is right: %+v", b.ID, right.ID, h)
				}
			}
		}
		return ""
	})
}

// leaderEpochs change where a broker loses its lease.
func (s *clockStage) leaderEpochs() (epochs []int32) {
	all := s.c.Partitions(topicName)
	for p := range int32(partitions) {
		epochs = append(epochs, all[p].LeaderEpoch)
	}
	return epochs
}

// keptAll holds that nothing was deleted by time, in the bucket and on the disks.
func (s *clockStage) keptAll() {
	s.t.Helper()
	for _, b := range s.c.Living() {
		var m adminapi.TierMap
		require.NoError(s.t, b.GetJSON(s.t.Context(), adminapi.PathTierMap+"?topic="+topicName, &m))
		for _, p := range m.Partitions {
			require.Zero(s.t, p.LogStart, "broker %d: %s-%d lost its beginning", b.ID, topicName, p.Partition)
		}
		for p := range int32(partitions) {
			require.Zero(s.t, localStart(s.t, b, m.TopicID, p), "the disk of broker %d lost the beginning of %s-%d", b.ID, topicName, p)
		}
	}
}

// stamps holds that all partitions give records the right time.
func (s *clockStage) stamps() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), harnessLimit)
	defer cancel()
	c := s.c.Client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer c.Close()
	for p := range int32(partitions) {
		r, err := c.ProduceSync(ctx, &kgo.Record{Topic: stampedTopic, Partition: p, Value: []byte("now")}).First()
		require.NoError(s.t, err)
		require.WithinDuration(s.t, time.Now(), r.Timestamp, time.Minute, "partition %d", p)
	}
}

// jumps sets a broker's clock wrong, and right again.
func (s *clockStage) jumps(b *fleet.Broker, ahead time.Duration) {
	s.t.Helper()
	before := s.leaderEpochs()
	s.clocks[b.ID].set(ahead)
	s.awaitDoubt(b)
	s.stamps()
	s.progress(300, harnessLimit) // segments are sealed, and retention looks each 200 ms
	s.keptAll()
	require.Equal(s.t, before, s.leaderEpochs(), "a clock took a lease away")
	s.clocks[b.ID].set(0)
}

// wakes pauses a leader beyond its lease, with a clock that says something else about
// how long it was, as a machine does that slept.
func (s *clockStage) wakes(ahead func(slept time.Duration) time.Duration) {
	s.t.Helper()
	b, p := s.leader()
	begin := time.Now()
	s.must(b.Pause())
	s.c.AwaitLeader(topicName, p, harnessLimit, b)
	s.progress(100, harnessLimit)
	s.clocks[b.ID].set(ahead(time.Since(begin)))
	s.must(b.Resume())
	s.progress(100, harnessLimit)
	s.clocks[b.ID].set(0)
	s.keptAll()
}

// TestClocks sets brokers' clocks wrong, at start and under load: leases do not go by
// them, nothing is deleted by them, and whoever looks is told.
func TestClocks(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	program := buildShifted(t)
	// Leaders that go home would look like leases lost.
	c := harness.NewCluster(t, harness.ClusterOptions{Set: settings("auto.leader.rebalance.enable=false")})
	clocks := map[int32]*clock{}
	for _, b := range c.Brokers {
		clocks[b.ID] = newClock(t, b, program)
	}
	// Of those who would begin the cluster, one that is off is sent away.
	off := c.Brokers[1]
	clocks[off.ID].set(time.Hour)
	for _, b := range c.Brokers {
		if b != off {
			require.NoError(t, b.Launch())
		}
	}
	refused(t, off, "clock is off", "1h0m0s ahead of those of nodes 1, 3")
	clocks[off.ID].set(8 * time.Second) // is near enough
	require.NoError(t, off.Launch())
	c.AwaitWhole()
	c.CreateTopic(stampedTopic, partitions, 3, "message.timestamp.type", "LogAppendTime")
	s := &clockStage{stage: &stage{workload: startWorkload(t, c, "retention.ms", halfAnHour, "local.retention.ms", halfAnHour, "local.retention.bytes", "-1"),
		r: random(t)}, clocks: clocks}
	s.awaitTiered()
	clocks[2].set(0)

	// Further off, a broker is not let in, be it new or one that was stopped.
	stopped := c.Brokers[2]
	c.StopBroker(stopped)
	stranger, err := c.Add()
	require.NoError(t, err)
	clocks[stranger.ID] = newClock(t, stranger, program)
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		for _, b := range []*fleet.Broker{stopped, stranger} {
			clocks[b.ID].set(off)
			refused(t, b, "clock is off", "1h0m0s")
		}
	}
	clocks[stopped.ID].set(0)
	c.StartBroker(stopped)
	c.AwaitWhole()
	c.Brokers = c.Brokers[:3]

	const jump = 2 * time.Hour // more than retention, and than records may be ahead of a broker
	n := rounds(1, 4)
	s.endure(n,
		fault{"a leader's clock jumps ahead", soon, func(*stage) { b, _ := s.leader(); s.jumps(b, jump) }},
		fault{"a leader's clock jumps back", soon, func(*stage) { b, _ := s.leader(); s.jumps(b, -jump) }},
		fault{"the controller's clock jumps ahead", soon, func(*stage) { s.jumps(s.c.Controller(), jump) }},
		fault{"the controller's clock jumps back", soon, func(*stage) { s.jumps(s.c.Controller(), -jump) }},
		fault{"a leader sleeps, and its clock does not know", byLease, func(*stage) {
			s.wakes(func(slept time.Duration) time.Duration { return -slept })
		}},
		fault{"a leader sleeps, and its clock says for hours", byLease, func(*stage) {
			s.wakes(func(time.Duration) time.Duration { return jump })
		}})
	s.finish()
	s.keptAll()
	s.verifyTiers(2 * n) // of those that slept
	s.compareDisks()

	// What most clocks say is the time: now it is two hours later.
	for _, c := range clocks {
		c.set(jump)
	}
	s.startAll()
	harness.Eventually(t, harnessLimit, func() string {
		var m adminapi.TierMap
		for _, b := range c.Living() {
			if err := b.GetJSON(t.Context(), adminapi.PathTierMap+"?topic="+topicName, &m); err != nil {
				return err.Error()
			}
			for _, p := range m.Partitions {
				if p.LogStart == 0 {
					return fmt.Sprintf("broker %d: %s-%d is whole", b.ID, topicName, p.Partition)
				}
			}
		}
		return ""
	})
}
