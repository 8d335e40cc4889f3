package fsm

import (
	"sync"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// maxRemembered bounds the entries of all remembered manifests together: about
// 20 MB. A million entries in Pebble must not cost a gigabyte.
const maxRemembered = 100_000

// manifests remembers the remote entries of partitions that are being read: each
// fetch of cold data asks for them, and to read and decode them again cost a
// seventh of its CPU.
//
// INVARIANT: what is remembered is what Pebble holds, from before an image is
// published on until the next commit.
type manifests struct {
	mu      sync.Mutex
	turn    uint64 // counts forget: what was read before the last one is stale
	known   map[record.TopicPartition]manifest.Manifest
	entries int // in known
}

// get returns a partition's remote entries if they are remembered, and otherwise
// the turn to hand to put.
func (m *manifests) get(tp record.TopicPartition) (found manifest.Manifest, turn uint64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok = m.known[tp]
	return found, m.turn, ok
}

// put remembers what was read after get, unless something changed meanwhile.
func (m *manifests) put(tp record.TopicPartition, read manifest.Manifest, turn uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := weight(read)
	if turn != m.turn || n > maxRemembered {
		return
	}
	if m.known == nil {
		m.known = map[record.TopicPartition]manifest.Manifest{}
	}
	m.dropLocked(tp)
	for other := range m.known { // any: who is still read comes back
		if m.entries+n <= maxRemembered {
			break
		}
		m.dropLocked(other)
	}
	m.known[tp], m.entries = read, m.entries+n
}

// weight counts an empty manifest too.
func weight(m manifest.Manifest) int { return 1 + len(m.Entries()) }

func (m *manifests) dropLocked(tp record.TopicPartition) {
	if old, ok := m.known[tp]; ok {
		delete(m.known, tp)
		m.entries -= weight(old)
	}
}

// forget drops what a commit changed. It is called behind the commit and before
// its image is published.
func (m *manifests) forget(delta *metadata.Delta) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn++
	for _, tp := range delta.Partitions {
		m.dropLocked(tp)
	}
	for _, tp := range delta.Entries {
		m.dropLocked(tp)
	}
	for _, t := range delta.Deleted {
		for n := range t.Partitions {
			m.dropLocked(record.TopicPartition{Topic: t.ID, Partition: n})
		}
	}
}

// forgetAll is for a state that was replaced as a whole.
func (m *manifests) forgetAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn++
	m.known, m.entries = nil, 0
}
