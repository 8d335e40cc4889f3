package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// brokersAt are the registered brokers as one of them sees them.
func (s *stage) brokersAt(b *fleet.Broker) map[int32]adminapi.ClusterBroker {
	s.t.Helper()
	var list adminapi.ClusterBrokers
	s.must(b.GetJSON(s.t.Context(), adminapi.PathClusterBrokers, &list))
	all := map[int32]adminapi.ClusterBroker{}
	for _, x := range list.Brokers {
		all[x.ID] = x
	}
	return all
}

// awaitBroker waits until a broker's state, as another sees it, is right.
func (s *stage) awaitBroker(at *fleet.Broker, id int32, what string, right func(adminapi.ClusterBroker) bool) {
	s.t.Helper()
	harness.Eventually(s.t, harnessLimit, func() string {
		if b := s.brokersAt(at)[id]; !right(b) {
			return fmt.Sprintf("broker %d is not %s: %+v", id, what, b)
		}
		return ""
	})
}

// awaitVoters waits until exactly these brokers vote on the metadata, as all who
// live see it, and nobody else is known.
func (s *stage) awaitVoters(n int, of ...int32) {
	s.t.Helper()
	harness.Eventually(s.t, harnessLimit, func() string {
		for _, at := range s.c.Living() {
			all := s.brokersAt(at)
			if known := slices.Sorted(maps.Keys(all)); !slices.Equal(known, of) {
				return fmt.Sprintf("broker %d knows %v, and not %v", at.ID, known, of)
			}
			voters := 0
			for _, b := range all {
				if b.Voter {
					voters++
				}
			}
			if voters != n {
				return fmt.Sprintf("broker %d sees %d voters", at.ID, voters)
			}
		}
		return ""
	})
	// Raft's own list has no other voter than these: one that nobody is registered
	// under would show here.
	req := kmsg.NewPtrDescribeQuorumRequest()
	topic, part := kmsg.NewDescribeQuorumRequestTopic(), kmsg.NewDescribeQuorumRequestTopicPartition()
	topic.Topic, topic.Partitions = "__cluster_metadata", append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(s.t.Context(), s.c.Client())
	s.must(err)
	s.must(kerr.ErrorForCode(resp.ErrorCode))
	require.Len(s.t, resp.Topics[0].Partitions[0].CurrentVoters, n)
	for _, v := range resp.Topics[0].Partitions[0].CurrentVoters {
		require.Contains(s.t, of, v.ReplicaID)
	}
}

// replicasOf counts the workload's replicas by broker.
func (s *stage) replicasOf() map[int32]int {
	s.t.Helper()
	n := map[int32]int{}
	for _, p := range s.c.Partitions(topicName) {
		for _, id := range p.Replicas {
			n[id]++
		}
	}
	return n
}

// electPreferred does at once what the cluster does every five minutes, and waits
// until each partition is led by its first replica.
func (s *stage) electPreferred() {
	s.t.Helper()
	adm := kadm.NewClient(s.c.Client())
	harness.Eventually(s.t, harnessLimit, func() string {
		ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
		defer cancel()
		if _, err := adm.ElectLeaders(ctx, kadm.ElectPreferredReplica, nil); err != nil { // of all partitions
			return err.Error()
		}
		h, err := s.c.Health(ctx)
		switch {
		case err != nil:
			return err.Error()
		case h.NotPreferred > 0:
			return fmt.Sprintf("%d partitions are not led by their first replica", h.NotPreferred)
		}
		return ""
	})
}

// refusedTo holds that a command does nothing and says why.
func (s *stage) refusedTo(at *fleet.Broker, why []string, args ...string) {
	s.t.Helper()
	o := s.c.Firn(at, args...)
	require.Equal(s.t, 1, o.Code, "firn %v: %s%s", args, o.Stdout, o.Stderr)
	for _, text := range why {
		require.Contains(s.t, o.Stderr, text, "firn %v", args)
	}
}

