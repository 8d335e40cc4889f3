package wire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// API is one served key with its range of versions, both ends included.
type API struct {
	Key      int16
	Min, Max int16
	// MaxFrame bounds a request frame in bytes, without its length prefix. Its
	// default is 1 MiB, for what is served before authentication 64 KiB, and
	// for Produce alone Kafka's socket.request.max.bytes, 100 MiB: decoding
	// other requests takes up to ten times their bytes.
	MaxFrame int32
	// MaxElements bounds the array entries and tags, and so the CPU, of a
	// request (default 200,000). Arrays of numbers do not count.
	MaxElements int
}

// Table is the set of served APIs. It is immutable.
type Table struct {
	apis     [maxKey + 1]*apiEntry
	maxFrame int32 // the largest of all
}

type apiEntry struct {
	API
	versions []*program // from Min on
}

const (
	maxKey = 127 // above every key of the client listener (kafka-compat.md §1)

	keyProduce          = 0
	keySASLHandshake    = 17
	keyAPIVersions      = 18
	keySASLAuthenticate = 36

	defaultMaxFrame        = 1 << 20
	defaultMaxFrameProduce = 100 << 20
	defaultMaxFrameOpen    = 64 << 10 // before authentication
	defaultMaxElements     = 200_000
)

// NewTable checks that each API can be guarded and decoded at each of its
// versions.
func NewTable(apis ...API) (*Table, error) {
	t := &Table{}
	for _, a := range apis {
		if a.Key < 0 || a.Key > maxKey || a.Min < 0 || a.Max < a.Min || a.MaxFrame < 0 || a.MaxElements < 0 {
			return nil, fmt.Errorf("wire table: bad entry %+v", a)
		}
		if t.apis[a.Key] != nil {
			return nil, fmt.Errorf("wire table: key %d twice", a.Key)
		}
		l, codec := layouts()[a.Key], kmsg.RequestForKey(a.Key)
		if l == nil || codec == nil || a.Max > l.max || a.Max > codec.MaxVersion() {
			return nil, fmt.Errorf("wire table: no layout of key %d at version %d", a.Key, a.Max)
		}
		if a.MaxFrame == 0 {
			a.MaxFrame = defaultMaxFrame
			switch a.Key {
			case keyProduce:
				a.MaxFrame = defaultMaxFrameProduce
			case keySASLHandshake, keyAPIVersions, keySASLAuthenticate:
				a.MaxFrame = defaultMaxFrameOpen
			}
		}
		if a.MaxElements == 0 {
			a.MaxElements = defaultMaxElements
		}
		e := &apiEntry{API: a}
		for v := a.Min; v <= a.Max; v++ {
			e.versions = append(e.versions, compile(l.fields, v, v >= l.flexible))
		}
		t.apis[a.Key] = e
		t.maxFrame = max(t.maxFrame, a.MaxFrame)
	}
	return t, nil
}

// Lookup returns the entry of key with its defaults filled in.
func (t *Table) Lookup(key int16) (API, bool) {
	if e := t.entry(key); e != nil {
		return e.API, true
	}
	return API{}, false
}

func (t *Table) entry(key int16) *apiEntry {
	if key < 0 || key > maxKey {
		return nil
	}
	return t.apis[key]
}

// at returns the program of version, nil when it is not served.
func (e *apiEntry) at(version int16) *program {
	if version < e.Min || version > e.Max {
		return nil
	}
	return e.versions[version-e.Min]
}
