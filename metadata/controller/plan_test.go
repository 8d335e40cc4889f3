package controller

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// crooked draws a cluster whose partitions lie anyhow.
func crooked(t *rapid.T, racks int) *metadata.Image {
	n := rapid.Int32Range(1, 7).Draw(t, "brokers")
	ed := metadata.Empty().Edit()
	for id := int32(1); id <= n; id++ {
		b := &metadata.Broker{ID: id, Epoch: 1, Rack: fmt.Sprint("r", rapid.IntRange(1, racks).Draw(t, "rack"))}
		b.Fenced = rapid.IntRange(0, 7).Draw(t, "fenced") == 0
		ed.PutBroker(b)
	}
	for topic := range rapid.IntRange(0, 3).Draw(t, "topics") {
		id := record.TopicID{byte(topic + 1)}
		count := rapid.Int32Range(1, 20).Draw(t, "partitions")
		factor := rapid.Int32Range(1, min(n, 4)).Draw(t, "factor")
		ed.PutTopic(&metadata.Topic{ID: id, Name: fmt.Sprint("t", topic), Partitions: count, Internal: topic == 0})
		all := make([]int32, n)
		for i := range all {
			all[i] = int32(i) + 1
		}
		for p := range count {
			replicas := rapid.Permutation(all).Draw(t, "replicas")[:factor]
			isr := slices.Clone(replicas[rapid.Int32Range(0, factor-1).Draw(t, "lagging"):])
			ed.PutPartition(record.TopicPartition{Topic: id, Partition: p}, &metadata.Partition{Replicas: replicas, ISR: isr, Leader: isr[0], LastKnownLeader: -1, RemoteEpoch: -1})
		}
	}
	img, _ := ed.Commit(1)
	return img
}

// moved is the image after reassignments were completed.
func moved(img *metadata.Image, items []command.Reassignment) *metadata.Image {
	ed := img.Edit()
	for _, it := range items {
		p := *img.Partition(it.Partition)
		p.Replicas, p.ISR, p.Leader = it.Replicas, it.Replicas, it.Replicas[0]
		ed.PutPartition(it.Partition, &p)
	}
	next, _ := ed.Commit(img.Index() + 1)
	return next
}

// crowding counts the pairs of a partition's replicas that share a rack.
func crowding(img *metadata.Image, replicas []int32) int {
	n := 0
	for i, a := range replicas {
		for _, b := range replicas[i+1:] {
			if img.Broker(a).Rack == img.Broker(b).Rack {
				n++
			}
		}
	}
	return n
}

// copies is how many replicas items make that were not there.
func copies(img *metadata.Image, items []command.Reassignment) int {
	n := 0
	for _, it := range items {
		for _, id := range it.Replicas {
			if !img.Partition(it.Partition).HasReplica(id) {
				n++
			}
		}
	}
	return n
}

func spreadOf(count map[int32]int) int {
	lo, hi := 1<<30, 0
	for _, n := range count {
		lo, hi = min(lo, n), max(hi, n)
	}
	return hi - lo
}

func checkItems(t *rapid.T, img *metadata.Image, items []command.Reassignment) {
	seen := map[record.TopicPartition]bool{}
	for _, it := range items {
		require.False(t, seen[it.Partition])
		seen[it.Partition] = true
		require.Len(t, it.Replicas, len(img.Partition(it.Partition).Replicas))
		for i, id := range it.Replicas {
			require.False(t, slices.Contains(it.Replicas[:i], id))
			require.True(t, img.Partition(it.Partition).HasReplica(id) || img.Broker(id).Eligible(), "moved to a broker that is not active")
		}
	}
}

// TestPlanDrain: every replica of the broker goes, one copy for each, nothing else
// moves, and no partition is more crowded than it has to be.
func TestPlanDrain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := crooked(t, rapid.IntRange(1, 4).Draw(t, "racks"))
		broker := rapid.Int32Range(1, 7).Draw(t, "drained")
		items, err := PlanDrain(img, broker)
		brokers := newTally(img, broker).brokers()
		had, stuck := 0, false
		for _, p := range img.AllPartitions() {
			if p.HasReplica(broker) {
				had++
				stuck = stuck || !slices.ContainsFunc(brokers, func(id int32) bool { return !p.HasReplica(id) })
			}
		}
		require.Equal(t, stuck, err != nil)
		if err != nil {
			require.ErrorIs(t, err, ErrReplicationFactor)
			require.Regexp(t, `^\S+-\d+ has (1 replica|\d replicas), and without broker \d (no broker is|only 1 broker is|only \d brokers are) up: add a broker, or`, err.Error())
			return
		}
		checkItems(t, img, items)
		require.Len(t, items, had)
		require.Equal(t, had, copies(img, items))
		for _, it := range items {
			require.NotContains(t, it.Replicas, broker)
			old := img.Partition(it.Partition).Replicas
			best := 1 << 30
			for b := range img.Brokers() {
				if b.Eligible() && b.ID != broker && !slices.Contains(old, b.ID) {
					best = min(best, crowding(img, append(remaining(old, broker), b.ID)))
				}
			}
			require.Equal(t, best, crowding(img, it.Replicas), "%v instead of %v", it.Replicas, old)
		}
	})
}

