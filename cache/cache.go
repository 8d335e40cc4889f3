package cache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// ErrClosed is returned once the cache was closed.
var ErrClosed = errors.New("cache: closed")

// ErrAbandoned is what waiters get when a fill's owner failed without a reason.
var ErrAbandoned = errors.New("cache: fill was abandoned")

// Key names a chunk: the object's UUID and the chunk's number in it.
type Key struct {
	Object [16]byte
	Chunk  uint32
}

func (k Key) String() string {
	return hex.EncodeToString(k.Object[:]) + "/" + strconv.FormatUint(uint64(k.Chunk), 10)
}

// Options configure a Cache. Zero sizes mean none of that tier.
type Options struct {
	MemoryBytes int64  // bound of the memory tier
	DiskBytes   int64  // bound of the disk tier, file headers not counted
	Dir         string // of the disk tier, used by this cache alone; made if missing

	WriteQueueBytes int64         // bytes that may wait to be written to disk; default 64 MiB; Pace waits at a quarter
	WriteWait       time.Duration // most that Pace waits; default 100 ms
	DiskRetry       time.Duration // how long nothing is written after a failed write; default 30 s
	BufferBytes     int           // length of the usual chunk, for Buffer; default 4 MiB
	FreeBuffers     int           // buffers that are kept for Buffer though not used, beyond those for MemoryBytes; default 16
	Poison          bool          // overwrite bytes that nobody uses any more, so that tests find who does
	Logger          *slog.Logger  // default slog.Default()
}

// Cache is described in the package comment. It is safe for concurrent use.
type Cache struct {
	opts   Options
	log    *slog.Logger
	open   openFunc // a seam for tests
	closed chan struct{}
	wake   chan struct{}  // 1: a writer has something to look at
	work   sync.WaitGroup // the writers

	mapping sync.Mutex // held while a buffer is mapped: one processor clears memory, not all

	mu      sync.Mutex
	entries map[Key]*entry
	mem     *policy
	disk    *policy
	queue   []*entry      // to be written, oldest first
	queued  int64         // bytes in queue and being written
	writing int64         // bytes being written
	slack   chan struct{} // closed when most of the queue is free; nil if nobody waits
	lastSeq uint64        // of a file's name
	offTill time.Time     // nothing is written to disk before
	stats   Stats
	isClose bool
	pool    pool     // see Buffer
	unused  [][]byte // buffers that the writer unmaps
}

// entry is one chunk. All fields are guarded by Cache.mu.
type entry struct {
	key  Key
	size int64
	fill *Fill // in progress, or nil
	gone bool  // no longer in the table

	data    *shared // in the memory tier, or nil
	memPins int
	mem     node

	pending *shared // being written to disk, or nil

	onDisk   bool
	verified bool
	crc      uint32        // CRC-32C of the bytes, known while they are in memory
	seq      uint64        // in the file's name
	loading  chan struct{} // closed when somebody's attempt to read it has ended
	disk     node
}

// probationSpare is how much of memory chunks that were read once leave free at
// most, where there is a disk for them: three quarters of the default. Who gives the
// cache more memory means it to be used.
const probationSpare = 96 << 20

// Open starts a cache and takes over the files that an earlier one left in Dir.
// It fails only if Dir cannot be used at all.
func Open(opts Options) (*Cache, error) {
	if opts.WriteQueueBytes <= 0 {
		opts.WriteQueueBytes = 64 << 20
	}
	if opts.WriteWait <= 0 {
		opts.WriteWait = 100 * time.Millisecond
	}
	if opts.DiskRetry <= 0 {
		opts.DiskRetry = 30 * time.Second
	}
	if opts.BufferBytes <= 0 {
		opts.BufferBytes = 4 << 20
	}
	if opts.FreeBuffers <= 0 {
		opts.FreeBuffers = 16
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Dir == "" {
		opts.DiskBytes = 0
	}
	c := &Cache{
		opts:    opts,
		log:     opts.Logger,
		open:    openFile,
		closed:  make(chan struct{}),
		wake:    make(chan struct{}, 1),
		entries: make(map[Key]*entry),
		mem:     newPolicy(opts.MemoryBytes),
		disk:    newPolicy(opts.DiskBytes),
		pool:    pool{size: opts.BufferBytes, keep: opts.FreeBuffers + int(opts.MemoryBytes/int64(opts.BufferBytes)), mapped: make(map[*byte][]byte)},
	}
	if opts.DiskBytes > 0 {
		c.mem.probation = max(opts.MemoryBytes/4, opts.MemoryBytes-probationSpare, int64(opts.BufferBytes))
		if err := c.adopt(); err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
	for range writers {
		c.work.Go(c.writeBehind)
	}
	return c, nil
}

// Close stops the writers, drops what waits to be written, and answers everyone
// who waits with ErrClosed. Handles stay valid until they are released.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.isClose {
		c.mu.Unlock()
		return nil
	}
	c.isClose = true
	c.mu.Unlock()
	close(c.closed)
	c.work.Wait()
	c.unmapUnused()
	c.mu.Lock()
	c.closeMemoryLocked()
	c.mu.Unlock()
	return nil
}

