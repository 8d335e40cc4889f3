// Package fs keeps objects as plain files below one directory. It is the
// embedded default: no server, and the objects can be looked at, or moved to
// a bucket, with ordinary tools.
//
// A key is the file's path below the root. A Put writes a temporary file in
// <root>/.firn-tmp, syncs it, and then links (IfAbsent) or renames it to its
// name and syncs the directories, so an object appears whole, once, and stays
// after power loss. The CRC-32C is stored in the extended attribute
// user.firn.crc32c before the file gets its name; where the file system has
// none, Head computes it by reading the file.
//
// The package runs no goroutine. Several processes may share a root: a
// temporary file is locked (flock) while its writer lives, and Open removes
// only those that nobody holds.
//
// Crash cases: before the link, the temporary file is left and the next Open
// removes it. After the link and before its unlink, the same file has two
// names and only the temporary one is removed. A link whose directory was not
// synced may be lost; the Put was not acknowledged then.
//
// One limit that buckets do not have: a key cannot also be the directory part
// of another ("a" and "a/b").
package fs

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	iofs "io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/tiering/objstore"
)

const (
	tempDir   = ".firn-tmp" // no key can name it: segments never begin with a dot
	crcAttr   = "user.firn.crc32c"
	copyBlock = 1 << 20 // bytes read and written at a time
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Store implements objstore.Store on a directory. Make one with Open.
type Store struct {
	root string // absolute, clean
}

var _ objstore.Store = (*Store)(nil)

// Open makes root if needed, checks that it can be written, and removes
// temporary files of writers that died.
func Open(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("object store directory: %w", err)
	}
	s := &Store{root: root}
	if err := s.mkdirs(filepath.Join(root, tempDir)); err != nil {
		return nil, fmt.Errorf("object store directory %s: %w", root, err)
	}
	if err := s.removeStaleTemps(); err != nil {
		return nil, fmt.Errorf("object store directory %s: %w", root, err)
	}
	return s, nil
}

func (s *Store) String() string { return "fs://" + s.root }

// Close does nothing: the store keeps no file open.
func (s *Store) Close() error { return nil }

func (s *Store) path(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

// fail classifies an error of the operating system. A full or failing disk is
// transient: the same call succeeds once there is room.
func (s *Store) fail(op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := &objstore.OpError{Op: op, Store: s.String(), Key: key, Err: err}
	switch {
	case errors.Is(err, objstore.ErrInvalid), errors.Is(err, objstore.ErrChecksum),
		errors.Is(err, objstore.ErrTransient), errors.Is(err, objstore.ErrExists),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		// classified where it arose
	case errors.Is(err, iofs.ErrNotExist):
		e.Kind = objstore.ErrNotExist
	case errors.Is(err, iofs.ErrExist):
		e.Kind = objstore.ErrExists
	case errors.Is(err, iofs.ErrPermission):
		e.Kind = objstore.ErrDenied
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENAMETOOLONG):
		e.Kind = objstore.ErrInvalid
	default:
		e.Kind = objstore.ErrTransient
	}
	return e
}

// Put implements objstore.Store. StorageClass is ignored.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o objstore.PutOptions) (objstore.ObjectInfo, error) {
	info, err := s.put(ctx, key, body, size, o.IfAbsent, o.Checksum)
	return info, s.fail("put", key, err)
}

func (s *Store) put(ctx context.Context, key string, body io.ReaderAt, size int64, ifAbsent bool, want objstore.Checksum) (_ objstore.ObjectInfo, err error) {
	if err := objstore.ValidateKey(key); err != nil {
		return objstore.ObjectInfo{}, err
	}
	if size < 0 {
		return objstore.ObjectInfo{}, fmt.Errorf("%w: size %d is negative", objstore.ErrInvalid, size)
	}
	path := s.path(key)
	if ifAbsent {
		// Cheap refusal before the bytes are written; the link below decides.
		if _, err := os.Lstat(path); err == nil {
			return objstore.ObjectInfo{}, objstore.ErrExists
		}
	}
	tmp, err := s.createTemp()
	if err != nil {
		return objstore.ObjectInfo{}, err
	}
	defer func() {
		// After a rename the temporary name is gone already. Closing last
		// keeps the lock, so that no cleaner meets a half-made file.
		if rmErr := os.Remove(tmp.Name()); rmErr != nil && !errors.Is(rmErr, iofs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
		err = errors.Join(err, tmp.Close())
	}()
	sum, err := writeBody(ctx, tmp, body, size)
	if err != nil {
		return objstore.ObjectInfo{}, err
	}
	if want.Valid() && want != sum {
		return objstore.ObjectInfo{}, fmt.Errorf("%w: body is %v, want %v", objstore.ErrChecksum, sum, want)
	}
	if err := setChecksum(tmp, sum); err != nil {
		return objstore.ObjectInfo{}, err
	}
	if err := tmp.Sync(); err != nil {
		return objstore.ObjectInfo{}, err
	}
	st, err := tmp.Stat()
	if err != nil {
		return objstore.ObjectInfo{}, err
	}
	if err := s.mkdirs(filepath.Dir(path)); err != nil {
		return objstore.ObjectInfo{}, err
	}
	if ifAbsent {
		err = os.Link(tmp.Name(), path)
	} else {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return objstore.ObjectInfo{}, err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return objstore.ObjectInfo{}, err
	}
	return objstore.ObjectInfo{Key: key, Size: size, Checksum: sum, Modified: st.ModTime(), AsOf: time.Now()}, nil
}

// writeBody copies body to f by blocks, so that a cancelled context is seen.
func writeBody(ctx context.Context, f *os.File, body io.ReaderAt, size int64) (objstore.Checksum, error) {
	buf := make([]byte, min(size, copyBlock))
	crc := uint32(0)
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return objstore.Checksum{}, err
		}
		b := buf[:min(int64(len(buf)), size-off)]
		if n, err := body.ReadAt(b, off); n < len(b) {
			return objstore.Checksum{}, fmt.Errorf("%w: read body at %d: %d of %d bytes: %w", objstore.ErrInvalid, off, n, len(b), err)
		}
		if _, err := f.Write(b); err != nil {
			return objstore.Checksum{}, err
		}
		crc = crc32.Update(crc, castagnoli, b)
		off += int64(len(b))
	}
	return objstore.CRC32C(crc), ctx.Err()
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	f, st, err := s.open(ctx, key)
	if err != nil {
		return nil, s.fail("get", key, err)
	}
	if size := st.Size(); off < 0 || length < 0 || off > size || length > size-off {
		err := fmt.Errorf("%w: range [%d, %d+%d) of %d bytes", objstore.ErrInvalid, off, off, length, size)
		return nil, s.fail("get", key, errors.Join(err, f.Close()))
	}
	return &rangeReader{ctx: ctx, store: s, key: key, f: f, off: off, left: length}, nil
}

