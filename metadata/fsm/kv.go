package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata/command"
)

// scan calls fn for each key that begins with prefix, in order. key and value are
// valid only during the call.
func scan(r pebble.Reader, prefix []byte, fn func(key, value []byte) error) error {
	return scanRange(r, prefix, prefixEnd(prefix), fn)
}

func scanRange(r pebble.Reader, from, to []byte, fn func(key, value []byte) error) (err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return fmt.Errorf("iterate metadata state: %w", err)
	}
	defer func() {
		if cerr := it.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("iterate metadata state: %w", cerr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("read %q: %w", it.Key(), err)
		}
		if err := fn(it.Key(), v); err != nil {
			return err
		}
	}
	return nil
}

// hasAny reports whether a key begins with prefix.
func hasAny(r pebble.Reader, prefix []byte) (bool, error) {
	found := false
	err := scan(r, prefix, func(_, _ []byte) error {
		found = true
		return errStop
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return found, err
}

// errStop ends a scan early.
var errStop = errors.New("stop")

// getValue reads a stored message; false if there is none.
func getValue(r pebble.Reader, key []byte, m proto.Message) (bool, error) {
	b, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %q: %w", key, err)
	}
	err = decodeValue(b, m)
	if cerr := closer.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return false, fmt.Errorf("read %q: %w", key, err)
	}
	return true, nil
}

func putUint(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func getUint(r pebble.Reader, key string) (uint64, bool, error) {
	b, closer, err := r.Get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read %q: %w", key, err)
	}
	defer closer.Close()
	if len(b) != 8 {
		return 0, false, fmt.Errorf("%w: %q has %d bytes, want 8", command.ErrCorrupt, key, len(b))
	}
	return binary.BigEndian.Uint64(b), true, nil
}
