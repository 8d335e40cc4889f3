package cache

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// naivePolicy is S3-FIFO over slices, newest last.
type naivePolicy struct {
	capacity           int64
	small, main, ghost []naiveNode
}

type naiveNode struct {
	key    Key
	weight int64
	uses   int
	pinned bool
}

func sum(nodes []naiveNode) (n int64) {
	for _, x := range nodes {
		n += x.weight
	}
	return n
}

func (p *naivePolicy) find(k Key) *naiveNode {
	for _, q := range [][]naiveNode{p.small, p.main} {
		for i := range q {
			if q[i].key == k {
				return &q[i]
			}
		}
	}
	return nil
}

func (p *naivePolicy) add(k Key, weight int64) {
	n := naiveNode{key: k, weight: weight}
	if i := slices.IndexFunc(p.ghost, func(g naiveNode) bool { return g.key == k }); i >= 0 {
		p.ghost = slices.Delete(p.ghost, i, i+1)
		p.main = append(p.main, n)
		return
	}
	p.small = append(p.small, n)
}

func (p *naivePolicy) evict() (Key, bool) {
	blocked := 0
	for range 5 * (len(p.small) + len(p.main) + 1) {
		if blocked < len(p.small) && (len(p.main) == 0 || sum(p.small)*100 > p.capacity*10) {
			n := p.small[0]
			p.small = p.small[1:]
			switch {
			case n.pinned:
				blocked++
				p.small = append(p.small, n)
			case n.uses >= 2:
				n.uses = 0
				p.main = append(p.main, n)
			default:
				p.ghost = append(p.ghost, n)
				for sum(p.ghost) > p.capacity {
					p.ghost = p.ghost[1:]
				}
				return n.key, true
			}
			continue
		}
		if len(p.main) == 0 {
			return Key{}, false
		}
		n := p.main[0]
		p.main = p.main[1:]
		switch {
		case n.pinned:
			p.main = append(p.main, n)
		case n.uses > 0:
			n.uses--
			p.main = append(p.main, n)
		default:
			return n.key, true
		}
	}
	return Key{}, false
}

func TestPolicyAgainstNaive(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		p, naive := newPolicy(1000), &naivePolicy{capacity: 1000}
		nodes := map[Key]*node{}
		for range 3000 {
			k := Key{Chunk: uint32(r.ExpFloat64() * 30)}
			switch n := nodes[k]; {
			case n == nil:
				w := int64(1 + r.IntN(120))
				n = &node{entry: &entry{key: k}, weight: w}
				nodes[k] = n
				p.add(n)
				naive.add(k, w)
			case r.IntN(10) == 0:
				pin := r.IntN(3) == 0
				n.entry.memPins = 0
				if pin {
					n.entry.memPins = 1
				}
				naive.find(k).pinned = pin
			default:
				p.touch(n)
				if x := naive.find(k); x.uses < 3 {
					x.uses++
				}
			}
			for p.over() {
				got := p.evict(func(e *entry) bool { return e.memPins > 0 })
				want, ok := naive.evict()
				require.Equal(t, ok, got != nil, "seed %d", seed)
				if got == nil {
					break
				}
				require.Equal(t, want, got.entry.key, "seed %d", seed)
				delete(nodes, want)
			}
			require.Equal(t, sum(naive.small)+sum(naive.main), p.bytes())
			require.Equal(t, sum(naive.ghost), p.ghostBytes)
			require.Len(t, p.ghostOf, len(naive.ghost))
		}
	}
}

// TestScanLeavesTheHotSetAlone: a scan of a hundred times the capacity, each
// chunk visited by one reader, evicts nothing that two readers use.
func TestScanLeavesTheHotSetAlone(t *testing.T) {
	p := newPolicy(100)
	free := func(*entry) bool { return false }
	use := func(nodes map[Key]*node, k Key) bool {
		n := nodes[k]
		hit := n != nil && n.queue != nil
		if !hit {
			n = &node{entry: &entry{key: k}, weight: 1}
			nodes[k] = n
			p.add(n)
		}
		p.touch(n)
		for p.over() {
			p.evict(free)
		}
		return hit
	}
	nodes := map[Key]*node{}
	for range 4 {
		for i := range uint32(60) {
			use(nodes, Key{Chunk: i})
		}
	}
	for i := range uint32(10_000) {
		use(nodes, Key{Object: [16]byte{1}, Chunk: i})
	}
	for i := range uint32(60) {
		require.True(t, use(nodes, Key{Chunk: i}), "chunk %d", i)
	}
}

// TestProbation: where a disk is below, a scan leaves most of a small memory free,
// and what is used again is kept all the same.
func TestProbation(t *testing.T) {
	p := newPolicy(1000)
	p.probation = 250
	pinned := map[int]bool{3: true}
	used := &node{entry: &entry{key: keyOf(0)}, weight: 50}
	p.add(used)
	p.touch(used)
	p.touch(used)
	for i := 1; i < 100; i++ {
		p.add(&node{entry: &entry{key: keyOf(i)}, weight: 50})
		for n := p.leaveProbation(func(e *entry) bool { return pinned[int(e.key.Chunk)] }); n != nil; n = p.leaveProbation(func(e *entry) bool { return pinned[int(e.key.Chunk)] }) {
			if n == used || n.entry.key == keyOf(3) {
				t.Fatalf("%s left", n.entry.key)
			}
		}
		if p.small.bytes > 250 {
			t.Fatalf("%d bytes after %d", p.small.bytes, i)
		}
	}
	if used.queue != &p.main || p.small.bytes != 250 {
		t.Fatalf("%d bytes in small", p.small.bytes)
	}
}
