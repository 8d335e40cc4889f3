package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

func (c *Cache) path(e *entry) string {
	return filepath.Join(c.opts.Dir, fileName(e.key, e.seq, e.size))
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
		key, seq, size, ok := parseFileName(d.Name())
		switch {
		case ok && info.Size() == fileSize(size) && info.Mode().IsRegular():
			found = append(found, &entry{key: key, seq: seq, size: size, onDisk: true})
			return nil
		case ok:
			c.stats.CorruptFiles++ // cut off
		case !isFormer(d.Name()):
			return nil
		}
		return os.Remove(path)
	})
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
	var dead []string
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

// load reads a chunk from its file into memory and pins it there, once for all who
// want it. It verifies what this process did not write. A file that fails is
// dropped. The result is nil if the caller has to look again.
//
// Why all of it, and not sendfile of what is wanted: who reads a chunk mostly
// reads on to its end, in answers of a quarter of it. One read of 4 MiB past the
// page cache costs a tenth of what sending from a file page by page costs more than
// sending from memory does, and what is read twice is in memory the second time.
func (c *Cache) load(ctx context.Context, e *entry, visit bool) (*Handle, error) {
	c.mu.Lock()
	if wait := e.loading; wait != nil || e.gone || !e.onDisk || e.data != nil {
		c.mu.Unlock()
		if wait == nil {
			return nil, nil // it has changed since the caller looked
		}
		select {
		case <-wait:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	e.loading = make(chan struct{})
	path, trusted := c.path(e), e.verified
	c.mu.Unlock()

	buf := c.Buffer(int(e.size)) // key and size of an entry on disk do not change
	image := room(buf)
	var crc uint32
	err := readFile(c.open, path, image)
	if err == nil {
		crc, err = checkImage(image, e.key, e.size, trusted)
	}
	return c.loaded(e, buf, crc, err, visit), nil
}

// loaded ends a load.
func (c *Cache) loaded(e *entry, buf []byte, crc uint32, err error, visit bool) (h *Handle) {
	var dead []string
	c.mu.Lock()
	close(e.loading)
	e.loading = nil
	b := &shared{data: buf, refs: 1}
	switch {
	case e.gone || !e.onDisk || c.isClose:
		err = nil // dropped meanwhile, so its file was removed
	case err != nil:
		c.stats.CorruptFiles++
		dead = c.leaveDiskLocked(e)
		c.maybeForgetLocked(e)
	default:
		e.verified, e.crc = true, crc
		c.stats.DiskHits++
		c.keepLocked(e, b)
		c.touchLocked(e, visit)
		h = c.pinMemoryLocked(e)
		c.evictMemoryLocked()
	}
	c.unrefLocked(b)
	c.mu.Unlock()
	if err != nil {
		c.log.Warn("cache: dropped a file", "chunk", e.key, "error", err)
	}
	if err := c.removeFiles(dead); err != nil {
		c.log.Warn("cache: remove file", "chunk", e.key, "error", err)
	}
	return h
}

// enqueueLocked hands a chunk that leaves memory to the writer, unless it is on
// disk, if disk and queue have room.
func (c *Cache) enqueueLocked(e *entry, data *shared) {
	if e.onDisk || e.pending != nil || e.size == 0 || e.size > c.opts.DiskBytes || c.isClose {
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
	c.shareWritingLocked()
}

// shareWritingLocked wakes a writer if none is at work, or the other one if two are
// needed. Who is at work goes on until the queue is empty.
func (c *Cache) shareWritingLocked() {
	if c.writing == 0 || c.needTwoLocked() {
		c.wakeWriter()
	}
}

// needTwoLocked reports whether both writers should be at work: before those who fill
// the cache have to wait.
func (c *Cache) needTwoLocked() bool { return c.queued > c.opts.WriteQueueBytes/8 }

// queueIsLongLocked reports whether who fills the cache should wait.
func (c *Cache) queueIsLongLocked() bool { return c.queued > c.opts.WriteQueueBytes/4 }

func (c *Cache) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Pace waits while much of the queue for the disk is taken, at most for
// Options.WriteWait. Whoever fills the cache calls it before each chunk: the disk
// then sets the pace of a long read where it is a little slower than the bucket, and
// what was read is there for the next reader. Where it is much slower, chunks are
// dropped.
func (c *Cache) Pace(ctx context.Context) {
	c.mu.Lock()
	if !c.queueIsLongLocked() || c.isClose {
		c.mu.Unlock()
		return
	}
	if c.slack == nil {
		c.slack = make(chan struct{})
	}
	slack := c.slack
	c.mu.Unlock()
	timer := time.NewTimer(c.opts.WriteWait)
	defer timer.Stop()
	select {
	case <-slack:
	case <-timer.C:
	case <-ctx.Done():
	case <-c.closed:
	}
}

// writers is how many files are written at one time: two keep a disk busy, and are
// so few that they do not stand in front of the log's fsync. One writes alone while
// the queue is short: the runtime does not notice for a while that a system call waits
// for the disk, and of two processors two such calls would leave none.
const writers = 2

// writeBehind is a writer: it ends when the cache is closed.
func (c *Cache) writeBehind() {
	for {
		select {
		case <-c.closed:
			return
		case <-c.wake:
		}
		for c.writeNext() {
		}
		c.unmapUnused()
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
	if len(c.queue) > 0 && c.needTwoLocked() {
		c.wakeWriter() // the other one
	}
	if e.gone || time.Now().Before(c.offTill) {
		c.stats.DiskSkipped++
		c.endWriteLocked(e)
		c.mu.Unlock()
		return true
	}
	data, crc := e.pending.data, e.crc // kept until endWriteLocked
	c.lastSeq++
	e.seq = c.lastSeq
	path := c.path(e)
	c.writing += e.size
	dead := c.evictDiskLocked(c.opts.DiskBytes - c.writing)
	room := c.disk.bytes()+c.writing <= c.opts.DiskBytes
	c.mu.Unlock()

	err := c.removeFiles(dead)
	if err == nil && room {
		err = writeFile(c.open, path, imageOf(e.key, data, crc))
	}
	c.mu.Lock()
	c.writing -= e.size
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
		dead = []string{path}
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
	if c.slack != nil && !c.queueIsLongLocked() {
		close(c.slack)
		c.slack = nil
	}
	c.unrefLocked(e.pending)
	e.pending = nil
	c.maybeForgetLocked(e)
}

// evictDiskLocked takes entries off the disk until at most limit bytes are
// there or all others are pinned.
func (c *Cache) evictDiskLocked(limit int64) (dead []string) {
	for c.disk.bytes() > limit {
		n := c.disk.evict(func(e *entry) bool { return e.loading != nil })
		if n == nil {
			break
		}
		c.stats.DiskEvictions++
		dead = append(dead, c.leaveDiskLocked(n.entry)...)
		c.maybeForgetLocked(n.entry)
	}
	return dead
}

// leaveDiskLocked takes an entry off the disk tier, and returns the file to
// remove.
func (c *Cache) leaveDiskLocked(e *entry) []string {
	if !e.onDisk {
		return nil
	}
	e.onDisk = false
	c.disk.remove(&e.disk)
	return []string{c.path(e)}
}

func (c *Cache) removeFiles(dead []string) error {
	var err error
	for _, path := range dead {
		if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}