// TestPlanDrainIsEven: what a drained broker had is spread over the others.
func TestPlanDrainIsEven(t *testing.T) {
	img := placed(t, 60, 3, "", "", "", "", "")
	items, err := PlanDrain(img, 2)
	require.NoError(t, err)
	after := newTally(moved(img, items), 2)
	require.LessOrEqual(t, spreadOf(after.replicas), 1, "%v", after.replicas)
	require.LessOrEqual(t, spreadOf(after.leaders), 2, "%v", after.leaders)
}

// placed is a cluster with a topic as Place puts it.
func placed(t require.TestingT, partitions int32, factor int16, racks ...string) *metadata.Image {
	img := image(racks...)
	by, err := Place(img, 0, partitions, factor)
	require.NoError(t, err)
	ed := img.Edit()
	id := record.TopicID{9}
	ed.PutTopic(&metadata.Topic{ID: id, Name: "t", Partitions: partitions})
	for i, replicas := range by {
		ed.PutPartition(record.TopicPartition{Topic: id, Partition: int32(i)}, &metadata.Partition{Replicas: replicas, ISR: replicas, Leader: replicas[0], LastKnownLeader: -1})
	}
	img, _ = ed.Commit(2)
	return img
}

// TestPlanRebalance: even afterwards as far as the racks let it, with nothing left to
// do, and in one rack with as few copies as there can be.
func TestPlanRebalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		racks := rapid.IntRange(1, 3).Draw(t, "racks")
		img := crooked(t, racks)
		items := PlanRebalance(img, nil)
		checkItems(t, img, items)
		after := moved(img, items)
		require.Empty(t, PlanRebalance(after, nil), "a second plan has more to do")
		before, then := newTally(img), newTally(after)
		if len(then.replicas) == 0 {
			return
		}
		for tp, p := range after.AllPartitions() {
			require.LessOrEqual(t, crowding(img, p.Replicas), crowding(img, img.Partition(tp).Replicas))
		}
		if racks > 1 {
			return
		}
		// With one factor and nobody missing, brokers whose leaderships cannot go
		// elsewhere have all replicas of what they lead, and so no more than their share.
		factors := map[int]bool{}
		for _, p := range img.AllPartitions() {
			factors[len(p.Replicas)] = true
		}
		if len(factors) == 1 && len(then.replicas) == len(slices.Collect(img.Brokers())) {
			require.LessOrEqual(t, spreadOf(then.leaders), 2, "leaderships %v became %v", before.leaders, then.leaders)
		}
		// A replica can always go to a broker with two fewer: of the partitions that
		// the first has, at least one is not on the second.
		require.LessOrEqual(t, spreadOf(then.replicas), 1, "%v", then.replicas)
		total := 0
		for _, n := range before.replicas {
			total += n
		}
		floor, over, more := total/len(before.replicas), 0, 0
		for _, n := range before.replicas {
			over += max(n-floor-1, 0)
			more += max(floor-n, 0)
		}
		require.Equal(t, max(over, more), copies(img, items), "%v", before.replicas)
	})
}

// TestPlanRebalanceFillsANewBroker: a fourth broker takes a quarter, of the
// partitions with the least to copy.
func TestPlanRebalanceFillsANewBroker(t *testing.T) {
	img := placed(t, 40, 3, "", "", "")
	ed := img.Edit()
	ed.PutBroker(&metadata.Broker{ID: 4, Epoch: 1})
	img, _ = ed.Commit(3)
	items := PlanRebalance(img, func(tp record.TopicPartition) int64 { return int64(tp.Partition) })
	require.Equal(t, 30, copies(img, items))
	after := moved(img, items)
	tally := newTally(after)
	require.Equal(t, map[int32]int{1: 30, 2: 30, 3: 30, 4: 30}, tally.replicas)
	require.Equal(t, map[int32]int{1: 10, 2: 10, 3: 10, 4: 10}, tally.leaders)
	for tp, p := range after.AllPartitions() {
		require.Equal(t, tp.Partition < 30, p.HasReplica(4), "partition %d", tp.Partition)
	}
}

