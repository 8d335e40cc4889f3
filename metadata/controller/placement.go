package controller

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/firnlog/firn/metadata"
)

var (
	// ErrReplicationFactor says that there are not as many brokers as replicas, or
	// that the factor is not positive (Kafka: INVALID_REPLICATION_FACTOR).
	ErrReplicationFactor = errors.New("controller: invalid replication factor")
	// ErrAssignment says that a manual assignment is wrong (Kafka:
	// INVALID_REPLICA_ASSIGNMENT).
	ErrAssignment = errors.New("controller: invalid replica assignment")
)

// Place chooses the replicas of partitions first … first+count-1 of a topic,
// preferred leader first. Brokers that are active take part; where there are fewer than
// replicas, those whose disk is full come last: they copy once they have room, and a
// topic does not remain with fewer replicas for a disk that was full for an hour. Over the partitions,
// leaderships and replicas are spread evenly (they differ by one at most when the
// racks are equal), and a partition's replicas are on as many racks as there are,
// as far as the factor allows. first continues the turn where the topic's present
// partitions ended, so that growing a topic by one again and again stays even.
// The error wraps ErrReplicationFactor.
func Place(img *metadata.Image, first, count int32, factor int16) ([][]int32, error) {
	order := turn(img, (*metadata.Broker).Eligible)
	full := turn(img, func(b *metadata.Broker) bool { return b.Staying() && b.Full })
	if factor < 1 || len(order) == 0 || int(factor) > len(order)+len(full) {
		return nil, fmt.Errorf("%w: %d, with %d active brokers", ErrReplicationFactor, factor, len(order)+len(full))
	}
	active := min(int(factor), len(order))
	out := make([][]int32, count)
	for i := range out {
		out[i] = placeOne(order, int(first)+i, active)
		if rest := int(factor) - active; rest > 0 {
			out[i] = append(out[i], placeOne(full, int(first)+i, rest)...)
		}
	}
	return out, nil
}

// turn puts some brokers in an order that alternates between racks.
func turn(img *metadata.Image, some func(*metadata.Broker) bool) []*metadata.Broker {
	racks := map[string][]*metadata.Broker{}
	for b := range img.Brokers() {
		if some(b) {
			racks[b.Rack] = append(racks[b.Rack], b)
		}
	}
	lanes := make([][]*metadata.Broker, 0, len(racks))
	for _, lane := range racks {
		lanes = append(lanes, lane)
	}
	// The largest rack first: a short one then runs out at the end of the turn.
	slices.SortFunc(lanes, func(a, b []*metadata.Broker) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a[0].Rack, b[0].Rack))
	})
	var order []*metadata.Broker
	for depth := 0; ; depth++ {
		before := len(order)
		for _, lane := range lanes {
			if depth < len(lane) {
				order = append(order, lane[depth])
			}
		}
		if len(order) == before {
			return order
		}
	}
}

// placeOne takes the leader by turn. Followers start one step further each round,
// so that the same leader has not always the same followers; a rack is used again
// only when every other has been.
func placeOne(order []*metadata.Broker, number, factor int) []int32 {
	n := len(order)
	leader := number % n
	shift := 0
	if n > 1 {
		shift = (number / n) % (n - 1)
	}
	replicas := []int32{order[leader].ID}
	used := map[string]int{order[leader].Rack: 1}
	for len(replicas) < factor {
		best := -1
		for i := range n - 1 {
			c := (leader + 1 + (shift+i)%(n-1)) % n
			if slices.Contains(replicas, order[c].ID) {
				continue
			}
			if best < 0 || used[order[c].Rack] < used[order[best].Rack] {
				best = c
			}
		}
		replicas = append(replicas, order[best].ID)
		used[order[best].Rack]++
	}
	return replicas
}

// CheckAssignment checks a manual assignment as Kafka does: by[i] are the replicas
// of the i-th partition; all have as many, each names registered brokers, none
// twice, and one of them at least is active. The error wraps ErrAssignment.
func CheckAssignment(img *metadata.Image, by [][]int32) error {
	if len(by) == 0 {
		return fmt.Errorf("%w: no partitions", ErrAssignment)
	}
	for i, replicas := range by {
		switch {
		case len(replicas) == 0:
			return fmt.Errorf("%w: partition %d has no replicas", ErrAssignment, i)
		case len(replicas) != len(by[0]):
			return fmt.Errorf("%w: partition %d has %d replicas, partition 0 has %d", ErrAssignment, i, len(replicas), len(by[0]))
		}
		active := false
		for j, id := range replicas {
			b := img.Broker(id)
			if b == nil {
				return fmt.Errorf("%w: partition %d: broker %d is not registered", ErrAssignment, i, id)
			}
			if slices.Contains(replicas[:j], id) {
				return fmt.Errorf("%w: partition %d names broker %d twice", ErrAssignment, i, id)
			}
			active = active || b.Eligible()
		}
		if !active {
			return fmt.Errorf("%w: partition %d: every replica is fenced or shutting down", ErrAssignment, i)
		}
	}
	return nil
}
