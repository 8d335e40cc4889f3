package partition

import (
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
)

// isrNews gathers how the ISRs of led partitions change, and tells it: a broker that
// stops leaves a thousand of them at once, which is one line. The zero value is empty.
type isrNews struct {
	mu         sync.Mutex // innermost
	left, back map[int32]isrChange
}

// isrChange is what became of one broker.
type isrChange struct {
	partitions int
	first      string
}

// note takes what one change of p's ISR did to a broker.
func (n *isrNews) note(p *Partition, broker int32, left bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changes := &n.back
	if left {
		changes = &n.left
	}
	if *changes == nil {
		*changes = map[int32]isrChange{}
	}
	c := (*changes)[broker]
	if c.partitions++; c.first == "" {
		c.first = p.topic + "-" + strconv.Itoa(int(p.tp.Partition))
	}
	(*changes)[broker] = c
}

// tell logs what there is since the last time.
func (n *isrNews) tell(log *slog.Logger) {
	n.mu.Lock()
	left, back := n.left, n.back
	n.left, n.back = nil, nil
	n.mu.Unlock()
	for _, round := range []struct {
		text    string
		changes map[int32]isrChange
	}{{"replicas leave the ISR", left}, {"replicas are back in the ISR", back}} {
		for _, id := range slices.Sorted(maps.Keys(round.changes)) {
			c := round.changes[id]
			log.Info(round.text, "broker", id, "partitions", c.partitions, "first", c.first)
		}
	}
}