// closeMemoryLocked gives back the memory that no handle holds.
func (c *Cache) closeMemoryLocked() {
	for _, e := range c.entries {
		c.leaveMemoryLocked(e)
		if e.pending != nil {
			c.endWriteLocked(e)
		}
	}
	c.queue = nil
	c.pool.close()
}

// Acquire looks for a chunk and returns exactly one of three:
//
//   - a handle, pinned, to be released;
//   - a fill with owner true: the caller has reserved the chunk and must call
//     Complete or Fail, if need be from another goroutine that outlives it;
//   - a fill with owner false: somebody else is at it; see Fill.Wait.
//
// Whoever got a fill, the owner too, ends with one call of its Wait or Leave.
//
// visit says that the caller comes to this chunk anew, instead of reading on
// within it; only that counts as a use for eviction. Acquire reads the chunk from
// disk if it is there alone, and ends early with the context's error.
func (c *Cache) Acquire(ctx context.Context, key Key, visit bool) (h *Handle, f *Fill, owner bool, err error) {
	for {
		c.mu.Lock()
		e := c.entries[key]
		switch {
		case c.isClose:
			c.mu.Unlock()
			return nil, nil, false, ErrClosed
		case e == nil:
			f = c.reserveLocked(key)
			c.mu.Unlock()
			return nil, f, true, nil
		case e.fill != nil:
			f = e.fill
			f.interest++
			c.stats.Joined++
			c.mu.Unlock()
			return nil, f, false, nil
		case e.data != nil || e.pending != nil:
			h := c.pinLocked(e, visit)
			c.mu.Unlock()
			return h, nil, false, nil
		}
		c.mu.Unlock()
		if h, err := c.load(ctx, e, visit); h != nil || err != nil {
			return h, nil, false, err
		}
	}
}

// Reserve is Acquire of a chunk that is neither cached nor on its way, else nil.
// It does not block.
func (c *Cache) Reserve(key Key) *Fill {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClose || c.entries[key] != nil {
		return nil
	}
	return c.reserveLocked(key)
}

func (c *Cache) reserveLocked(key Key) *Fill {
	e := &entry{key: key}
	e.fill = &Fill{cache: c, entry: e, done: make(chan struct{}), interest: 1}
	c.entries[key] = e
	c.stats.Misses++
	return e.fill
}

// touchLocked notes a use.
func (c *Cache) touchLocked(e *entry, visit bool) {
	if visit {
		c.mem.touch(&e.mem)
		c.disk.touch(&e.disk)
	}
}

// pinLocked makes a handle of an entry whose bytes are in memory.
func (c *Cache) pinLocked(e *entry, visit bool) *Handle {
	c.touchLocked(e, visit)
	c.stats.MemoryHits++
	if e.data != nil {
		return c.pinMemoryLocked(e)
	}
	return c.shareLocked(e.pending)
}

// Peek reports whether a chunk is cached or being filled, and counts nothing.
func (c *Cache) Peek(key Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[key] != nil
}

// pinMemoryLocked makes a handle of an entry in memory, which stays there.
func (c *Cache) pinMemoryLocked(e *entry) *Handle {
	e.memPins++
	e.data.refs++
	return &Handle{cache: c, entry: e, data: e.data}
}

// shareLocked makes a handle of bytes that are in no tier.
func (c *Cache) shareLocked(data *shared) *Handle {
	data.refs++
	return &Handle{cache: c, data: data}
}

// Fill is a chunk on its way into the cache.
type Fill struct {
	cache *Cache
	entry *entry
	done  chan struct{}

	interest int  // who has not called Wait or Leave; guarded by Cache.mu
	pinned   bool // holds a pin of the entry while there is interest

	// Written before done is closed; err is read after. data is guarded by
	// Cache.mu, and nil once nobody is interested.
	data *shared
	err  error
}

// Complete gives the chunk's bytes, which must be verified and belong to the
// cache from now on, and their CRC-32C. REQUIRES: the caller is the owner and calls
// this or Fail, once.
func (f *Fill) Complete(data []byte, crc uint32) {
	c, e := f.cache, f.entry
	b := &shared{data: data, refs: 1}
	c.mu.Lock()
	e.fill, e.size, e.crc = nil, int64(len(data)), crc
	c.stats.Fills++
	c.stats.FillBytes += int64(len(data))
	if f.interest > 0 {
		b.refs++
		f.data = b
	}
	if !e.gone && !c.isClose {
		c.admitLocked(f, b)
	}
	c.maybeForgetLocked(e)
	c.unrefLocked(b)
	c.mu.Unlock()
	close(f.done)
}

// admitLocked puts the bytes of a filled entry into memory, which takes any:
// where there is no room the entry leaves at once, unless somebody is interested
// in the fill. Until then it is pinned, since what else is in memory may be
// pinned too, and the newest chunk would be the first to leave, before whoever
// it was fetched for has seen it.
func (c *Cache) admitLocked(f *Fill, data *shared) {
	c.keepLocked(f.entry, data)
	if f.interest > 0 {
		f.entry.memPins++
		f.pinned = true
	}
	c.evictMemoryLocked()
}

