package cache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// deadFile is a file to close and remove once the lock is released.
type deadFile struct {
	path string
	file *os.File // nil if not open, or still read
}

func (c *Cache) path(e *entry) string {
	return filepath.Join(c.opts.Dir, fileName(e.key, e.seq))
}

// adopt takes over the files that an earlier process left, oldest first, and
// removes what is none of ours or half written. Contents are not read here: a
// large cache must not delay the start.
func (c *Cache) adopt() error {
	if err := os.MkdirAll(c.opts.Dir, 0o700); err != nil {
		return err
	}
	var found []*entry
	err := filepath.WalkDir(c.opts.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		key, seq, ok := parseFileName(d.Name())
		switch {
		case ok && info.Size() > fileHeaderSize && info.Mode().IsRegular():
			found = append(found, &entry{key: key, seq: seq, size: info.Size() - fileHeaderSize, onDisk: true})
		case ok || strings.HasSuffix(d.Name(), tempSuffix):
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	var dead []deadFile
	for _, e := range found {
		if old := c.entries[e.key]; old != nil {
			dead = append(dead, c.dropLocked(old)...)
		}
		c.entries[e.key] = e
		c.lastSeq = e.seq
		e.disk = node{entry: e, weight: e.size}
		c.disk.add(&e.disk)
	}
	dead = append(dead, c.evictDiskLocked(c.opts.DiskBytes)...)
	c.stats.Adopted = uint64(c.disk.len())
	return c.removeFiles(dead)
}

// openEntry opens an entry's file, and verifies it if this process did not
// write it. A file that fails is dropped. The caller has set e.opening.
func (c *Cache) openEntry(e *entry) {
	// size, seq and key do not change while the entry is on disk; verified is
	// changed only here, by whoever has set e.opening.
	f, err := os.Open(c.path(e))
	if err == nil && !e.verified {
		if err = verifyFile(f, e.key, e.size); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	var dead []deadFile
	var closing []*os.File
	c.mu.Lock()
	close(e.opening)
	e.opening = nil
	switch {
	case err != nil && !e.gone && e.onDisk:
		c.stats.CorruptFiles++
		dead = c.leaveDiskLocked(e)
		c.maybeForgetLocked(e)
	case err != nil:
		err = nil // evicted meanwhile, so its file was removed
	case e.gone || !e.onDisk:
		closing = append(closing, f)
	default:
		e.verified = true
		e.file = f
		closing = c.restLocked(e)
	}
	c.mu.Unlock()
	if err != nil {
		c.log.Warn("cache: dropped a file", "chunk", e.key, "error", err)
	}
	if err := errors.Join(c.removeFiles(dead), closeAll(closing)); err != nil {
		c.log.Warn("cache: remove or close file", "chunk", e.key, "error", err)
	}
}

// enqueueLocked hands a chunk that leaves memory to the writer, if disk and queue
// have room.
func (c *Cache) enqueueLocked(e *entry, data *shared) {
	if e.size == 0 || e.size > c.opts.DiskBytes || c.isClose {
		return
	}
	if c.queued+e.size > c.opts.WriteQueueBytes || time.Now().Before(c.offTill) {
		c.stats.DiskSkipped++
		return
	}
	data.refs++
	e.pending = data
	c.queue = append(c.queue, e)
	c.queued += e.size
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writeBehind is the writer: it ends when the cache is closed.
func (c *Cache) writeBehind() {
	defer close(c.done)
	for {
		select {
		case <-c.closed:
			return
		case <-c.wake:
		}
		for c.writeNext() {
		}
	}
}

// writeNext writes the oldest chunk of the queue; false if there is none.
func (c *Cache) writeNext() bool {
	c.mu.Lock()
	if len(c.queue) == 0 || c.isClose {
		c.mu.Unlock()
		return false
	}
	e := c.queue[0]
	c.queue[0] = nil
	if c.queue = c.queue[1:]; len(c.queue) == 0 {
		c.queue = nil
	}
	if e.gone || time.Now().Before(c.offTill) {
		c.stats.DiskSkipped++
		c.endWriteLocked(e)
		c.mu.Unlock()
		return true
	}
	data := e.pending.data // kept until endWriteLocked
	c.lastSeq++
	e.seq = c.lastSeq
	dead := c.evictDiskLocked(c.opts.DiskBytes - e.size)
	room := c.disk.bytes()+e.size <= c.opts.DiskBytes
	c.mu.Unlock()

	err := c.removeFiles(dead)
	if err == nil && room {
		err = writeFile(c.create, c.path(e), e.key, data)
	}
	c.mu.Lock()
	switch {
	case err != nil:
		c.stats.DiskWriteErrors++
		c.offTill = time.Now().Add(c.opts.DiskRetry)
		dead = nil
		if errors.Is(err, syscall.ENOSPC) {
			// The log may live on the same disk: give some room back.
			dead = c.evictDiskLocked(c.disk.bytes() * 3 / 4)
		}
	case !room:
		c.stats.DiskSkipped++ // all that is there is pinned
		dead = nil
	case e.gone:
		dead = []deadFile{{path: c.path(e)}}
	default:
		dead = nil
		e.onDisk, e.verified = true, true
		e.disk = node{entry: e, weight: e.size}
		c.disk.add(&e.disk)
		c.stats.DiskWrites++
		c.stats.DiskWriteBytes += e.size
	}
	c.endWriteLocked(e)
	c.mu.Unlock()
	if err != nil {
		c.log.Warn("cache: disk fills are off for a while", "for", c.opts.DiskRetry, "error", err)
	}
	if err := c.removeFiles(dead); err != nil {
		c.log.Warn("cache: remove files", "error", err)
	}
	return true
}

func (c *Cache) endWriteLocked(e *entry) {
	c.queued -= e.size
	c.unrefLocked(e.pending)
	e.pending = nil
	c.maybeForgetLocked(e)
}

// evictDiskLocked takes entries off the disk until at most limit bytes are
// there or all others are pinned.
func (c *Cache) evictDiskLocked(limit int64) (dead []deadFile) {
	for c.disk.bytes() > limit {
		n := c.disk.evict(func(e *entry) bool { return e.diskPins > 0 })
		if n == nil {
			break
		}
		c.stats.DiskEvictions++
		dead = append(dead, c.leaveDiskLocked(n.entry)...)
		c.maybeForgetLocked(n.entry)
	}
	return dead
}

// leaveDiskLocked takes an entry off the disk tier. A file that is being read
// is removed under its readers, who close it.
func (c *Cache) leaveDiskLocked(e *entry) []deadFile {
	if !e.onDisk {
		return nil
	}
	e.onDisk = false
	c.disk.remove(&e.disk)
	d := deadFile{path: c.path(e)}
	if e.diskPins == 0 && e.file != nil {
		c.idle.remove(e)
		d.file, e.file = e.file, nil
	}
	return []deadFile{d}
}

func (c *Cache) removeFiles(dead []deadFile) error {
	var err error
	for _, d := range dead {
		if d.file != nil {
			err = errors.Join(err, d.file.Close())
		}
		if rerr := os.Remove(d.path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}
