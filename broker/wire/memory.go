package wire

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// budget is the memory that frames, decoded requests and unsent answers may
// take, over all connections. Readers reserve before they read, and wait in
// order when it is used up.
//
// Readers that wait in the middle of a frame hold what they have; were all of
// them to wait, none would ever give anything back. So one of them at a time,
// the overdrawer, may exceed the limit until its frame is complete.
type budget struct {
	limit   int64
	used    atomic.Int64
	waiting atomic.Int32 // len(queue)
	waits   atomic.Uint64

	mu         sync.Mutex
	queue      []*memoryWait // guarded by mu, first come first
	overdrawer *Conn         // guarded by mu
}

// memoryWait is a reader that waits for n bytes.
type memoryWait struct {
	c        *Conn
	n        int64
	midFrame bool
	granted  atomic.Bool
}

// tryReserve takes n bytes if there are some and nobody waits.
func (b *budget) tryReserve(n int64) bool {
	if b.waiting.Load() > 0 {
		return false
	}
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.release(n)
	return false
}

// force takes n bytes, whatever there is.
func (b *budget) force(n int64) { b.used.Add(n) }

func (b *budget) release(n int64) {
	b.used.Add(-n)
	if b.waiting.Load() > 0 {
		b.mu.Lock()
		woken := b.grantLocked()
		b.mu.Unlock()
		wakeAll(woken)
	}
}

// enqueue lets w wait. It may be granted at once.
func (b *budget) enqueue(w *memoryWait) {
	b.waits.Add(1)
	b.mu.Lock()
	b.queue = append(b.queue, w)
	b.waiting.Store(int32(len(b.queue)))
	woken := b.grantLocked()
	b.mu.Unlock()
	wakeAll(woken)
}

// abandon takes w out, or gives back what it was granted.
func (b *budget) abandon(w *memoryWait) {
	b.mu.Lock()
	for i, q := range b.queue {
		if q == w {
			b.queue = append(b.queue[:i], b.queue[i+1:]...)
			b.waiting.Store(int32(len(b.queue)))
			break
		}
	}
	woken := b.grantLocked()
	b.mu.Unlock()
	wakeAll(woken)
	if w.granted.Load() {
		b.release(w.n)
	}
}

// mayOverdraw tells whether c is the overdrawer.
func (b *budget) mayOverdraw(c *Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.overdrawer == c
}

// frameDone ends c's right to overdraw.
func (b *budget) frameDone(c *Conn) {
	b.mu.Lock()
	var woken []*Conn
	if b.overdrawer == c {
		b.overdrawer = nil
		woken = b.grantLocked()
	}
	b.mu.Unlock()
	wakeAll(woken)
}

// grantLocked grants from the front of the queue what there is, and makes the
// first that waits in the middle of a frame the overdrawer if there is none.
// The caller wakes the result after unlocking.
func (b *budget) grantLocked() (woken []*Conn) {
	grant := func(i int) {
		w := b.queue[i]
		b.queue = append(b.queue[:i], b.queue[i+1:]...)
		b.used.Add(w.n)
		w.granted.Store(true)
		woken = append(woken, w.c)
	}
	for len(b.queue) > 0 {
		used := b.used.Load()
		// A reservation larger than the whole budget passes when it is alone.
		if used > 0 && used+b.queue[0].n > b.limit {
			break
		}
		grant(0)
	}
	if b.overdrawer == nil {
		for i, w := range b.queue {
			if w.midFrame {
				b.overdrawer = w.c
				grant(i)
				break
			}
		}
	}
	b.waiting.Store(int32(len(b.queue)))
	return woken
}

func wakeAll(conns []*Conn) {
	for _, c := range conns {
		c.poke()
	}
}

// Buffers come in sizes of powers of two from minBuffer to maxPooled and are
// pooled; larger ones are left to the garbage collector.
const (
	minBuffer = 4 << 10
	maxPooled = 4 << 20
	// largeUnit rounds the size of buffers above maxPooled.
	largeUnit = 64 << 10
)

var pools [11]sync.Pool // of *buffer; minBuffer<<i bytes

// buffer is memory for frames, reserved from a budget as long as it is
// referenced. The reader holds one reference while it reads into it, and each
// request whose body aliases it one more.
type buffer struct {
	b      []byte
	refs   atomic.Int32
	budget *budget
}

// bufferSize rounds n up to the size of a buffer.
func bufferSize(n int) int {
	switch {
	case n <= minBuffer:
		return minBuffer
	case n <= maxPooled:
		return 1 << bits.Len(uint(n-1))
	}
	return (n + largeUnit - 1) / largeUnit * largeUnit
}

func poolOf(size int) *sync.Pool {
	if size > maxPooled {
		return nil
	}
	return &pools[bits.Len(uint(size/minBuffer))-1]
}

// newBuffer returns a buffer with one reference.
//
// REQUIRES: size is a bufferSize, and so many bytes were reserved from bud.
func newBuffer(size int, bud *budget) *buffer {
	var b *buffer
	if p := poolOf(size); p != nil {
		b, _ = p.Get().(*buffer)
	}
	if b == nil {
		b = &buffer{b: make([]byte, size)}
	}
	b.budget = bud
	b.refs.Store(1)
	return b
}

func (b *buffer) retain() { b.refs.Add(1) }

// shared tells whether others than the caller hold references.
func (b *buffer) shared() bool { return b.refs.Load() > 1 }

// wasteful tells whether a frame of n bytes should rather be copied than hold b.
func (b *buffer) wasteful(n int) bool {
	return len(b.b) > 4*minBuffer && 4*n < len(b.b)
}

func (b *buffer) release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	bud := b.budget
	b.budget = nil
	size := len(b.b)
	if p := poolOf(size); p != nil {
		p.Put(b)
	}
	bud.release(int64(size))
}

// Answers are encoded into pooled slices.
const (
	newAnswer       = 512
	maxPooledAnswer = 1 << 20
)

var answerPool = sync.Pool{New: func() any {
	b := make([]byte, 0, newAnswer)
	return &b
}}

func putAnswer(b *[]byte) {
	if cap(*b) <= maxPooledAnswer {
		*b = (*b)[:0]
		answerPool.Put(b)
	}
}
