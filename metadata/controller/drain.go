package controller

import (
	"fmt"
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// tally counts what brokers have, as far as planned.
type tally struct {
	img *metadata.Image
	// replicas and leaders (by preference) of active brokers; one that is missing may
	// take nothing.
	replicas, leaders map[int32]int
}

// newTally counts the targets of all partitions. Brokers in except take nothing.
func newTally(img *metadata.Image, except ...int32) *tally {
	t := &tally{img: img, replicas: map[int32]int{}, leaders: map[int32]int{}}
	for b := range img.Brokers() {
		if b.Eligible() && !slices.Contains(except, b.ID) {
			t.replicas[b.ID], t.leaders[b.ID] = 0, 0
		}
	}
	for _, p := range img.AllPartitions() {
		t.add(p.Target(), 1)
	}
	return t
}

// add counts a target by n, 1 or -1.
func (t *tally) add(target []int32, n int) {
	for i, id := range target {
		if _, ok := t.replicas[id]; !ok {
			continue
		}
		t.replicas[id] += n
		if i == 0 {
			t.leaders[id] += n
		}
	}
}

// brokers are those that may take something, by id.
func (t *tally) brokers() []int32 {
	var out []int32
	for b := range t.img.Brokers() {
		if _, ok := t.replicas[b.ID]; ok {
			out = append(out, b.ID)
		}
	}
	return out
}

func (t *tally) rack(id int32) string {
	if b := t.img.Broker(id); b != nil {
		return b.Rack
	}
	return ""
}

// crowd is how many of a target are in the rack of a broker.
func (t *tally) crowd(target []int32, id int32) int {
	n := 0
	for _, other := range target {
		if other != id && t.rack(other) == t.rack(id) {
			n++
		}
	}
	return n
}

// choose returns the broker that a target should get in addition: in the rack that
// it uses least, then with the fewest replicas, then the lowest id. -1 if every
// broker is in it.
func (t *tally) choose(target []int32) int32 {
	best := int32(-1)
	for _, id := range t.brokers() {
		if slices.Contains(target, id) {
			continue
		}
		if best < 0 {
			best = id
			continue
		}
		a, b := t.crowd(target, id), t.crowd(target, best)
		if a < b || a == b && t.replicas[id] < t.replicas[best] {
			best = id
		}
	}
	return best
}

// lead moves the broker with the fewest leaderships to the front, of those of the
// target that are in sync and may lead; if there is none the order stays.
func (t *tally) lead(target, isr []int32) []int32 {
	best := -1
	for i, id := range target {
		if _, ok := t.leaders[id]; ok && slices.Contains(isr, id) && (best < 0 || t.leaders[id] < t.leaders[target[best]]) {
			best = i
		}
	}
	if best <= 0 {
		return target
	}
	id := target[best]
	return append([]int32{id}, slices.Delete(slices.Clone(target), best, best+1)...)
}

// warmest are the replicas in sync that are warm, or all in sync if none is.
func warmest(p *metadata.Partition) []int32 {
	warm := slices.DeleteFunc(slices.Clone(p.ISR), func(id int32) bool { return !p.Warm(id) })
	if len(warm) == 0 {
		return p.ISR
	}
	return warm
}

// noRoomError says that a partition has nowhere to go, and what to do about it.
type noRoomError struct {
	partition string
	replicas  int
	broker    int32
	others    int
}

func (e *noRoomError) Error() string {
	replicas, others := fmt.Sprintf("%d replicas", e.replicas), fmt.Sprintf("%d brokers are", e.others)
	if e.replicas == 1 {
		replicas = "1 replica"
	}
	switch e.others {
	case 0:
		others = "no broker is"
	case 1:
		others = "only 1 broker is"
	default:
		others = "only " + others
	}
	return fmt.Sprintf("%s has %s, and without broker %d %s up: add a broker, or lower its replicas with firn topic reassign",
		e.partition, replicas, e.broker, others)
}

func (e *noRoomError) Unwrap() error { return ErrReplicationFactor }

// PlanDrain returns the reassignments that take every replica from a broker, which
// may be dead: each goes to the active broker that fits the racks best and has the
// fewest, and where it led by preference the replica in sync with the fewest
// leaderships comes first, a warm one if there is any. Nothing else moves. The error wraps ErrReplicationFactor
// if a partition has nowhere to go.
func PlanDrain(img *metadata.Image, broker int32) ([]command.Reassignment, error) {
	t := newTally(img, broker)
	var out []command.Reassignment
	for tp, p := range img.AllPartitions() {
		old := p.Target()
		at := slices.Index(old, broker)
		if at < 0 {
			continue
		}
		rest := slices.Delete(slices.Clone(old), at, at+1)
		id := t.choose(rest)
		if id < 0 {
			return nil, &noRoomError{name(img, tp), len(old), broker, len(t.replicas)}
		}
		t.add(old, -1)
		next := append(rest, id)
		if at == 0 {
			next = t.lead(next, warmest(p))
		}
		t.add(next, 1)
		out = append(out, command.Reassignment{Partition: tp, Replicas: next})
	}
	return out, nil
}

// PlanGrowth returns the reassignments that bring internal topics to so many
// replicas, or as many as there are active brokers. The factor never shrinks, and
// what has a reassignment under way is left alone.
func PlanGrowth(img *metadata.Image, factor int) []command.Reassignment {
	t := newTally(img)
	factor = min(factor, len(t.replicas))
	var out []command.Reassignment
	for topic := range img.Topics() {
		if !topic.Internal {
			continue
		}
		for n, p := range img.Partitions(topic.ID) {
			if p.Reassigning() || len(p.Replicas) >= factor {
				continue
			}
			next := slices.Clone(p.Replicas)
			for len(next) < factor {
				id := t.choose(next)
				if id < 0 {
					break
				}
				next = append(next, id)
			}
			if len(next) == len(p.Replicas) {
				continue
			}
			t.add(p.Replicas, -1)
			if _, ok := t.leaders[next[0]]; ok {
				next = spread(t, next)
			}
			t.add(next, 1)
			out = append(out, command.Reassignment{Partition: record.TopicPartition{Topic: topic.ID, Partition: n}, Replicas: next})
		}
	}
	return out
}

// spread puts the replica with the fewest leaderships first: once it has caught up
// it is the preferred leader.
func spread(t *tally, replicas []int32) []int32 { return t.lead(replicas, replicas) }

func name(img *metadata.Image, tp record.TopicPartition) string {
	if topic := img.Topic(tp.Topic); topic != nil {
		return fmt.Sprintf("%s-%d", topic.Name, tp.Partition)
	}
	return tp.String()
}
