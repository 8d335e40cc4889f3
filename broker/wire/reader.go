package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstStep is how much of a frame is given memory before the connection
	// has shown that it sends as much as it claims.
	firstStep = 64 << 10
	// maxReadAhead bounds the buffer that a frame's first bytes are read into,
	// together with what follows the frame.
	maxReadAhead = 1 << 20
	// maxDeferred is how many bytes of answers wait for those to requests that
	// came in the same read.
	maxDeferred = 256 << 10
)

// reader is the part of a connection that belongs to its reader goroutine.
type reader struct {
	buf        *buffer // nil while there is nothing unread
	start, end int     // of the unread bytes in buf
	proven     int     // bytes of the largest frame lately
	first      bool    // a frame was complete before
	eof        bool
	overdraws  bool
	clientID   string // of the last request

	readFn func(fd uintptr) bool // readOnce, made once
	// Its outcome: n and err of the read, or what kept it from reading.
	n       int
	err     error
	starved int // bytes that it could not reserve
	muted   bool

	deferred      []*Request // answered, to be sent together
	deferredBytes int
}

// Ends of a connection that are no errors of the reader.
var (
	errDraining = errors.New("server is shutting down")
	errNoFrame  = errors.New("bytes that begin no Kafka frame")
)

// closeError carries why a connection must close.
type closeError struct {
	reason closeReason
	err    error
}

func (e *closeError) Error() string { return e.err.Error() }
func (e *closeError) Unwrap() error { return e.err }

func refuse(reason closeReason, format string, args ...any) error {
	return &closeError{reason, fmt.Errorf(format, args...)}
}

// run is the reader goroutine: it reads and serves until the peer, the server
// or an error ends the connection, waits for pending answers, and closes.
func (c *Conn) run() {
	err := c.serve()
	reason := closedIO
	var ce *closeError
	switch {
	case errors.As(err, &ce):
		reason = ce.reason
	case errors.Is(err, io.EOF):
		reason = closedPeer
		err = nil
		c.peerGone()
	case errors.Is(err, errDraining):
		reason = closedShutdown
	}
	c.flushDeferred()
	c.dropBuffer()
	c.endFrame()

	if reason != closedIO {
		// Let pending requests be answered. Its error could only say that the
		// connection is lost, and that is where this leads.
		_ = c.park(time.Time{}, c.quietLocked)
		c.sayGoodbye()
	}
	c.shut(reason, err)
	c.srv.remove(c)
}

// goodbyeTimeout bounds the wait for a full socket when a TLS session ends.
const goodbyeTimeout = time.Second

// sayGoodbye ends a TLS session by close_notify, so that the client can tell
// the end from a cut. That it cannot be sent changes nothing: the connection
// closes next.
//
// REQUIRES: no writer runs.
func (c *Conn) sayGoodbye() {
	if c.tls == nil || !c.tls.ConnectionState().HandshakeComplete {
		return
	}
	if c.tcp.SetWriteDeadline(time.Now().Add(goodbyeTimeout)) == nil {
		_ = c.tls.CloseWrite()
	}
}

// quietLocked tells whether every request was answered and the answers sent.
func (c *Conn) quietLocked() bool { return c.head == nil && !c.writing }

func (c *Conn) serve() error {
	if err := c.handshake(); err != nil {
		return err
	}
	c.reader.readFn = c.readOnce
	for {
		if err := c.admit(); err != nil {
			return err
		}
		frame, err := c.nextFrame()
		if err != nil {
			return err
		}
		if c.closing.Load() {
			return &closeError{closedByHandler, errByHandler}
		}
		if err := c.handle(frame); err != nil {
			return err
		}
	}
}

// handshake runs the TLS handshake, before the first frame and under a deadline
// of its own.
func (c *Conn) handshake() error {
	if c.tls == nil {
		return nil
	}
	if err := c.tcp.SetDeadline(time.Now().Add(c.srv.opts.HandshakeTimeout)); err != nil {
		return err
	}
	if err := c.tls.HandshakeContext(context.Background()); err != nil {
		return &closeError{closedTLS, err}
	}
	return c.tcp.SetDeadline(time.Time{})
}

// admit waits until one more request may be read.
func (c *Conn) admit() error {
	if c.muteUntil.Load() != 0 {
		if err := c.waitUnmuted(); err != nil {
			return err
		}
	}
	full := func() bool {
		o := &c.srv.opts
		return int(c.inFlight.Load()) >= o.MaxInFlight || c.inFlightBytes.Load() >= o.MaxInFlightBytes
	}
	if full() {
		c.flushDeferred()
		if err := c.park(time.Time{}, func() bool { return !full() || c.srv.draining() }); err != nil {
			return err
		}
	}
	if c.srv.draining() {
		return errDraining
	}
	return nil
}

