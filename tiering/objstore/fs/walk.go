package fs

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/tiering/objstore"
)

// walker lists keys in byte order. Directories sort with their slash, for
// "a-b" comes before "a/b".
type walker struct {
	ctx                      context.Context
	root, prefix, startAfter string
	yield                    func(objstore.ObjectInfo, error) bool
}

// walk visits the directory of keys that begin with dir, which is "" or ends
// in a slash. It returns false when the caller wants no more.
func (w *walker) walk(dir string) (bool, error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	entries, err := os.ReadDir(filepath.Join(w.root, filepath.FromSlash(dir)))
	if errors.Is(err, iofs.ErrNotExist) {
		return true, nil // removed meanwhile, or a prefix that nothing has
	}
	if err != nil {
		return false, err
	}
	type named struct {
		key   string // ends in a slash for a directory
		entry os.DirEntry
	}
	children := make([]named, 0, len(entries))
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), "."): // the driver's own
		case e.IsDir():
			children = append(children, named{dir + e.Name() + "/", e})
		case e.Type().IsRegular():
			children = append(children, named{dir + e.Name(), e})
		}
	}
	slices.SortFunc(children, func(a, b named) int { return strings.Compare(a.key, b.key) })
	for _, c := range children {
		more := true
		var err error
		switch {
		case c.entry.IsDir() && w.mayHold(c.key):
			more, err = w.walk(c.key)
		case !c.entry.IsDir() && strings.HasPrefix(c.key, w.prefix) && c.key > w.startAfter:
			more, err = w.show(c.key, c.entry)
		}
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// mayHold says whether a key that begins with dir can be wanted.
func (w *walker) mayHold(dir string) bool {
	if !strings.HasPrefix(dir, w.prefix) && !strings.HasPrefix(w.prefix, dir) {
		return false
	}
	return dir > w.startAfter || strings.HasPrefix(w.startAfter, dir)
}

func (w *walker) show(key string, e os.DirEntry) (bool, error) {
	st, err := e.Info()
	if errors.Is(err, iofs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return w.yield(objstore.ObjectInfo{Key: key, Size: st.Size(), Modified: st.ModTime(), AsOf: time.Now()}, nil), nil
}