// noPause holds that clients saw none of what an operator did.
func (s *stage) noPause(what string) {
	s.t.Helper()
	s.progress(50, harnessLimit)
	pause := s.pauses()
	s.t.Logf("%s: longest pause %v", what, pause.Round(time.Millisecond))
	require.LessOrEqual(s.t, pause, soon, what)
}

// TestOperatorMoves is the life of a cluster in an operator's hands, under load: a
// fourth broker takes its share, a living broker is drained and retired, and comes
// back; a dead one is drained and forgotten.
func TestOperatorMoves(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c := harness.StartCluster(t, harness.ClusterOptions{Set: settings()})
	s := &stage{workload: startWorkload(t, c), r: random(t)}
	s.awaitTiered()
	one, two := c.Brokers[0], c.Brokers[1]

	// The fourth takes its share: the plan first, which changes nothing.
	four := c.AddBroker()
	before := s.replicasOf()
	require.Zero(t, before[four.ID])
	plan := c.MustFirn(one, "cluster", "rebalance", "--dry-run")
	require.Regexp(t, `TOPIC\s+PARTITION\s+FROM\s+TO`, plan)
	require.Contains(t, plan, topicName)
	require.Equal(t, before, s.replicasOf(), "a dry run moved something")
	moves := strings.Count(strings.TrimSpace(plan), "\n")
	require.Contains(t, c.MustFirn(one, "cluster", "rebalance", "--yes"), fmt.Sprintf("moved %d partition", moves))
	s.electPreferred()
	var replicas, leads []int
	for _, b := range s.brokersAt(one) {
		replicas, leads = append(replicas, b.Replicas), append(leads, b.Leaders)
	}
	require.LessOrEqual(t, slices.Max(replicas)-slices.Min(replicas), 1, "replicas by broker: %v", replicas)
	require.LessOrEqual(t, slices.Max(leads)-slices.Min(leads), 1, "leaders by broker: %v", leads)
	require.Contains(t, c.MustFirn(one, "cluster", "rebalance"), "nothing to move")
	s.noPause("a fourth broker and a rebalance")

	// A living broker is retired.
	s.refusedTo(one, []string{"broker 2 is up: stop it first"}, "cluster", "decommission", "2", "--yes")
	require.Contains(t, c.MustFirn(one, "cluster", "drain", "2", "--yes"), "moved ")
	s.awaitBroker(one, 2, "drained", func(b adminapi.ClusterBroker) bool { return b.Replicas == 0 })
	s.refusedTo(one, []string{"broker 2 is up: stop it first"}, "cluster", "decommission", "2", "--yes")
	s.noPause("a drain")
	harness.Eventually(t, harnessLimit, func() string { return left(t, two, s.topicID()) })
	c.StopBroker(two)
	s.awaitBroker(one, 2, "fenced", func(b adminapi.ClusterBroker) bool { return b.State == adminapi.BrokerFenced })
	require.Contains(t, c.MustFirn(one, "cluster", "decommission", "2", "--yes"), "broker 2 is forgotten")
	s.refusedTo(one, []string{"broker 2 is not registered"}, "cluster", "decommission", "2", "--yes")
	s.refusedTo(one, []string{"broker 2"}, "cluster", "drain", "2", "--yes")
	require.NotRegexp(t, `(?m)^\s*2\s+up`, c.MustFirn(one, "cluster", "brokers"))
	s.awaitVoters(3, 1, 3, 4)
	described := kmsg.NewPtrDescribeClusterRequest()
	described.IncludeFencedBrokers = true
	cluster, err := described.RequestWith(t.Context(), c.Client())
	require.NoError(t, err)
	require.NoError(t, kerr.ErrorForCode(cluster.ErrorCode))
	require.Len(t, cluster.Brokers, 3)
	for _, b := range cluster.Brokers {
		require.NotEqual(t, two.ID, b.NodeID)
		require.False(t, b.IsFenced)
	}
	s.noPause("a decommission")

	// The retired broker comes back with its disk, as a Kafka broker that was
	// unregistered does: it registers anew, with nothing.
	c.StartBroker(two)
	c.AwaitWhole()
	s.awaitVoters(3, 1, 2, 3, 4)
	s.awaitBroker(one, 2, "up and empty", func(b adminapi.ClusterBroker) bool { return b.State == adminapi.BrokerUp && b.Replicas == 0 })
	s.noPause("the return of a retired broker")

	// It takes its share again, and dies for good, and its disk with it.
	c.MustFirn(one, "cluster", "rebalance", "--yes")
	c.KillBroker(two)
	require.NoError(t, two.Wipe())
	s.awaitBroker(one, 2, "fenced", func(b adminapi.ClusterBroker) bool { return b.State == adminapi.BrokerFenced && b.Replicas > 0 })
	s.refusedTo(one, []string{"broker 2 has ", "drain"}, "cluster", "decommission", "2", "--yes")
	require.Contains(t, c.MustFirn(one, "cluster", "drain", "2", "--yes"), "moved ")
	require.Contains(t, c.MustFirn(one, "cluster", "decommission", "2", "--yes"), "broker 2 is forgotten")
	s.awaitVoters(3, 1, 3, 4)
	c.AwaitWhole()
	s.noPause("a dead broker that is drained and forgotten")
	s.finish()
	s.verifyTiers(0)
	s.compareDisks()
}

