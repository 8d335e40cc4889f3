package commitlog

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/firnlog/firn/record"
)

// EpochStart says at which offset a leader epoch begins.
type EpochStart struct {
	Epoch record.Epoch
	Start record.Offset
}

// EpochCache holds the leader epochs of a log (KIP-101). Epochs that wrote
// nothing are kept too: a follower may ask for the end of one. It is a value
// without I/O, so that the simulator (integration/sim) asks the code that
// answers in production.
//
// INVARIANT: epochs strictly increase, starts never decrease.
type EpochCache []EpochStart

// Assign notes that epoch e begins at start. Entries that contradict it, a
// newer epoch or a later start, go. It says whether anything changed.
func (c *EpochCache) Assign(e record.Epoch, start record.Offset) bool {
	s := *c
	if n := len(s); n > 0 && s[n-1].Epoch == e && s[n-1].Start <= start {
		return false
	}
	n := len(s)
	for n > 0 && (s[n-1].Epoch >= e || s[n-1].Start > start) {
		n--
	}
	*c = append(slices.Clip(s[:n]), EpochStart{Epoch: e, Start: start})
	return true
}

// Note takes the epoch of a batch that is written at the log's end, at offset at.
// Newer epochs, which have written nothing, were not of this log's history and go.
func (c *EpochCache) Note(e record.Epoch, at record.Offset) {
	s := *c
	n := len(s)
	for n > 0 && s[n-1].Epoch > e {
		n--
	}
	s = slices.Clip(s[:n])
	if n == 0 || s[n-1].Epoch < e {
		s = append(s, EpochStart{Epoch: e, Start: at})
	}
	*c = s
}

// Last is the newest epoch, NoEpoch when there is none.
func (c EpochCache) Last() record.Epoch {
	if len(c) == 0 {
		return record.NoEpoch
	}
	return c[len(c)-1].Epoch
}

// EndOf answers as Kafka's LeaderEpochFileCache.endOffsetFor: the largest
// epoch at or below e and the offset at which it ended. It answers NoEpoch and
// NoOffset when e is newer than all or nothing is known.
func (c EpochCache) EndOf(e record.Epoch, logEnd record.Offset) (record.Epoch, record.Offset) {
	if e < 0 || len(c) == 0 || e > c.Last() {
		return record.NoEpoch, record.NoOffset
	}
	if e == c.Last() {
		return e, logEnd
	}
	i := 0
	for c[i].Epoch <= e {
		i++
	}
	if i == 0 {
		return e, c[0].Start
	}
	return c[i-1].Epoch, c[i].Start
}

// Truncate returns the epochs that begin below end.
func (c EpochCache) Truncate(end record.Offset) EpochCache {
	n := len(c)
	for n > 0 && c[n-1].Start >= end {
		n--
	}
	return slices.Clone(c[:n])
}

const epochEntry = 4 + 8

// appendEpochs encodes as docs/format/leader-epochs.md describes.
func appendEpochs(dst []byte, c EpochCache) []byte {
	be := binary.BigEndian
	dst = be.AppendUint32(dst, uint32(len(c)))
	for _, e := range c {
		dst = be.AppendUint32(dst, uint32(e.Epoch))
		dst = be.AppendUint64(dst, uint64(e.Start))
	}
	return dst
}

// parseEpochs decodes the epochs at the start of b and answers what follows.
func parseEpochs(b []byte) (EpochCache, []byte, error) {
	if len(b) < 4 {
		return nil, nil, fmt.Errorf("%w: leader epochs are cut off", ErrCorrupt)
	}
	be := binary.BigEndian
	n := int64(be.Uint32(b))
	b = b[4:]
	if n*epochEntry > int64(len(b)) {
		return nil, nil, fmt.Errorf("%w: %d leader epochs claimed in %d bytes", ErrCorrupt, n, len(b))
	}
	c := make(EpochCache, n)
	for i := range c {
		c[i] = EpochStart{Epoch: record.Epoch(be.Uint32(b)), Start: record.Offset(be.Uint64(b[4:]))}
		b = b[epochEntry:]
		if c[i].Epoch < 0 || c[i].Start < 0 || i > 0 && (c[i].Epoch <= c[i-1].Epoch || c[i].Start < c[i-1].Start) {
			return nil, nil, fmt.Errorf("%w: leader epoch %d at %d is out of order", ErrCorrupt, c[i].Epoch, c[i].Start)
		}
	}
	return c, b, nil
}