// waitUnmuted sits out Throttle.
func (c *Conn) waitUnmuted() error {
	c.flushDeferred()
	for {
		until := c.muteUntil.Load()
		if until == 0 {
			return nil
		}
		if err := c.park(time.Unix(0, until), c.srv.draining); err != nil {
			return err
		}
		if c.srv.draining() {
			return errDraining
		}
		c.muteUntil.CompareAndSwap(until, 0)
	}
}

// nextFrame returns the next whole frame without its length. It aliases the
// reader's buffer, which stays until the next call.
func (c *Conn) nextFrame() ([]byte, error) {
	rd := &c.reader
	for {
		have := rd.end - rd.start
		need, err := c.frameNeed()
		if err != nil {
			return nil, err
		}
		if have >= need {
			frame := rd.buf.b[rd.start+4 : rd.start+need]
			rd.start += need
			c.endFrame()
			rd.proven = max(need, rd.proven-rd.proven/64)
			rd.first = true
			return frame, nil
		}
		c.flushDeferred()
		if have > 0 && c.frameSince.Load() == 0 {
			c.frameGot.Store(int64(have))
			c.frameSince.Store(c.srv.now.Load())
		}
		if err := c.fill(need); err != nil {
			if errors.Is(err, io.EOF) && rd.end > rd.start {
				return nil, refuse(closedPeer, "peer closed inside a frame: %w", io.ErrUnexpectedEOF)
			}
			return nil, err
		}
	}
}

// frameNeed returns the length of the frame that begins at the unread bytes,
// with its prefix, or more than there is while they do not tell.
func (c *Conn) frameNeed() (int, error) {
	rd := &c.reader
	have := rd.end - rd.start
	if have < 4 {
		return 4, nil
	}
	b := rd.buf.b[rd.start:rd.end]
	size := int32(binary.BigEndian.Uint32(b))
	table := c.srv.opts.Table
	if size < minFrame || size > table.maxFrame {
		if !rd.first && looksForeign(b) {
			return 0, &closeError{closedNotKafka, fmt.Errorf("%w: % x", errNoFrame, b[:4])}
		}
		return 0, refuse(closedOversize, "frame of %d bytes", size)
	}
	if have < 4+4 {
		return 4 + 4, nil
	}
	key := int16(binary.BigEndian.Uint16(b[4:]))
	api := table.entry(key)
	if api == nil {
		return 0, refuse(closedUnsupported, "unknown API key %d", key)
	}
	if size > api.MaxFrame {
		return 0, refuse(closedOversize, "frame of %d bytes for API key %d, more than %d", size, key, api.MaxFrame)
	}
	return 4 + int(size), nil
}

// looksForeign recognises a TLS hello and HTTP, the usual mistakes.
func looksForeign(b []byte) bool {
	if b[0] == 0x16 && b[1] == 0x03 {
		return true
	}
	for _, c := range b[:4] {
		if (c < 'A' || c > 'Z') && c != ' ' && c != '/' && c != '-' {
			return false
		}
	}
	return true
}

// endFrame stops the frame's clock and its right to overdraw.
func (c *Conn) endFrame() {
	if c.frameSince.Load() != 0 {
		c.frameSince.Store(0)
	}
	if c.reader.overdraws {
		c.reader.overdraws = false
		c.budget.frameDone(c)
	}
}

// fill reads once, into a buffer that has room for more of a frame of need
// bytes. Without unread bytes it holds no buffer while it waits.
func (c *Conn) fill(need int) error {
	rd := &c.reader
	if rd.eof {
		return io.EOF
	}
	if c.srv.draining() {
		return errDraining
	}
	if rd.end == rd.start {
		c.dropBuffer()
	} else if err := c.makeRoom(need); err != nil {
		return err
	}
	if c.tls != nil {
		return c.fillTLS()
	}
	for {
		rd.n, rd.err, rd.starved, rd.muted = 0, nil, 0, false
		if err := c.raw.Read(rd.readFn); err != nil {
			return c.readError(err)
		}
		switch {
		case rd.muted:
			return c.waitUnmuted()
		case rd.starved > 0:
			// Take the memory first, then read what is there.
			if err := c.reserve(rd.starved, false); err != nil {
				return err
			}
			rd.buf = newBuffer(rd.starved, c.budget)
			continue
		case rd.err != nil:
			return c.readError(rd.err)
		case rd.n == 0:
			return c.sawEOF()
		}
		c.got(rd.n)
		return nil
	}
}

