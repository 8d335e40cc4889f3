package wire

import "fmt"

// API is one served key with its range of versions, both ends included.
type API struct {
	Key      int16
	Min, Max int16
	// MaxFrame bounds a request frame in bytes, without its length prefix
	// (default 1 MiB). Kafka's socket.request.max.bytes, 100 MiB, belongs to
	// Produce alone: decoded structs take up to ten times their bytes.
	MaxFrame int32
	// MaxElements bounds the array entries, and so the CPU, of a request
	// (default 200,000).
	MaxElements int
}

// Table is the set of served APIs. It is immutable.
type Table struct {
	apis [maxKey + 1]*API
}

// maxKey is above every key of the client listener (kafka-compat.md §1).
const maxKey = 127

const (
	defaultMaxFrame    = 1 << 20
	defaultMaxElements = 200_000
)

// NewTable checks that each API can be guarded at each of its versions.
func NewTable(apis ...API) (*Table, error) {
	t := &Table{}
	for _, a := range apis {
		if a.Key < 0 || a.Key > maxKey || a.Min < 0 || a.Max < a.Min || a.MaxFrame < 0 || a.MaxElements < 0 {
			return nil, fmt.Errorf("wire table: bad entry %+v", a)
		}
		if t.apis[a.Key] != nil {
			return nil, fmt.Errorf("wire table: key %d twice", a.Key)
		}
		if a.MaxFrame == 0 {
			a.MaxFrame = defaultMaxFrame
		}
		if a.MaxElements == 0 {
			a.MaxElements = defaultMaxElements
		}
		t.apis[a.Key] = &a
	}
	return t, nil
}

// Lookup returns the entry of key, or nil.
func (t *Table) Lookup(key int16) *API {
	if key < 0 || key > maxKey {
		return nil
	}
	return t.apis[key]
}