// left says what a broker's disk still has of a topic that is not its any more.
func left(t *testing.T, b *fleet.Broker, topicID string) string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(b.DataDir, topicID, "*", "*.log"))
	require.NoError(t, err)
	if len(logs) > 0 {
		return fmt.Sprintf("broker %d still has %v", b.ID, logs)
	}
	return ""
}

// TestMovesUnderFaults drains a broker while another is killed, and calls moves off
// in their middle.
func TestMovesUnderFaults(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c := harness.StartCluster(t, harness.ClusterOptions{Brokers: 4, Set: settings()})
	s := &stage{workload: startWorkload(t, c), r: random(t)}
	s.awaitTiered()
	four := c.Brokers[3]
	if s.replicasOf()[four.ID] == 0 {
		c.MustFirn(c.Brokers[0], "cluster", "rebalance", "--yes")
	}

	// The broker that is killed is to take some of what is drained.
	plan := s.movePlan(c.Brokers[0], adminapi.PathClusterPlan+"?kind="+adminapi.PlanDrain+"&broker=4")
	require.NotEmpty(t, plan.Moves)
	killed := c.Broker(taker(plan.Moves[0]))
	at := s.others(killed)[0]
	c.MustFirn(at, "cluster", "drain", "4", "--yes", "--no-wait")
	c.KillBroker(killed)
	s.progress(100, harnessLimit)
	c.StartBroker(killed)
	s.awaitBroker(at, 4, "drained", func(b adminapi.ClusterBroker) bool { return b.Replicas == 0 })
	c.AwaitWhole()
	pause := s.pauses()
	t.Logf("a drain while broker %d is killed: longest pause %v", killed.ID, pause)
	require.LessOrEqual(t, pause, soon)

	s.cancelMove(four)
	s.finish()
	s.verifyTiers(0)
	s.compareDisks()
}

// movePlan asks for a plan.
func (s *stage) movePlan(at *fleet.Broker, path string) adminapi.MovePlan {
	s.t.Helper()
	var plan adminapi.MovePlan
	s.must(at.GetJSON(s.t.Context(), path, &plan))
	return plan
}

// taker is who gets a new replica by a move.
func taker(m adminapi.Move) int32 {
	for _, id := range m.To {
		if !slices.Contains(m.From, id) {
			return id
		}
	}
	return -1
}