// readOnce is the callback of RawConn.Read: false waits for the socket to
// become readable. It takes a buffer only for the time that there is something
// to read.
func (c *Conn) readOnce(fd uintptr) bool {
	rd := &c.reader
	if rd.end == rd.start && c.muteUntil.Load() != 0 {
		rd.muted = true
		return true
	}
	taken := false
	if rd.buf == nil {
		size := c.readAhead()
		if !c.budget.tryReserve(int64(size)) {
			// Only who has something to read may wait for memory: what it is
			// granted must not lie with an idle connection.
			n, again, err := peekFD(fd)
			if again {
				return false
			}
			rd.n, rd.err = n, err
			if n > 0 {
				rd.starved = size
			}
			return true
		}
		rd.buf = newBuffer(size, c.budget)
		taken = true
	}
	n, again, err := readFD(fd, rd.buf.b[rd.end:])
	if again {
		if taken {
			c.dropBuffer()
		}
		return false
	}
	rd.n, rd.err = n, err
	return true
}

// readAhead is the size of buffer for the start of a frame: room for two like
// the last, since clients pipeline.
func (c *Conn) readAhead() int {
	return bufferSize(min(2*c.reader.proven, maxReadAhead))
}

func (c *Conn) dropBuffer() {
	rd := &c.reader
	if rd.buf != nil {
		rd.buf.release()
		rd.buf = nil
	}
	rd.start, rd.end = 0, 0
}

// makeRoom makes the buffer large enough for the next step of a frame of need
// bytes.
func (c *Conn) makeRoom(need int) error {
	rd := &c.reader
	if rd.start+need <= len(rd.buf.b) {
		return nil
	}
	have := rd.end - rd.start
	if need <= len(rd.buf.b) && !rd.buf.shared() {
		copy(rd.buf.b, rd.buf.b[rd.start:rd.end])
		rd.start, rd.end = 0, have
		return nil
	}
	step := min(need, max(2*have, firstStep, rd.proven))
	if rd.start+step <= len(rd.buf.b) && rd.end < len(rd.buf.b) {
		return nil // not yet
	}
	size := max(bufferSize(step), c.readAhead())
	if err := c.reserve(size, true); err != nil {
		return err
	}
	larger := newBuffer(size, c.budget)
	copy(larger.b, rd.buf.b[rd.start:rd.end])
	rd.buf.release()
	rd.buf, rd.start, rd.end = larger, 0, have
	return nil
}

// reserve takes n bytes of the budget, parked until there are some.
func (c *Conn) reserve(n int, midFrame bool) error {
	b := c.budget
	if b.tryReserve(int64(n)) {
		return nil
	}
	if c.reader.overdraws {
		b.force(int64(n))
		return nil
	}
	c.flushDeferred()
	w := &memoryWait{c: c, n: int64(n), midFrame: midFrame}
	c.frameSince.Store(0) // it is us who are slow
	b.enqueue(w)
	err := c.park(time.Time{}, func() bool { return w.granted.Load() || c.srv.draining() })
	if err == nil && !w.granted.Load() {
		err = errDraining
	}
	if err != nil {
		b.abandon(w)
		b.frameDone(c) // it may have become the overdrawer
		return err
	}
	if midFrame {
		c.frameSince.Store(c.srv.now.Load())
		c.reader.overdraws = b.mayOverdraw(c)
	}
	return nil
}

// fillTLS reads through the TLS session, whose own buffer holds what comes.
func (c *Conn) fillTLS() error {
	rd := &c.reader
	if rd.buf == nil {
		// An idle connection holds these bytes only.
		var start [4]byte
		n, err := c.tls.Read(start[:])
		if err != nil {
			return c.readError(err)
		}
		if err := c.waitUnmuted(); err != nil {
			return err
		}
		size := c.readAhead()
		if err := c.reserve(size, false); err != nil {
			return err
		}
		rd.buf = newBuffer(size, c.budget)
		copy(rd.buf.b, start[:n])
		c.got(n)
		return nil
	}
	n, err := c.tls.Read(rd.buf.b[rd.end:])
	if n > 0 {
		c.got(n)
		return nil
	}
	return c.readError(err)
}

// got accounts for n bytes that were read.
func (c *Conn) got(n int) {
	rd := &c.reader
	rd.end += n
	now := c.srv.now.Load()
	c.active.Store(now)
	c.srv.counters.bytesIn.Add(uint64(n))
	if c.frameSince.Load() != 0 {
		c.frameGot.Store(int64(rd.end - rd.start))
	}
}

func (c *Conn) sawEOF() error {
	c.reader.eof = true
	return io.EOF
}

// readError tells a deadline set by Shutdown from other errors.
func (c *Conn) readError(err error) error {
	if errors.Is(err, io.EOF) {
		return c.sawEOF()
	}
	if c.srv.draining() {
		return errDraining
	}
	if errors.Is(err, unix.ECONNRESET) {
		return &closeError{closedPeer, err}
	}
	return err
}
