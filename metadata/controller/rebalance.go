package controller

import (
	"cmp"
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// Loads say how many bytes of a partition would have to be copied to move a replica
// of it: the local tail. Nil counts each partition as one.
type Loads func(record.TopicPartition) int64

// PlanRebalance returns the reassignments that even a cluster out: no active broker
// has more replicas, or preferred leaderships, than another but for one, as far as
// the racks allow it, and no partition has two replicas in a rack while another
// rack has none of it. It moves as few replicas as that takes, of the partitions with
// the least to copy, and evens leaderships out by order alone, which copies nothing.
// Replicas on brokers that are not active stay (PlanDrain moves those), and
// partitions with a reassignment under way are left alone.
func PlanRebalance(img *metadata.Image, loads Loads) []command.Reassignment {
	if loads == nil {
		loads = func(record.TopicPartition) int64 { return 1 }
	}
	r := &rebalance{tally: newTally(img), targets: map[record.TopicPartition][]int32{}}
	for tp, p := range img.AllPartitions() {
		if p.Reassigning() {
			continue
		}
		r.order = append(r.order, tp)
		r.targets[tp] = p.Replicas
	}
	if len(r.replicas) == 0 {
		return nil
	}
	byLoad := make(map[record.TopicPartition]int64, len(r.order))
	for _, tp := range r.order {
		byLoad[tp] = loads(tp)
	}
	r.cheapest = slices.Clone(r.order)
	slices.SortStableFunc(r.cheapest, func(a, b record.TopicPartition) int { return cmp.Compare(byLoad[a], byLoad[b]) })
	r.mendRacks()
	for r.moveOne() {
	}
	for r.passLeadership() {
	}
	var out []command.Reassignment
	for _, tp := range r.order {
		if next := r.targets[tp]; !slices.Equal(next, img.Partition(tp).Replicas) {
			out = append(out, command.Reassignment{Partition: tp, Replicas: next})
		}
	}
	return out
}

// rebalance is a plan under way.
type rebalance struct {
	*tally
	// order is by topic name and number, cheapest by what a move copies.
	order, cheapest []record.TopicPartition
	targets         map[record.TopicPartition][]int32
}

// replace puts to in the place of from.
func (r *rebalance) replace(tp record.TopicPartition, from, to int32) {
	old := r.targets[tp]
	next := slices.Clone(old)
	next[slices.Index(next, from)] = to
	r.set(tp, next)
}

func (r *rebalance) set(tp record.TopicPartition, next []int32) {
	r.add(r.targets[tp], -1)
	r.targets[tp] = next
	r.add(next, 1)
}

// mendRacks moves replicas that share a rack while another rack has none.
func (r *rebalance) mendRacks() {
	for _, tp := range r.cheapest {
		for _, id := range slices.Clone(r.targets[tp]) {
			if _, ok := r.replicas[id]; !ok || r.crowd(r.targets[tp], id) == 0 {
				continue
			}
			rest := remaining(r.targets[tp], id)
			if to := r.choose(rest); to >= 0 && r.crowd(rest, to) == 0 {
				r.replace(tp, id, to)
			}
		}
	}
}

func remaining(target []int32, without int32) []int32 {
	return slices.DeleteFunc(slices.Clone(target), func(id int32) bool { return id == without })
}

// moveOne moves one replica from a broker with more to one with at least two fewer;
// false if there is none that the racks let go.
func (r *rebalance) moveOne() bool {
	brokers := r.brokers()
	from := slices.Clone(brokers)
	slices.SortStableFunc(from, func(a, b int32) int { return cmp.Compare(r.replicas[b], r.replicas[a]) })
	to := slices.Clone(brokers)
	slices.SortStableFunc(to, func(a, b int32) int { return cmp.Compare(r.replicas[a], r.replicas[b]) })
	for _, rich := range from {
		for _, poor := range to {
			if r.replicas[rich]-r.replicas[poor] < 2 {
				break
			}
			if tp, ok := r.movable(rich, poor); ok {
				r.replace(tp, rich, poor)
				return true
			}
		}
	}
	return false
}

// movable finds the cheapest partition whose replica can go from one broker to
// another without crowding a rack; rather a follower than the preferred leader.
func (r *rebalance) movable(from, to int32) (record.TopicPartition, bool) {
	var second record.TopicPartition
	found := false
	for _, tp := range r.cheapest {
		target := r.targets[tp]
		if !slices.Contains(target, from) || slices.Contains(target, to) {
			continue
		}
		rest := remaining(target, from)
		if r.crowd(rest, to) > r.crowd(rest, from) {
			continue
		}
		if target[0] != from {
			return tp, true
		}
		if !found {
			second, found = tp, true
		}
	}
	return second, found
}

// passLeadership takes one preferred leadership from a broker with the most and gives
// one to a broker with at least two fewer, along a chain of partitions that each only
// change their order; false if there is no such chain.
func (r *rebalance) passLeadership() bool {
	// heirs[a][b] is a partition that a leads and b could.
	heirs := map[int32]map[int32]record.TopicPartition{}
	for _, tp := range r.order {
		target := r.targets[tp]
		if _, ok := r.leaders[target[0]]; !ok {
			continue
		}
		for _, id := range target[1:] {
			if _, ok := r.leaders[id]; !ok {
				continue
			}
			if heirs[target[0]] == nil {
				heirs[target[0]] = map[int32]record.TopicPartition{}
			}
			if _, ok := heirs[target[0]][id]; !ok {
				heirs[target[0]][id] = tp
			}
		}
	}
	brokers := r.brokers()
	rich := slices.Clone(brokers)
	slices.SortStableFunc(rich, func(a, b int32) int { return cmp.Compare(r.leaders[b], r.leaders[a]) })
	for _, from := range rich {
		if r.passFrom(from, brokers, heirs) {
			return true
		}
	}
	return false
}

// passFrom looks for the shortest chain from one broker to any with at least two
// fewer leaderships, and follows it.
func (r *rebalance) passFrom(from int32, brokers []int32, heirs map[int32]map[int32]record.TopicPartition) bool {
	came := map[int32]int32{from: from}
	queue := []int32{from}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if r.leaders[from]-r.leaders[at] >= 2 {
			for at != from {
				tp := heirs[came[at]][at]
				target := r.targets[tp]
				next := slices.Clone(target)
				i := slices.Index(next, at)
				next[0], next[i] = next[i], next[0]
				r.set(tp, next)
				at = came[at]
			}
			return true
		}
		for _, id := range brokers {
			if _, ok := heirs[at][id]; !ok {
				continue
			}
			if _, seen := came[id]; !seen {
				came[id] = at
				queue = append(queue, id)
			}
		}
	}
	return false
}
