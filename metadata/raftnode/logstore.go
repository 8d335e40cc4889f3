package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata/command"
)

// Keys of the Raft database (docs/format/metadata-raft.md).
const (
	keyStoreFormat = "format"
	prefixLog      = 'l' // index, 8 bytes big endian
	prefixStable   = 's' // Raft's name of the value

	storeFormat = 1
	// logHeader is the length of an encoded entry before its extensions and data:
	// version, type, term, time of append, length of the extensions.
	logHeader  = 1 + 1 + 8 + 8 + 4
	logVersion = 1
)

// errKeyNotFound is what Raft expects, by its text, of a stable store without the
// key.
var errKeyNotFound = errors.New("not found")

// logStore is Raft's log and stable store on one Pebble database. Every write is
// synced before it returns: a vote or an entry that Raft was told is stored
// survives power loss.
//
// Crash cases: a write is one Pebble batch, so after a crash it is there whole or
// not at all; Pebble's WAL is sequential, so a write that is there brings all
// earlier ones with it, and the log has no hole.
type logStore struct {
	db *pebble.DB

	mu struct {
		sync.RWMutex
		// first and last are the indexes of the oldest and newest entry, 0 if the
		// log is empty.
		first, last uint64
	}
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// newLogStore takes over an open database.
func newLogStore(db *pebble.DB) (*logStore, error) {
	s := &logStore{db: db}
	b, closer, err := db.Get([]byte(keyStoreFormat))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		if err := db.Set([]byte(keyStoreFormat), []byte{storeFormat}, pebble.Sync); err != nil {
			return nil, fmt.Errorf("format raft log: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("read raft log format: %w", err)
	default:
		known := len(b) == 1 && b[0] == storeFormat
		err := closer.Close()
		if !known {
			return nil, fmt.Errorf("%w: raft log format, this build knows %d", command.ErrUnknownVersion, storeFormat)
		}
		if err != nil {
			return nil, err
		}
	}
	s.mu.first, s.mu.last, err = s.bounds()
	return s, err
}

func logKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixLog}, index)
}

// bounds reads the first and last index from the database.
func (s *logStore) bounds() (first, last uint64, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixLog}, UpperBound: []byte{prefixLog + 1}})
	if err != nil {
		return 0, 0, fmt.Errorf("read raft log: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.First() {
		return 0, 0, it.Error()
	}
	if first, err = parseLogKey(it.Key()); err != nil {
		return 0, 0, err
	}
	it.Last()
	last, err = parseLogKey(it.Key())
	return first, last, err
}

func parseLogKey(key []byte) (uint64, error) {
	if len(key) != 9 {
		return 0, fmt.Errorf("%w: raft log key %q", command.ErrCorrupt, key)
	}
	return binary.BigEndian.Uint64(key[1:]), nil
}

// FirstIndex implements raft.LogStore.
func (s *logStore) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.first, nil
}

// LastIndex implements raft.LogStore.
func (s *logStore) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mu.last, nil
}

// IsMonotonic implements raft.MonotonicLogStore: the log has no hole. Raft empties it
// when it installs a snapshot that lies above its end. With a hole, entries below it
// that were never committed could be sent to others.
func (s *logStore) IsMonotonic() bool { return true }

// dropBelow empties a log that does not go on from a snapshot: it ends before it, or
// has an entry of another term there. A crash came between the snapshot's arrival and
// Raft's emptying of the log.
func (s *logStore) dropBelow(index, term uint64) error {
	s.mu.RLock()
	first, last := s.mu.first, s.mu.last
	s.mu.RUnlock()
	if last == 0 || first > index {
		return nil
	}
	if last >= index {
		var entry raft.Log
		if err := s.GetLog(index, &entry); err != nil || entry.Term == term {
			return err
		}
	}
	return s.DeleteRange(first, last)
}