// cancelMove calls a move to a broker off that cannot end, since the broker is
// paused: everything is as before, and nothing is left on the broker.
func (s *stage) cancelMove(to *fleet.Broker) {
	s.t.Helper()
	at := s.others(to)[0]
	old := s.c.Partitions(topicName)[0].Replicas
	target := append([]int32{to.ID}, old[1:]...)
	args := []string{"topic", "reassign", topicName, "--partition", "0"}
	move := append(slices.Clone(args), "--replicas", commas(target), "--yes", "--no-wait")
	s.must(to.Pause())
	s.awaitBroker(at, to.ID, "fenced", func(b adminapi.ClusterBroker) bool { return b.State == adminapi.BrokerFenced })
	s.c.MustFirn(at, move...)
	s.progress(50, harnessLimit)
	awaitReplicas(s.t, s.c, topicName, append([]int32{to.ID}, old...)) // both the old and the new ones
	require.NotContains(s.t, s.c.Partitions(topicName)[0].ISR, to.ID)
	require.Contains(s.t, s.c.MustFirn(at, append(args, "--cancel")...), "called off")
	// Those that were to go come last then, as with Kafka.
	awaitReplicas(s.t, s.c, topicName, old)
	s.must(to.Resume())
	s.c.AwaitWhole()
	awaitReplicas(s.t, s.c, topicName, old)
	harness.Eventually(s.t, harnessLimit, func() string { return left(s.t, to, s.topicID()) })
	// What was called off can be asked for again.
	s.c.MustFirn(at, "topic", "reassign", topicName, "--partition", "0", "--replicas", commas(target), "--yes")
	awaitReplicas(s.t, s.c, topicName, target)
	s.noPause("a move that was called off, and made later")
}

// awaitReplicas waits until a topic's first partition has these replicas, in any
// order, whoever is asked.
func awaitReplicas(t *testing.T, c *harness.Cluster, topic string, want []int32) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	harness.Eventually(t, harnessLimit, func() string {
		if have := c.Partitions(topic)[0].Replicas; !slices.Equal(want, slices.Sorted(slices.Values(have))) {
			return fmt.Sprintf("the replicas are %v, and not %v", have, want)
		}
		return ""
	})
}

func commas(ids []int32) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = fmt.Sprint(id)
	}
	return strings.Join(words, ",")
}

// The throttled topic: what a new replica has to copy takes some seconds at the
// throttle's rate, and none without it.
const (
	throttledTopic  = "bulk"
	throttledBytes  = 12 << 20
	throttledRate   = 3 << 20 // bytes a second
	throttledRecord = 32 << 10
)

