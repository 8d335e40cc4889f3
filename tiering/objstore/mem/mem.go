// Package mem is an object store in memory, for tests and for trying Firn out
// (`--object-store mem:`). Its content dies with the process.
//
// It runs no goroutine. INVARIANT: a stored body is never modified after it
// was put into the map, so readers need no lock once they hold it.
package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/tiering/objstore"
)

// Store implements objstore.Store. Make one with New.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	body  []byte
	sum   objstore.Checksum
	mtime time.Time
}

var _ objstore.Store = (*Store)(nil)

// New makes an empty store.
func New() *Store { return &Store{objects: map[string]object{}} }

func (s *Store) String() string { return "mem:" }

// Close does nothing; the content stays.
func (s *Store) Close() error { return nil }

func (s *Store) fail(op, key string, kind, err error) error {
	return &objstore.OpError{Op: op, Store: s.String(), Key: key, Kind: kind, Err: err}
}

func (s *Store) invalid(op, key string, err error) error {
	return s.fail(op, key, objstore.ErrInvalid, err)
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o objstore.PutOptions) (objstore.ObjectInfo, error) {
	if err := objstore.ValidateKey(key); err != nil {
		return objstore.ObjectInfo{}, s.fail("put", key, nil, err)
	}
	if size < 0 {
		return objstore.ObjectInfo{}, s.invalid("put", key, fmt.Errorf("size %d is negative", size))
	}
	b := make([]byte, size)
	if n, err := body.ReadAt(b, 0); int64(n) != size {
		return objstore.ObjectInfo{}, s.invalid("put", key, fmt.Errorf("read body: %d of %d bytes: %w", n, size, err))
	}
	if err := ctx.Err(); err != nil {
		return objstore.ObjectInfo{}, s.fail("put", key, nil, err)
	}
	sum := objstore.ChecksumOf(b)
	if o.Checksum.Valid() && o.Checksum != sum {
		return objstore.ObjectInfo{}, s.fail("put", key, objstore.ErrChecksum, fmt.Errorf("body is %v, want %v", sum, o.Checksum))
	}
	return s.insert("put", key, object{body: b, sum: sum, mtime: time.Now()}, o.IfAbsent)
}

func (s *Store) insert(op, key string, obj object, ifAbsent bool) (objstore.ObjectInfo, error) {
	s.mu.Lock()
	_, taken := s.objects[key]
	if !taken || !ifAbsent {
		s.objects[key] = obj
	}
	s.mu.Unlock()
	if taken && ifAbsent {
		return objstore.ObjectInfo{}, s.fail(op, key, objstore.ErrExists, nil)
	}
	return obj.info(key), nil
}

func (o object) info(key string) objstore.ObjectInfo {
	return objstore.ObjectInfo{Key: key, Size: int64(len(o.body)), Checksum: o.sum, Modified: o.mtime, AsOf: time.Now()}
}

func (s *Store) find(ctx context.Context, op, key string) (object, error) {
	if err := objstore.ValidateKey(key); err != nil {
		return object{}, s.fail(op, key, nil, err)
	}
	if err := ctx.Err(); err != nil {
		return object{}, s.fail(op, key, nil, err)
	}
	s.mu.Lock()
	obj, ok := s.objects[key]
	s.mu.Unlock()
	if !ok {
		return object{}, s.fail(op, key, objstore.ErrNotExist, nil)
	}
	return obj, nil
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	obj, err := s.find(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	if size := int64(len(obj.body)); off < 0 || length < 0 || off > size || length > size-off {
		return nil, s.invalid("get", key, fmt.Errorf("range [%d, %d+%d) of %d bytes", off, off, length, size))
	}
	return io.NopCloser(bytes.NewReader(obj.body[off : off+length])), nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.ObjectInfo, error) {
	obj, err := s.find(ctx, "head", key)
	if err != nil {
		return objstore.ObjectInfo{}, err
	}
	return obj.info(key), nil
}

// Delete implements objstore.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) []error {
	errs := make([]error, len(keys))
	for i, key := range keys {
		if _, err := s.find(ctx, "delete", key); err != nil {
			if !errors.Is(err, objstore.ErrNotExist) {
				errs[i] = err
			}
			continue
		}
		s.mu.Lock()
		delete(s.objects, key)
		s.mu.Unlock()
	}
	return errs
}

// List implements objstore.Store. It shows the content at the moment when
// iteration begins.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[objstore.ObjectInfo, error] {
	return func(yield func(objstore.ObjectInfo, error) bool) {
		if err := objstore.ValidatePrefix(prefix); err != nil {
			yield(objstore.ObjectInfo{}, s.fail("list", prefix, nil, err))
			return
		}
		var found []objstore.ObjectInfo
		s.mu.Lock()
		for key, obj := range s.objects {
			if strings.HasPrefix(key, prefix) && key > startAfter {
				found = append(found, obj.info(key))
			}
		}
		s.mu.Unlock()
		slices.SortFunc(found, func(a, b objstore.ObjectInfo) int { return strings.Compare(a.Key, b.Key) })
		for _, info := range found {
			if err := ctx.Err(); err != nil {
				yield(objstore.ObjectInfo{}, s.fail("list", prefix, nil, err))
				return
			}
			info.Checksum = objstore.Checksum{}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Copy implements objstore.Store.
func (s *Store) Copy(ctx context.Context, src, dst string, _ objstore.CopyOptions) (objstore.ObjectInfo, error) {
	if err := objstore.ValidateKey(dst); err != nil {
		return objstore.ObjectInfo{}, s.fail("copy", dst, nil, err)
	}
	obj, err := s.find(ctx, "copy", src)
	if err != nil {
		return objstore.ObjectInfo{}, err
	}
	obj.mtime = time.Now()
	return s.insert("copy", dst, obj, false)
}
