package cache

import "container/list"

// policy decides which entries of one tier stay, by S3-FIFO (Yang et al., "FIFO
// queues are all you need for cache eviction", SOSP 2023) weighted by bytes.
//
// New entries go to a small queue with a tenth of the room. Those used again
// before they reach its end move to the main queue, the others leave and are
// remembered by key for a while; one that comes back then goes straight to
// main. In main an entry that was used gets another round.
//
// It is not safe for concurrent use.
type policy struct {
	capacity int64 // bytes
	// probation bounds small, in bytes, also while there is room; 0 is no bound. For
	// a tier with another below it: what a scan leaves behind is worth more there
	// than here, where its room would be memory taken from the machine.
	probation int64
	small     queue
	main      queue

	ghosts     list.List // of ghost, newest first
	ghostOf    map[Key]*list.Element
	ghostBytes int64
}

type queue struct {
	list.List // of *node, newest first
	bytes     int64
}

type ghost struct {
	key    Key
	weight int64
}

// node is an entry's place in a policy.
type node struct {
	entry  *entry
	weight int64 // bytes
	uses   uint8 // since the last time around, at most maxUses
	queue  *queue
	elem   *list.Element
}

const (
	maxUses      = 3
	promoteUses  = 2 // a reader's own visit after the fill is one
	smallPercent = 10
)

func newPolicy(capacity int64) *policy {
	return &policy{capacity: capacity, ghostOf: make(map[Key]*list.Element)}
}

func (p *policy) bytes() int64 { return p.small.bytes + p.main.bytes }
func (p *policy) len() int     { return p.small.Len() + p.main.Len() }

// over reports whether something must leave.
func (p *policy) over() bool { return p.bytes() > p.capacity }

// add puts a node that is in no queue where it belongs.
func (p *policy) add(n *node) {
	q := &p.small
	if g, ok := p.ghostOf[n.entry.key]; ok {
		p.forget(g)
		q = &p.main
	}
	n.uses = 0
	p.push(q, n)
}

func (p *policy) push(q *queue, n *node) {
	n.queue = q
	n.elem = q.PushFront(n)
	q.bytes += n.weight
}

// remove takes a node out; it does nothing if the node is in no queue.
func (p *policy) remove(n *node) {
	if n.queue == nil {
		return
	}
	n.queue.Remove(n.elem)
	n.queue.bytes -= n.weight
	n.queue, n.elem = nil, nil
}

// touch notes that a node was used.
func (p *policy) touch(n *node) {
	if n.queue != nil && n.uses < maxUses {
		n.uses++
	}
}

// evict takes out the node that should leave next, passing over those that are
// pinned; nil if there is no other.
func (p *policy) evict(pinned func(*entry) bool) *node {
	blocked := 0 // pinned nodes of small met in a row
	// Each step moves a node; maxUses+2 rounds reach any that can leave.
	for range (maxUses + 2) * (p.len() + 1) {
		q := &p.main
		if blocked < p.small.Len() && (q.Len() == 0 || p.small.bytes*100 > p.capacity*smallPercent) {
			q = &p.small
		}
		if q.Len() == 0 {
			return nil
		}
		n := q.Back().Value.(*node)
		switch {
		case pinned(n.entry):
			q.MoveToFront(n.elem)
			if q == &p.small {
				blocked++
			}
		case q == &p.small && n.uses >= promoteUses:
			p.remove(n)
			n.uses = 0
			p.push(&p.main, n)
		case q == &p.main && n.uses > 0:
			n.uses--
			q.MoveToFront(n.elem)
		default:
			p.remove(n)
			if q == &p.small {
				p.remember(n)
			}
			return n
		}
	}
	return nil
}

// probationSteps bounds the work of one call of leaveProbation.
const probationSteps = 8

// leaveProbation takes out the node that should leave small for the sake of
// probation; nil if there is none, or some steps found only pinned ones.
func (p *policy) leaveProbation(pinned func(*entry) bool) *node {
	if p.probation == 0 {
		return nil
	}
	for range min(probationSteps, p.small.Len()) {
		if p.small.bytes <= p.probation {
			return nil
		}
		n := p.small.Back().Value.(*node)
		switch {
		case pinned(n.entry):
			p.small.MoveToFront(n.elem)
		case n.uses >= promoteUses:
			p.remove(n)
			n.uses = 0
			p.push(&p.main, n)
		default:
			p.remove(n)
			p.remember(n)
			return n
		}
	}
	return nil
}

// remember keeps the key of a node evicted from small, for as many bytes of
// such keys as main has room for.
func (p *policy) remember(n *node) {
	p.ghostOf[n.entry.key] = p.ghosts.PushFront(ghost{n.entry.key, n.weight})
	p.ghostBytes += n.weight
	for p.ghostBytes > p.capacity {
		p.forget(p.ghosts.Back())
	}
}

func (p *policy) forget(e *list.Element) {
	g := p.ghosts.Remove(e).(ghost)
	delete(p.ghostOf, g.key)
	p.ghostBytes -= g.weight
}