// TestThrottledMoves moves a replica as kafka-reassign-partitions does with
// --throttle, held by the leader's throttle and by the follower's, and called off in
// the middle; and without a throttle.
func TestThrottledMoves(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c := harness.StartCluster(t, harness.ClusterOptions{Brokers: 4, Set: settings()})
	c.CreateTopic(throttledTopic, 1, 3)
	client := c.Client(kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	value := make([]byte, throttledRecord)
	for range throttledBytes / throttledRecord {
		client.Produce(t.Context(), &kgo.Record{Topic: throttledTopic, Value: value}, func(_ *kgo.Record, err error) { require.NoError(t, err) })
	}
	require.NoError(t, client.Flush(t.Context()))
	adm := kadm.NewClient(client)

	// move gives the one partition another replica in the place of its last, and
	// returns the old and the new one.
	move := func() (from, to int32) {
		t.Helper()
		p := c.Partitions(throttledTopic)[0]
		for _, b := range c.Brokers {
			if !slices.Contains(p.Replicas, b.ID) {
				to = b.ID
			}
		}
		from = p.Replicas[2]
		var req kadm.AlterPartitionAssignmentsReq
		req.Assign(throttledTopic, 0, append(slices.Clone(p.Replicas[:2]), to))
		responses, err := adm.AlterPartitionAssignments(t.Context(), req)
		require.NoError(t, errors.Join(err, responses.Error()))
		return from, to
	}
	next := func() (to int32) { // who move would choose
		p := c.Partitions(throttledTopic)[0]
		for _, b := range c.Brokers {
			if !slices.Contains(p.Replicas, b.ID) {
				to = b.ID
			}
		}
		return to
	}
	await := func(from, to int32) {
		t.Helper()
		harness.Eventually(t, harnessLimit, func() string {
			if p := c.Partitions(throttledTopic)[0]; slices.Contains(p.Replicas, from) || !slices.Contains(p.ISR, to) || len(p.ISR) != 3 {
				return fmt.Sprintf("it still moves from %d to %d: %+v", from, to, p)
			}
			return ""
		})
	}
	alter := func(op kadm.IncrementalOp, side, replicas string) {
		t.Helper()
		rate := fmt.Sprint(throttledRate)
		of, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: op, Name: side + ".replication.throttled.replicas", Value: &replicas}}, throttledTopic)
		require.NoError(t, err)
		require.NoError(t, of[0].Err)
		brokers, err := adm.AlterBrokerConfigs(t.Context(), []kadm.AlterConfig{{Op: op, Name: side + ".replication.throttled.rate", Value: &rate}}, 1, 2, 3, 4)
		require.NoError(t, err)
		for _, b := range brokers {
			require.NoError(t, b.Err)
		}
	}
	// A throttle lets a second's worth pass at once, and the rest at its rate.
	const due = time.Duration(throttledBytes-throttledRate) * time.Second / throttledRate
	for _, side := range []string{"leader", "follower"} {
		to := next()
		var who []string
		for _, id := range c.Partitions(throttledTopic)[0].Replicas {
			who = append(who, fmt.Sprintf("0:%d", id))
		}
		if side == "follower" {
			who = []string{fmt.Sprintf("0:%d", to)}
		}
		alter(kadm.SetConfig, side, strings.Join(who, ","))
		began := time.Now()
		from, moved := move()
		require.Equal(t, to, moved)
		// Those in sync are not held up by it: what is written meanwhile is acked.
		require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: throttledTopic, Value: value[:100]}).FirstErr())
		require.Less(t, time.Since(began), due, "a produce waited for a throttled replica")
		await(from, to)
		took := time.Since(began)
		t.Logf("%d MB by the %s's throttle of %d MB/s: %v, due are %v", throttledBytes>>20, side, throttledRate>>20, took.Round(time.Millisecond), due)
		require.Greater(t, took, due/2, "the throttle of the %s does not hold", side)
		require.Less(t, took, 3*due+5*time.Second, "the throttle of the %s holds too much", side)
		alter(kadm.DeleteConfig, side, "")
	}

	// Called off in the middle: the copy is dropped.
	alter(kadm.SetConfig, "leader", "*")
	old := c.Partitions(throttledTopic)[0].Replicas
	_, to := move()
	var m adminapi.TierMap
	require.NoError(t, c.Broker(old[0]).GetJSON(t.Context(), adminapi.PathTierMap+"?topic="+throttledTopic, &m))
	harness.Eventually(t, harnessLimit, func() string {
		if size := onDisk(t, c.Broker(to), m.TopicID); size == 0 {
			return "nothing was copied yet"
		}
		return ""
	})
	require.NotContains(t, c.Partitions(throttledTopic)[0].ISR, to, "it was over before it could be called off")
	var cancel kadm.AlterPartitionAssignmentsReq
	cancel.CancelAssign(throttledTopic, 0)
	responses, err := adm.AlterPartitionAssignments(t.Context(), cancel)
	require.NoError(t, errors.Join(err, responses.Error()))
	awaitReplicas(t, c, throttledTopic, old)
	harness.Eventually(t, harnessLimit, func() string { return left(t, c.Broker(to), m.TopicID) })
	alter(kadm.DeleteConfig, "leader", "")

	// Without a throttle it does not take any such time, each time, however busy the
	// machine is.
	best := time.Duration(math.MaxInt64)
	for tries := 0; tries < 6 && best >= due/2; tries++ {
		began := time.Now()
		await(move())
		best = min(best, time.Since(began))
		t.Logf("without a throttle: %v", best.Round(time.Millisecond))
	}
	require.Less(t, best, due/2, "the throttle was taken back")
	c.AwaitWhole()
}

// onDisk are the bytes of log segments that a broker's disk has of a topic.
func onDisk(t *testing.T, b *fleet.Broker, topicID string) (size int64) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(b.DataDir, topicID, "*", "*.log"))
	require.NoError(t, err)
	for _, path := range logs {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // trimmed meanwhile
		}
		require.NoError(t, err)
		size += info.Size()
	}
	return size
}
