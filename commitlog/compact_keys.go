package commitlog

import (
	"hash/maphash"

	"github.com/firnlog/firn/record"
)

// keyMap remembers the last offset of each key. It holds a 128-bit hash under
// seeds that nobody outside can know, instead of the key: two keys that share
// one, by chance in 2^64 keys, would lose a record.
type keyMap struct {
	first, second maphash.Seed
	offsets       map[[2]uint64]record.Offset
	max           int
}

const (
	defaultMapBytes = 64 << 20
	// bytesPerKey is what an entry costs at a map's usual load.
	bytesPerKey = 48
)

func newKeyMap(bytes int64) keyMap {
	if bytes <= 0 {
		bytes = defaultMapBytes
	}
	return keyMap{
		first: maphash.MakeSeed(), second: maphash.MakeSeed(),
		offsets: make(map[[2]uint64]record.Offset), max: int(max(bytes/bytesPerKey, 1)),
	}
}

func (m *keyMap) hash(key []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(m.first, key), maphash.Bytes(m.second, key)}
}

// put notes the offset of a key, which is above all noted before. It answers
// false when there is no room for another key.
func (m *keyMap) put(key []byte, at record.Offset) bool {
	h := m.hash(key)
	if _, ok := m.offsets[h]; !ok && len(m.offsets) >= m.max {
		return false
	}
	m.offsets[h] = at
	return true
}

// isLatest says whether no later record of the key is known.
func (m *keyMap) isLatest(key []byte, at record.Offset) bool {
	latest, ok := m.offsets[m.hash(key)]
	return !ok || at >= latest
}
