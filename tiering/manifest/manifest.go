// Package manifest holds the remote entries of one partition: which offsets lie
// in which object of the store.
//
// A Manifest is a pure value. Its edits return a new manifest and leave the old
// one as it was; several share their entries. The package runs no goroutine and
// does no I/O. The durable form of the same facts is the entry keys of
// metadata/fsm, whose commands follow the same rules.
//
// Always, for every Manifest that Validate accepts:
//
//   - entries are sorted by Start and do not overlap;
//   - live entries follow each other without a hole, and the last ends at
//     RemoteEnd;
//   - the first live entry starts at or below LogStart, or there is none;
//   - a hole can only be between entries below LogStart, where nobody reads.
package manifest

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/firnlog/firn/record"
)

var (
	// ErrInvalid says that an entry or a manifest contradicts itself.
	ErrInvalid = errors.New("manifest: invalid")
	// ErrRange says that an edit does not fit the manifest's ends: a copy that
	// does not begin at the remote end, or a removal of an entry still live.
	ErrRange = errors.New("manifest: range does not fit")
	// ErrNotFound says that no entry starts there.
	ErrNotFound = errors.New("manifest: no such entry")
)

// Manifest is the remote part of one partition's log. The zero value is a
// partition with nothing remote and log start 0.
type Manifest struct {
	logStart  record.Offset
	remoteEnd record.Offset
	entries   []Entry // sorted by Start; never changed in place
}