// keepLocked puts bytes into memory.
func (c *Cache) keepLocked(e *entry, data *shared) {
	data.refs++
	e.data = data
	e.mem = node{entry: e, weight: e.size}
	c.mem.add(&e.mem)
}

// evictMemoryLocked moves what must leave memory to the queue for the disk.
func (c *Cache) evictMemoryLocked() {
	pinned := func(e *entry) bool { return e.memPins > 0 }
	for {
		var n *node
		if c.mem.over() {
			n = c.mem.evict(pinned)
		} else {
			n = c.mem.leaveProbation(pinned)
		}
		if n == nil {
			return
		}
		c.enqueueLocked(n.entry, n.entry.data)
		c.leaveMemoryLocked(n.entry)
		c.stats.MemoryEvictions++
		c.maybeForgetLocked(n.entry)
	}
}

// leaveMemoryLocked takes an entry off the memory tier. Handles keep its bytes.
func (c *Cache) leaveMemoryLocked(e *entry) {
	if e.data != nil {
		c.mem.remove(&e.mem)
		c.unrefLocked(e.data)
		e.data = nil
	}
}

// maybeForgetLocked removes an entry from the table if nothing holds it there.
func (c *Cache) maybeForgetLocked(e *entry) {
	if !e.gone && e.fill == nil && e.data == nil && e.pending == nil && !e.onDisk {
		e.gone = true
		delete(c.entries, e.key)
	}
}

// Fail ends the fill with an error, which all who wait get. The next Acquire
// reserves the chunk anew. REQUIRES: as Complete.
func (f *Fill) Fail(err error) {
	if err == nil {
		err = ErrAbandoned
	}
	f.err = err
	c := f.cache
	c.mu.Lock()
	f.entry.fill = nil
	c.stats.FillErrors++
	c.maybeForgetLocked(f.entry)
	c.mu.Unlock()
	close(f.done)
}

// Done is closed when the fill has ended.
func (f *Fill) Done() <-chan struct{} { return f.done }

// Join makes the caller one more of those who end with Wait or Leave.
// REQUIRES: the caller is one already.
func (f *Fill) Join() {
	f.cache.mu.Lock()
	f.interest++
	f.cache.mu.Unlock()
}

// Leave ends the caller's interest; the fill itself goes on.
func (f *Fill) Leave() {
	f.cache.mu.Lock()
	f.leaveLocked()
	f.cache.mu.Unlock()
}

func (f *Fill) leaveLocked() {
	f.interest--
	if f.interest < 0 {
		panic("cache: a fill was left more often than it was joined")
	}
	if f.interest == 0 && f.data != nil {
		f.cache.unrefLocked(f.data)
		f.data = nil
		if f.pinned {
			f.entry.memPins--
			f.cache.evictMemoryLocked()
		}
	}
}

// Wait returns a pinned handle once the owner has completed the fill, or the
// owner's error, or the context's, and ends the caller's interest. visit is as
// for Acquire.
func (f *Fill) Wait(ctx context.Context, visit bool) (*Handle, error) {
	select {
	case <-f.done:
	default:
		var err error
		select {
		case <-f.done:
		case <-ctx.Done():
			err = ctx.Err()
		case <-f.cache.closed:
			err = ErrClosed
		}
		if err != nil {
			f.Leave()
			return nil, err
		}
	}
	c, e := f.cache, f.entry
	c.mu.Lock()
	defer c.mu.Unlock()
	defer f.leaveLocked()
	if f.err != nil {
		return nil, f.err
	}
	if e.data != f.data {
		return c.shareLocked(f.data), nil // dropped meanwhile
	}
	c.touchLocked(e, visit)
	return c.pinMemoryLocked(e), nil
}

// DropObject forgets all chunks of an object, as after its deletion. Handles
// stay valid. A fill in progress answers its waiters and is not kept.
func (c *Cache) DropObject(object [16]byte) error {
	c.mu.Lock()
	var dead []string
	for key, e := range c.entries {
		if key.Object == object {
			dead = append(dead, c.dropLocked(e)...)
		}
	}
	c.mu.Unlock()
	return c.removeFiles(dead)
}

// ObjectBytes sums the cached chunks of an object, each once, in either tier. It
// looks at every chunk of the cache: for tools, not for readers.
func (c *Cache) ObjectBytes(object [16]byte) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum int64
	for key, e := range c.entries {
		if key.Object == object && e.fill == nil {
			sum += e.size
		}
	}
	return sum
}

// Drop forgets one chunk, like DropObject.
func (c *Cache) Drop(key Key) error {
	c.mu.Lock()
	var dead []string
	if e := c.entries[key]; e != nil {
		dead = c.dropLocked(e)
	}
	c.mu.Unlock()
	return c.removeFiles(dead)
}

func (c *Cache) dropLocked(e *entry) []string {
	c.leaveMemoryLocked(e)
	dead := c.leaveDiskLocked(e)
	e.gone = true
	delete(c.entries, e.key)
	return dead
}
