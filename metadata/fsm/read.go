package fsm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/fsm/statepb"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// ctxEvery is how many keys a scan reads between looks at its context.
const ctxEvery = 256

// Entries returns all remote entries of a partition (metadata.Client).
func (f *FSM) Entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error) {
	m, turn, ok := f.manifests.get(tp)
	if ok {
		return m, nil
	}
	snap := f.db.NewSnapshot()
	m, err := readEntries(ctx, snap, tp)
	if err = errors.Join(err, snap.Close()); err != nil {
		return manifest.Manifest{}, fmt.Errorf("remote entries of %s: %w", tp, err)
	}
	f.manifests.put(tp, m, turn)
	return m, nil
}

func readEntries(ctx context.Context, r pebble.Reader, tp record.TopicPartition) (manifest.Manifest, error) {
	var pm statepb.Partition
	known, err := getValue(r, partitionKey(tp), &pm)
	if err != nil {
		return manifest.Manifest{}, err
	}
	var entries []manifest.Entry
	prefix := entriesPrefix(tp)
	err = scan(r, prefix, func(key, value []byte) error {
		if len(entries)%ctxEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		e, err := readEntry(key, value)
		entries = append(entries, e)
		return err
	})
	if err != nil {
		return manifest.Manifest{}, err
	}
	if known {
		return manifest.New(record.Offset(pm.GetLogStart()), record.Offset(pm.GetRemoteEnd()), entries)
	}
	if len(entries) == 0 {
		return manifest.Manifest{}, nil
	}
	return manifest.New(math.MaxInt64, entries[len(entries)-1].End, entries)
}

func readEntry(key, value []byte) (manifest.Entry, error) {
	_, start, err := parseEntryKey(key)
	if err != nil {
		return manifest.Entry{}, err
	}
	var m statepb.Entry
	if err := decodeValue(value, &m); err != nil {
		return manifest.Entry{}, err
	}
	return entryFromProto(start, &m)
}

// FindEntry returns the live entry that holds offset (metadata.Client).
func (f *FSM) FindEntry(tp record.TopicPartition, offset record.Offset) (_ manifest.Entry, ok bool, err error) {
	p := f.Image().Partition(tp)
	if p == nil || offset < 0 || offset == math.MaxInt64 {
		return manifest.Entry{}, false, nil
	}
	prefix := entriesPrefix(tp)
	it, err := f.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: prefixEnd(prefix)})
	if err != nil {
		return manifest.Entry{}, false, fmt.Errorf("remote entry of %s at %d: %w", tp, offset, err)
	}
	defer func() {
		if cerr := it.Close(); cerr != nil && err == nil {
			ok, err = false, fmt.Errorf("remote entry of %s at %d: %w", tp, offset, cerr)
		}
	}()
	if !it.SeekLT(entryKey(tp, offset+1)) {
		return manifest.Entry{}, false, nil
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return manifest.Entry{}, false, fmt.Errorf("remote entry of %s at %d: %w", tp, offset, err)
	}
	e, err := readEntry(it.Key(), v)
	if err != nil {
		return manifest.Entry{}, false, fmt.Errorf("remote entry of %s at %d: %w", tp, offset, err)
	}
	return e, e.Contains(offset) && e.End > p.LogStart, nil
}

// Object returns what is known of an object (metadata.Client).
func (f *FSM) Object(id uuid.UUID) (metadata.Object, bool, error) { return getObject(f.db, id) }

// Objects iterates over every object (metadata.Client).
func (f *FSM) Objects(ctx context.Context) iter.Seq2[metadata.Object, error] {
	return f.iterate(ctx, func(r pebble.Reader, fn func(metadata.Object) error) error {
		return scan(r, []byte(prefixObject), func(key, value []byte) error {
			k, err := keyTail(key, prefixObject, 16)
			if err != nil {
				return err
			}
			var m statepb.Object
			if err := decodeValue(value, &m); err != nil {
				return err
			}
			o, err := objectFromProto(uuid.UUID(k), &m)
			if err != nil {
				return err
			}
			return fn(o)
		})
	})
}

// PendingObjects iterates over the objects that are copying or deleting
// (metadata.Client).
func (f *FSM) PendingObjects(ctx context.Context) iter.Seq2[metadata.Object, error] {
	return f.iterate(ctx, scanPending)
}

// iterate turns a scan into a sequence over one snapshot. An error is the last
// element.
func (f *FSM) iterate(ctx context.Context, scanner func(pebble.Reader, func(metadata.Object) error) error) iter.Seq2[metadata.Object, error] {
	return func(yield func(metadata.Object, error) bool) {
		snap := f.db.NewSnapshot()
		n := 0
		err := scanner(snap, func(o metadata.Object) error {
			if n++; n%ctxEvery == 1 && ctx.Err() != nil {
				return ctx.Err()
			}
			if !yield(o, nil) {
				return errStop
			}
			return nil
		})
		stopped := errors.Is(err, errStop)
		if stopped {
			err = nil
		}
		if err = errors.Join(err, snap.Close()); err != nil && !stopped {
			yield(metadata.Object{}, fmt.Errorf("objects: %w", err))
		}
	}
}

// Refs returns the partitions that refer to an object (metadata.Client).
func (f *FSM) Refs(object uuid.UUID) ([]record.TopicPartition, error) {
	var refs []record.TopicPartition
	err := scan(f.db, refsPrefix(object), func(key, _ []byte) error {
		_, tp, _, err := parseRefKey(key)
		if n := len(refs); n == 0 || refs[n-1] != tp {
			refs = append(refs, tp)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("references to %s: %w", object, err)
	}
	return refs, nil
}

// Tombstones returns the deleted topics that are not purged (metadata.Client).
func (f *FSM) Tombstones() ([]metadata.Tombstone, error) {
	var stones []metadata.Tombstone
	err := scan(f.db, []byte(prefixTombstone), func(key, value []byte) error {
		k, err := keyTail(key, prefixTombstone, 16)
		if err != nil {
			return err
		}
		var m statepb.Tombstone
		if err := decodeValue(value, &m); err != nil {
			return err
		}
		stones = append(stones, tombstoneFromProto(record.TopicID(k), &m))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tombstones: %w", err)
	}
	return stones, nil
}