// New builds a manifest of entries sorted by Start, and sets each entry's State
// by logStart. remoteEnd is the end of the last copy ever committed, 0 if none:
// it stays when the entries are gone. The slice belongs to the manifest
// afterwards. The error wraps ErrInvalid.
func New(logStart, remoteEnd record.Offset, entries []Entry) (Manifest, error) {
	m := Manifest{logStart: logStart, remoteEnd: remoteEnd, entries: entries}
	for i := range entries {
		entries[i].State = stateAt(&entries[i], logStart)
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

func stateAt(e *Entry, logStart record.Offset) State {
	if e.End <= logStart {
		return StateExpired
	}
	return StateLive
}

// Validate checks the invariants of the package comment. The error wraps
// ErrInvalid.
func (m Manifest) Validate() error {
	if m.logStart < 0 || m.remoteEnd < 0 {
		return fmt.Errorf("%w: log start %d, remote end %d", ErrInvalid, m.logStart, m.remoteEnd)
	}
	for i := range m.entries {
		e := &m.entries[i]
		if err := e.Validate(); err != nil {
			return err
		}
		if e.State != stateAt(e, m.logStart) {
			return fmt.Errorf("%w: entry at %d is %s under log start %d", ErrInvalid, e.Start, e.State, m.logStart)
		}
		if e.End > m.remoteEnd {
			return fmt.Errorf("%w: entry ends at %d above remote end %d", ErrInvalid, e.End, m.remoteEnd)
		}
		if i == 0 {
			if e.State == StateLive && e.Start > m.logStart {
				return fmt.Errorf("%w: first entry starts at %d above log start %d", ErrInvalid, e.Start, m.logStart)
			}
			continue
		}
		prev := &m.entries[i-1]
		switch {
		case e.Start < prev.End:
			return fmt.Errorf("%w: entry at %d overlaps its predecessor's end %d", ErrInvalid, e.Start, prev.End)
		case e.Start > prev.End && e.Start > m.logStart:
			return fmt.Errorf("%w: hole from %d to %d", ErrInvalid, prev.End, e.Start)
		}
	}
	last := record.Offset(0)
	if n := len(m.entries); n > 0 {
		last = m.entries[n-1].End
	}
	if last != m.remoteEnd && m.remoteEnd > m.logStart {
		return fmt.Errorf("%w: entries end at %d, remote end is %d", ErrInvalid, last, m.remoteEnd)
	}
	return nil
}

// LogStart is the partition's first readable offset.
func (m Manifest) LogStart() record.Offset { return m.logStart }

// RemoteEnd is the end of the last committed copy, 0 if there was none. It may
// lie below LogStart.
func (m Manifest) RemoteEnd() record.Offset { return m.remoteEnd }

// CopyStart is where the next copy begins: RemoteEnd, or LogStart if that is
// higher.
func (m Manifest) CopyStart() record.Offset { return max(m.remoteEnd, m.logStart) }

// Entries are all entries, expired ones first. The slice must not be changed.
func (m Manifest) Entries() []Entry { return m.entries }

// Expired are the entries that end at or below the log start, oldest first. The
// slice must not be changed.
func (m Manifest) Expired() []Entry { return m.entries[:m.firstLive()] }

// Live are the entries that may be read, oldest first. The slice must not be
// changed.
func (m Manifest) Live() []Entry { return m.entries[m.firstLive():] }

func (m Manifest) firstLive() int {
	return sort.Search(len(m.entries), func(i int) bool { return m.entries[i].End > m.logStart })
}

// LiveBytes is the sum of Bytes over the live entries.
func (m Manifest) LiveBytes() int64 {
	var n int64
	for _, e := range m.Live() {
		n += e.Bytes
	}
	return n
}

// Find returns the live entry that holds offset.
func (m Manifest) Find(offset record.Offset) (Entry, bool) {
	live := m.Live()
	i := sort.Search(len(live), func(i int) bool { return live[i].End > offset })
	if i == len(live) || !live[i].Contains(offset) {
		return Entry{}, false
	}
	return live[i], true
}

// FindTime returns the first live entry whose newest record is at or after ts
// (ms since the Unix epoch): the one entry in which the first record with such a
// timestamp can be. Timestamps need not increase along the log, so the search is
// linear.
func (m Manifest) FindTime(ts int64) (Entry, bool) {
	for _, e := range m.Live() {
		if e.MaxTimestamp >= ts {
			return e, true
		}
	}
	return Entry{}, false
}

// WithLogStart raises the log start; entries that now end at or below it become
// expired. A lower value than the present one changes nothing.
func (m Manifest) WithLogStart(logStart record.Offset) Manifest {
	if logStart <= m.logStart {
		return m
	}
	was := m.firstLive()
	m.logStart = logStart
	now := m.firstLive()
	if now == was {
		return m
	}
	m.entries = slices.Clone(m.entries)
	for i := was; i < now; i++ {
		m.entries[i].State = StateExpired
	}
	return m
}

// WithCopied adds the entry of a finished copy and raises the remote end to its
// end. The copy was begun at CopyStart; the log start may have moved since. An
// entry that ends at or below the log start is not added, and added is false:
// its object is for deletion. The error wraps ErrInvalid or ErrRange.
func (m Manifest) WithCopied(e Entry) (next Manifest, added bool, err error) {
	if err := e.Validate(); err != nil {
		return m, false, err
	}
	if e.Start < m.remoteEnd || e.Start > m.CopyStart() {
		return m, false, fmt.Errorf("%w: copy begins at %d, remote end is %d, log start %d", ErrRange, e.Start, m.remoteEnd, m.logStart)
	}
	if e.End <= m.logStart {
		return m, false, nil
	}
	e.State = StateLive
	m.entries = append(slices.Clip(m.entries), e)
	m.remoteEnd = e.End
	return m, true, nil
}

// Without removes the expired entry that starts at start. The error wraps
// ErrNotFound, or ErrRange if the entry is live.
func (m Manifest) Without(start record.Offset) (Manifest, error) {
	i, ok := slices.BinarySearchFunc(m.entries, start, func(e Entry, s record.Offset) int {
		switch {
		case e.Start < s:
			return -1
		case e.Start > s:
			return 1
		}
		return 0
	})
	if !ok {
		return m, fmt.Errorf("%w: start %d", ErrNotFound, start)
	}
	if m.entries[i].State != StateExpired {
		return m, fmt.Errorf("%w: entry [%d, %d) is live above log start %d", ErrRange, start, m.entries[i].End, m.logStart)
	}
	m.entries = slices.Concat(m.entries[:i], m.entries[i+1:])
	return m, nil
}