// TestPlanRebalanceMendsRacks: partitions with two replicas in a rack get one in
// another.
func TestPlanRebalanceMendsRacks(t *testing.T) {
	img := placed(t, 12, 2, "a", "a", "b", "b")
	ed := img.Edit()
	for tp, p := range img.AllPartitions() {
		next := *p
		next.Replicas = []int32{1, 2}
		if tp.Partition%2 == 1 {
			next.Replicas = []int32{4, 3}
		}
		next.ISR, next.Leader = next.Replicas, next.Replicas[0]
		ed.PutPartition(tp, &next)
	}
	img, _ = ed.Commit(3)
	after := moved(img, PlanRebalance(img, nil))
	for _, p := range after.AllPartitions() {
		require.Zero(t, crowding(img, p.Replicas), "%v", p.Replicas)
	}
	require.LessOrEqual(t, spreadOf(newTally(after).replicas), 1)
}

// TestPlanBalance: only brokers that lack more than their share, only where the
// preferred replica can lead.
func TestPlanBalance(t *testing.T) {
	img := placed(t, 30, 3, "", "", "")
	ed := img.Edit()
	led, lagging := 0, 0
	for tp, p := range img.AllPartitions() {
		next := *p
		switch {
		case p.Replicas[0] == 1: // lacks all of its ten, four of them for good
			next.Leader = p.Replicas[1]
			if led++; led > 6 {
				next.ISR = p.Replicas[1:]
				lagging++
			}
		case p.Replicas[0] == 2 && tp.Partition < 3: // lacks one
			next.Leader = p.Replicas[1]
		}
		ed.PutPartition(tp, &next)
	}
	img, _ = ed.Commit(3)
	got := PlanBalance(img, 10)
	require.Len(t, got, 6)
	for _, e := range got {
		require.Equal(t, int32(1), img.Partition(e.Partition).Replicas[0])
	}
	require.Len(t, PlanBalance(img, 0), 7)
	require.Empty(t, PlanBalance(img, 100))
	require.Equal(t, 4, lagging)
}

// TestPlansMindWarmth: a leadership does not go back to a cold replica while a warm one
// leads, and a drain prefers none.
func TestPlansMindWarmth(t *testing.T) {
	img := placed(t, 3, 3, "", "", "")
	tp := record.TopicPartition{}
	for at, p := range img.AllPartitions() {
		if p.Replicas[0] == 1 {
			tp = at
		}
	}
	with := func(leader int32, cold ...int32) *metadata.Image {
		ed := img.Edit()
		p := *img.Partition(tp)
		p.Leader, p.Cold = leader, cold
		ed.PutPartition(tp, &p)
		next, _ := ed.Commit(3)
		return next
	}
	second, third := img.Partition(tp).Replicas[1], img.Partition(tp).Replicas[2]
	require.Len(t, PlanBalance(with(second), 10), 1)
	require.Empty(t, PlanBalance(with(second, 1), 10))
	require.Len(t, PlanBalance(with(second, 1, second), 10), 1, "one is as good as the other")
	require.Len(t, PlanBalance(with(second, second), 10), 1)

	ed := with(1, second).Edit()
	ed.PutBroker(&metadata.Broker{ID: 4, Epoch: 1})
	four, _ := ed.Commit(4)
	for _, c := range []struct {
		cold []int32
		want int32
	}{{nil, second}, {[]int32{second}, third}, {[]int32{third}, second}, {[]int32{second, third}, second}} {
		ed := four.Edit()
		p := *four.Partition(tp)
		p.Cold = c.cold
		ed.PutPartition(tp, &p)
		next, _ := ed.Commit(5)
		items, err := PlanDrain(next, 1)
		require.NoError(t, err)
		at := slices.IndexFunc(items, func(it command.Reassignment) bool { return it.Partition == tp })
		require.Equal(t, c.want, items[at].Replicas[0], "%v are cold", c.cold)
	}
}

// TestPlanGrowth: internal topics alone, as far as there are brokers, never fewer.
func TestPlanGrowth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := crooked(t, 2)
		items := PlanGrowth(img, 3)
		active := len(newTally(img).replicas)
		planned := map[record.TopicPartition]bool{}
		for _, it := range items {
			planned[it.Partition] = true
			old := img.Partition(it.Partition)
			require.True(t, img.Topic(it.Partition.Topic).Internal)
			require.Greater(t, len(it.Replicas), len(old.Replicas))
			require.LessOrEqual(t, len(it.Replicas), 3)
			for _, id := range old.Replicas {
				require.Contains(t, it.Replicas, id)
			}
		}
		for tp, p := range img.AllPartitions() {
			if img.Topic(tp.Topic).Internal && len(p.Replicas) < min(3, active) {
				spare := 0
				for b := range img.Brokers() {
					if b.Eligible() && !p.HasReplica(b.ID) {
						spare++
					}
				}
				require.Equal(t, spare > 0, planned[tp])
			}
		}
	})
}
