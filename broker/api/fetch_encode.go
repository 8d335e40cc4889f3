package api

import (
	"encoding/binary"
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"

	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/wire"
)

// fetchEncoder writes a FetchResponse (versions 4 to 18) around records that
// never pass through it: buf holds everything else, and each cut says which
// sections go in at a place of buf.
//
// Topics are written one partition run at a time, so the counts are patched in
// once they are known: arrays of the flexible versions get counts of a fixed
// five bytes, a legal spelling of a varint.
type fetchEncoder struct {
	version int16
	flex    bool
	buf     []byte
	cuts    []cut
	data    []wire.Section

	topics   int // number of topic entries so far
	topicsAt int // where their count is
	parts    int // number of partitions in the open topic
	partsAt  int
	open     bool
	key      fetch.SessionKey // of the open topic; Partition is unused
	nodes    []fetchNode
}

type cut struct {
	at       int // in buf
	from, to int // in data
}

type fetchNode struct {
	id   int32
	host string
	port int32
	rack *string
}

var fetchBuffers = sync.Pool{New: func() any { return new(fetchEncoder) }}

func newFetchEncoder(version int16, sessionID int32) *fetchEncoder {
	e := fetchBuffers.Get().(*fetchEncoder)
	*e = fetchEncoder{version: version, flex: version >= 12, buf: e.buf[:0], cuts: e.cuts[:0], data: e.data[:0], nodes: e.nodes[:0]}
	e.buf = kbin.AppendInt32(e.buf, 0) // throttle time
	if version >= 7 {
		e.buf = kbin.AppendInt16(e.buf, 0)
		e.buf = kbin.AppendInt32(e.buf, sessionID)
	}
	e.topicsAt = e.count()
	return e
}

// maxPooledEncoder bounds in bytes what a free encoder may hold.
const maxPooledEncoder = 64 << 10

// free gives the encoder back once its sections were sent.
func (e *fetchEncoder) free() {
	if cap(e.buf) > maxPooledEncoder || cap(e.data) > 1024 {
		return
	}
	clear(e.data)
	clear(e.nodes)
	fetchBuffers.Put(e)
}

// count leaves room for an array's count, to be patched.
func (e *fetchEncoder) count() int {
	at := len(e.buf)
	e.buf = append(e.buf, 0, 0, 0, 0)
	if e.flex {
		e.buf = append(e.buf, 0)
	}
	return at
}

func (e *fetchEncoder) patch(at, n int) {
	if !e.flex {
		binary.BigEndian.PutUint32(e.buf[at:], uint32(n))
		return
	}
	v := uint32(n + 1)
	for i := range 4 {
		e.buf[at+i] = byte(v>>(7*i))&0x7f | 0x80
	}
	e.buf[at+4] = byte(v >> 28)
}

// partition writes one partition's answer, in a new topic entry unless the open
// one is of the same topic.
func (e *fetchEncoder) partition(key fetch.SessionKey, g *fetch.Got) {
	if !e.open || e.key.Name != key.Name || e.key.ID != key.ID {
		e.closeTopic()
		e.open, e.key, e.parts = true, key, 0
		e.topics++
		switch {
		case e.version >= 13:
			e.buf = append(e.buf, key.ID[:]...)
		case e.flex:
			e.buf = kbin.AppendCompactString(e.buf, key.Name)
		default:
			e.buf = kbin.AppendString(e.buf, key.Name)
		}
		e.partsAt = e.count()
	}
	e.parts++
	e.header(key.Partition, g)
	e.aborted(g)
	if e.version >= 11 {
		e.buf = kbin.AppendInt32(e.buf, g.Preferred)
	}
	e.records(g)
	if e.flex {
		e.tags(g)
	}
}

func (e *fetchEncoder) header(partition int32, g *fetch.Got) {
	hw, lso, start := int64(-1), int64(-1), int64(-1)
	if g.Err == nil {
		hw, lso, start = int64(g.State.HighWatermark), int64(g.State.LastStable), int64(g.State.LogStart)
	}
	e.buf = kbin.AppendInt32(e.buf, partition)
	e.buf = kbin.AppendInt16(e.buf, codeOf(g.Err))
	e.buf = kbin.AppendInt64(e.buf, hw)
	e.buf = kbin.AppendInt64(e.buf, lso)
	if e.version >= 5 {
		e.buf = kbin.AppendInt64(e.buf, start)
	}
}