// rangeReader reads one range with pread. It sees its context between reads.
type rangeReader struct {
	ctx   context.Context
	store *Store
	key   string
	f     *os.File
	off   int64
	left  int64
}

func (r *rangeReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if err := r.ctx.Err(); err != nil {
		return 0, r.store.fail("get", r.key, err)
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.left)], r.off)
	r.off, r.left = r.off+int64(n), r.left-int64(n)
	if n > 0 || err == nil {
		return n, nil // a lasting error comes back on the next read
	}
	if errors.Is(err, io.EOF) { // somebody cut the file meanwhile
		err = fmt.Errorf("%w: %w", objstore.ErrTransient, io.ErrUnexpectedEOF)
	}
	return 0, r.store.fail("get", r.key, err)
}

// Close closes the file.
func (r *rangeReader) Close() error { return r.f.Close() }

// open opens the object's file for reading; the caller closes it.
func (s *Store) open(ctx context.Context, key string) (*os.File, os.FileInfo, error) {
	if err := objstore.ValidateKey(key); err != nil {
		return nil, nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	f, err := os.Open(s.path(key))
	if errors.Is(err, syscall.ENOTDIR) {
		err = iofs.ErrNotExist // "a/b" where "a" is an object
	}
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = iofs.ErrNotExist // a directory on the way to objects is none itself
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, st, nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (_ objstore.ObjectInfo, err error) {
	f, st, err := s.open(ctx, key)
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("head", key, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum, err := checksum(f)
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("head", key, err)
	}
	return objstore.ObjectInfo{Key: key, Size: st.Size(), Checksum: sum, Modified: st.ModTime(), AsOf: time.Now()}, nil
}

// setChecksum records sum with the file. A file system without extended
// attributes is no error.
func setChecksum(f *os.File, sum objstore.Checksum) error {
	err := unix.Fsetxattr(int(f.Fd()), crcAttr, []byte(sum.String()), 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return err
}

// checksum gives the recorded checksum, or that of the bytes when none is.
func checksum(f *os.File) (objstore.Checksum, error) {
	buf := make([]byte, 64)
	if n, err := unix.Fgetxattr(int(f.Fd()), crcAttr, buf); err == nil {
		return objstore.ParseChecksum(string(buf[:n]))
	}
	sum, _, err := objstore.ChecksumReader(f)
	return sum, err
}

// Delete implements objstore.Store. Directories stay: there are at most 256
// of them per cluster, and removing one races with a Put into it.
func (s *Store) Delete(ctx context.Context, keys ...string) []error {
	errs := make([]error, len(keys))
	dirs := map[string][]int{} // directory to sync -> keys removed from it
	for i, key := range keys {
		err := objstore.ValidateKey(key)
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = os.Remove(s.path(key))
		}
		switch {
		case err == nil:
			dir := filepath.Dir(s.path(key))
			dirs[dir] = append(dirs[dir], i)
		case errors.Is(err, iofs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		case errors.Is(err, syscall.ENOTEMPTY):
			// a directory on the way to objects is no object
		default:
			errs[i] = s.fail("delete", key, err)
		}
	}
	for dir, removed := range dirs {
		if err := syncDir(dir); err != nil {
			for _, i := range removed {
				errs[i] = s.fail("delete", keys[i], err)
			}
		}
	}
	return errs
}

// List implements objstore.Store.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[objstore.ObjectInfo, error] {
	return func(yield func(objstore.ObjectInfo, error) bool) {
		err := objstore.ValidatePrefix(prefix)
		if err == nil {
			w := walker{ctx: ctx, root: s.root, prefix: prefix, startAfter: startAfter, yield: yield}
			_, err = w.walk(prefix[:strings.LastIndexByte(prefix, '/')+1])
		}
		if err != nil {
			yield(objstore.ObjectInfo{}, s.fail("list", prefix, err))
		}
	}
}

// Copy implements objstore.Store. The bytes are copied, not linked: a copy
// has a date of its own.
func (s *Store) Copy(ctx context.Context, src, dst string, _ objstore.CopyOptions) (_ objstore.ObjectInfo, err error) {
	f, st, err := s.open(ctx, src)
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("copy", src, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum, err := checksum(f)
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("copy", src, err)
	}
	info, err := s.put(ctx, dst, f, st.Size(), false, sum)
	return info, s.fail("copy", dst, err)
}