// GetLog implements raft.LogStore.
func (s *logStore) GetLog(index uint64, log *raft.Log) error {
	b, closer, err := s.db.Get(logKey(index))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return fmt.Errorf("read raft log %d: %w", index, err)
	}
	err = decodeLog(b, log)
	log.Index = index
	if err = errors.Join(err, closer.Close()); err != nil {
		return fmt.Errorf("read raft log %d: %w", index, err)
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore: one batch, synced.
func (s *logStore) StoreLogs(logs []*raft.Log) (err error) {
	if len(logs) == 0 {
		return nil
	}
	size := 0
	for _, l := range logs {
		size += logHeader + 16 + len(l.Extensions) + len(l.Data)
	}
	b := s.db.NewBatchWithSize(size)
	defer func() { err = errors.Join(err, b.Close()) }()
	first, last := logs[0].Index, logs[0].Index
	for _, l := range logs {
		if err := putLog(b, l); err != nil {
			return err
		}
		first, last = min(first, l.Index), max(last, l.Index)
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("store raft log %d to %d: %w", first, last, err)
	}
	s.mu.Lock()
	if s.mu.first == 0 || first < s.mu.first {
		s.mu.first = first
	}
	s.mu.last = max(s.mu.last, last)
	s.mu.Unlock()
	return nil
}

func putLog(b *pebble.Batch, l *raft.Log) error {
	op := b.SetDeferred(9, logHeader+len(l.Extensions)+len(l.Data))
	op.Key[0] = prefixLog
	binary.BigEndian.PutUint64(op.Key[1:], l.Index)
	encodeLog(op.Value, l)
	if err := op.Finish(); err != nil {
		return fmt.Errorf("store raft log %d: %w", l.Index, err)
	}
	return nil
}

// keyTerm is Raft's name of its current term.
const keyTerm = "CurrentTerm"

// begin takes over the term and the one entry by which a cluster begins, both or
// neither. The store is empty.
func (s *logStore) begin(from *raft.InmemStore) (err error) {
	var entry raft.Log
	term, err := from.GetUint64([]byte(keyTerm))
	if err = errors.Join(err, from.GetLog(1, &entry)); err != nil {
		return fmt.Errorf("first entry of raft: %w", err)
	}
	b := s.db.NewBatch()
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := errors.Join(putLog(b, &entry), b.Set(stableKey([]byte(keyTerm)), binary.BigEndian.AppendUint64(nil, term), nil)); err != nil {
		return err
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("store the first entry of raft: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.first, s.mu.last = entry.Index, entry.Index
	return nil
}

// DeleteRange implements raft.LogStore; both ends are inclusive.
func (s *logStore) DeleteRange(from, to uint64) error {
	if err := s.db.DeleteRange(logKey(from), logKey(to+1), pebble.Sync); err != nil {
		return fmt.Errorf("cut raft log %d to %d: %w", from, to, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last, err := s.bounds()
	if err != nil {
		return err
	}
	s.mu.first, s.mu.last = first, last
	return nil
}

// encodeLog fills b, which has exactly the encoded length.
func encodeLog(b []byte, l *raft.Log) {
	b[0], b[1] = logVersion, byte(l.Type)
	binary.BigEndian.PutUint64(b[2:], l.Term)
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	binary.BigEndian.PutUint64(b[10:], uint64(at))
	binary.BigEndian.PutUint32(b[18:], uint32(len(l.Extensions)))
	copy(b[logHeader:], l.Extensions)
	copy(b[logHeader+len(l.Extensions):], l.Data)
}

// decodeLog reads what encodeLog wrote; the log shares no memory with b.
func decodeLog(b []byte, l *raft.Log) error {
	if len(b) < logHeader {
		return fmt.Errorf("%w: raft log entry of %d bytes", command.ErrCorrupt, len(b))
	}
	if b[0] != logVersion {
		return fmt.Errorf("%w: raft log entry version %d, this build knows %d", command.ErrUnknownVersion, b[0], logVersion)
	}
	ext := binary.BigEndian.Uint32(b[18:])
	rest := b[logHeader:]
	if uint64(ext) > uint64(len(rest)) {
		return fmt.Errorf("%w: raft log entry with extensions of %d bytes in %d", command.ErrCorrupt, ext, len(rest))
	}
	*l = raft.Log{Type: raft.LogType(b[1]), Term: binary.BigEndian.Uint64(b[2:])}
	if at := int64(binary.BigEndian.Uint64(b[10:])); at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	if ext > 0 {
		l.Extensions = append([]byte(nil), rest[:ext]...)
	}
	if data := rest[ext:]; len(data) > 0 {
		l.Data = append([]byte(nil), data...)
	}
	return nil
}

func stableKey(key []byte) []byte { return append([]byte{prefixStable}, key...) }

// Set implements raft.StableStore.
func (s *logStore) Set(key, val []byte) error {
	if err := s.db.Set(stableKey(key), val, pebble.Sync); err != nil {
		return fmt.Errorf("store raft %s: %w", key, err)
	}
	return nil
}

// Get implements raft.StableStore.
func (s *logStore) Get(key []byte) ([]byte, error) {
	b, closer, err := s.db.Get(stableKey(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, errKeyNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read raft %s: %w", key, err)
	}
	out := append([]byte{}, b...)
	return out, closer.Close()
}

// SetUint64 implements raft.StableStore.
func (s *logStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (s *logStore) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: raft %s has %d bytes, want 8", command.ErrCorrupt, key, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}