func (e *fetchEncoder) aborted(g *fetch.Got) {
	n := len(g.Aborted)
	if g.Aborted == nil {
		// Null unless the reader is read_committed.
		if e.flex {
			e.buf = kbin.AppendCompactNullableArrayLen(e.buf, 0, true)
		} else {
			e.buf = kbin.AppendNullableArrayLen(e.buf, 0, true)
		}
		return
	}
	if e.flex {
		e.buf = kbin.AppendCompactArrayLen(e.buf, n)
	} else {
		e.buf = kbin.AppendArrayLen(e.buf, n)
	}
	for i := range g.Aborted {
		e.buf = kbin.AppendInt64(e.buf, g.Aborted[i].ProducerID)
		e.buf = kbin.AppendInt64(e.buf, int64(g.Aborted[i].First))
		if e.flex {
			e.buf = append(e.buf, 0)
		}
	}
}

// records writes the length and notes where the bytes go in. No data is an empty
// field, never null, on which some clients fail.
func (e *fetchEncoder) records(g *fetch.Got) {
	n := g.Bytes()
	if e.flex {
		e.buf = kbin.AppendUvarint(e.buf, uint32(n)+1)
	} else {
		e.buf = kbin.AppendInt32(e.buf, int32(n))
	}
	if n == 0 {
		return
	}
	from := len(e.data)
	e.data = appendSections(e.data, g)
	e.cuts = append(e.cuts, cut{at: len(e.buf), from: from, to: len(e.data)})
}

// tags writes the tagged fields: 0 diverging epoch, 1 current leader.
func (e *fetchEncoder) tags(g *fetch.Got) {
	leader := leadershipError(g.Err)
	n := byte(0)
	if g.Diverging != nil {
		n++
	}
	if leader {
		n++
	}
	e.buf = append(e.buf, n)
	if d := g.Diverging; d != nil {
		e.buf = append(e.buf, 0, 13)
		e.buf = kbin.AppendInt32(e.buf, int32(d.Epoch))
		e.buf = kbin.AppendInt64(e.buf, int64(d.End))
		e.buf = append(e.buf, 0)
	}
	if leader {
		e.buf = append(e.buf, 1, 9)
		e.buf = kbin.AppendInt32(e.buf, g.State.Leader)
		e.buf = kbin.AppendInt32(e.buf, int32(g.State.LeaderEpoch))
		e.buf = append(e.buf, 0)
	}
}

// node notes a leader's address for the answer's end (KIP-951).
func (e *fetchEncoder) node(id int32, host string, port int32, rack *string) {
	for i := range e.nodes {
		if e.nodes[i].id == id {
			return
		}
	}
	e.nodes = append(e.nodes, fetchNode{id, host, port, rack})
}

func (e *fetchEncoder) closeTopic() {
	if !e.open {
		return
	}
	e.patch(e.partsAt, e.parts)
	if e.flex {
		e.buf = append(e.buf, 0)
	}
	e.open = false
}

// finish returns the whole answer as sections. They alias the encoder until
// free.
func (e *fetchEncoder) finish() []wire.Section {
	e.closeTopic()
	e.patch(e.topicsAt, e.topics)
	if e.flex {
		e.trailer()
	}
	sections := make([]wire.Section, 0, len(e.data)+len(e.cuts)+1)
	at := 0
	for _, c := range e.cuts {
		sections = append(sections, wire.Section{Bytes: e.buf[at:c.at]})
		sections = append(sections, e.data[c.from:c.to]...)
		at = c.at
	}
	return append(sections, wire.Section{Bytes: e.buf[at:]})
}

// trailer writes the answer's own tagged fields: 0 node endpoints.
func (e *fetchEncoder) trailer() {
	if len(e.nodes) == 0 {
		e.buf = append(e.buf, 0)
		return
	}
	var b []byte
	b = kbin.AppendCompactArrayLen(b, len(e.nodes))
	for _, n := range e.nodes {
		b = kbin.AppendInt32(b, n.id)
		b = kbin.AppendCompactString(b, n.host)
		b = kbin.AppendInt32(b, n.port)
		b = kbin.AppendCompactNullableString(b, n.rack)
		b = append(b, 0)
	}
	e.buf = append(e.buf, 1, 0)
	e.buf = kbin.AppendUvarint(e.buf, uint32(len(b)))
	e.buf = append(e.buf, b...)
}

// appendSections appends where the answer's batches are.
func appendSections(to []wire.Section, g *fetch.Got) []wire.Section {
	if g.Remote != nil {
		for i := range g.Remote.Pieces {
			to = append(to, wire.Section{Bytes: g.Remote.Pieces[i].Bytes})
		}
		return to
	}
	for i := range g.Local.Extents {
		x := &g.Local.Extents[i]
		to = append(to, wire.Section{Range: wire.FileRange{File: x.File, Off: x.Pos, Len: x.Len}})
	}
	return to
}
