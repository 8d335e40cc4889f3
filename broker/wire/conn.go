package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is one client connection. All methods may be called from any goroutine.
type Conn struct {
	srv      *Server
	id       uint64
	listener string
	broker   bool    // the peer is another broker of the cluster
	node     int32   // its node id; -1 of a client
	budget   *budget // that its memory is taken from
	remote   netip.AddrPort
	local    netip.AddrPort
	tcp      *net.TCPConn
	raw      syscall.RawConn // of tcp
	tls      *tls.Conn       // nil on plaintext

	// What the sweeper looks at; times are those of Server.now, 0 for none.
	active     atomic.Int64 // last read or write
	frameSince atomic.Int64 // a frame is incomplete since
	frameGot   atomic.Int64 // and has so many bytes
	writeSince atomic.Int64 // a write has made no progress since
	muteUntil  atomic.Int64 // unix ns

	// Stored under mu, loaded also without.
	inFlight      atomic.Int32 // requests from head to tail
	inFlightBytes atomic.Int64 // and their frames and decoded bodies

	closing atomic.Bool // a handler asked for the close: read no more

	mu sync.Mutex
	// Guarded by mu. INVARIANT: head..tail are the requests whose answer was
	// not yet taken for sending, in order of arrival.
	head, tail *Request
	writing    bool // a writer goroutine runs
	parked     bool // the reader waits for a poke
	closed     bool
	gone       bool // the peer will send no more
	ctx        context.Context
	cancel     context.CancelCauseFunc
	software   [2]string // name, version

	reader reader
	out    sender // of the reader, while nothing is pending, else of the writer
}

// ID is unique in the life of the Server.
func (c *Conn) ID() uint64 { return c.id }

// Listener is the name of the listener that accepted the connection.
func (c *Conn) Listener() string { return c.listener }

// FromBroker says that the connection came by the cluster's port (ServeConn): its
// peer is another broker of this cluster.
func (c *Conn) FromBroker() bool { return c.broker }

// PeerNode is the node id of the broker that the connection came from, as the
// cluster's port knows it; -1 of a client, and of a broker that has none yet.
func (c *Conn) PeerNode() int32 { return c.node }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// LocalAddr is the address that the peer connected to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// TLS is the state of the TLS session, nil on plaintext.
func (c *Conn) TLS() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	state := c.tls.ConnectionState()
	return &state
}

// SetClientSoftware records the name and version that the client gave in
// ApiVersions (KIP-511); the caller validates them.
func (c *Conn) SetClientSoftware(name, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.software = [2]string{name, version}
}

// ClientSoftware returns what SetClientSoftware recorded, "" before.
func (c *Conn) ClientSoftware() (name, version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.software[0], c.software[1]
}

// Throttle stops reading the connection until d from now (KIP-219: the answer
// goes out at once and carries the same time). Requests that were read before
// are served.
func (c *Conn) Throttle(d time.Duration) {
	until := time.Now().Add(d).UnixNano()
	for {
		old := c.muteUntil.Load()
		if old >= until || c.muteUntil.CompareAndSwap(old, until) {
			return
		}
	}
}

// Close closes the connection now; unsent answers are dropped. err says why;
// it is logged.
func (c *Conn) Close(err error) { c.shut(closedByHandler, err) }

// errConnClosed is the cause of a context when the connection closed.
var errConnClosed = errors.New("connection closed")

// errPeerGone is the cause when the peer closed its side.
var errPeerGone = errors.New("peer closed the connection")

func (c *Conn) context() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithCancelCause(context.Background())
		switch {
		case c.closed:
			c.cancel(errConnClosed)
		case c.gone:
			c.cancel(errPeerGone)
		}
	}
	return c.ctx
}

// peerGone cancels the context of the requests: nobody waits for their answers,
// or for what would come later than these.
func (c *Conn) peerGone() {
	c.mu.Lock()
	c.gone = true
	cancel := c.cancel
	c.mu.Unlock()
	if cancel != nil {
		cancel(errPeerGone)
	}
}

// shut closes the connection unless it is closed. Answers not yet sent are
// dropped; requests not yet answered stay with their handlers.
func (c *Conn) shut(reason closeReason, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	var dropped []*Request
	for r := c.head; r != nil; r = r.next {
		if r.done {
			dropped = append(dropped, r)
		}
	}
	c.head, c.tail = nil, nil
	c.inFlight.Store(0)
	cancel := c.cancel
	c.mu.Unlock()

	if cancel != nil {
		cancel(errConnClosed)
	}
	for _, r := range dropped {
		r.answer.drop(c.budget)
	}
	c.srv.counters.closed[reason].Add(1)
	c.logClosed(reason, err)
	// A TLS goodbye could block here, and the peer learns as much from FIN. The
	// descriptor goes either way, so the error tells nothing.
	_ = c.tcp.Close()
}

func (c *Conn) logClosed(reason closeReason, err error) {
	log := c.srv.opts.Logger
	attrs := []any{"conn", c.id, "listener", c.listener, "remote", c.remote, "reason", reason.String()}
	if err != nil {
		attrs = append(attrs, "err", err)
	}
	if reason == closedNotKafka {
		c.srv.notKafkaLog.Do(func() {
			log.Warn("closed a connection that does not speak the Kafka protocol here; is the client's security.protocol that of this listener?", attrs...)
		})
		return
	}
	log.Debug("connection closed", attrs...)
}

// poke wakes the reader if it is parked.
func (c *Conn) poke() {
	c.mu.Lock()
	c.pokeLocked()
	c.mu.Unlock()
}

// aLongTimeAgo is a deadline that has passed.
var aLongTimeAgo = time.Unix(1, 0)

func (c *Conn) pokeLocked() {
	if c.parked {
		c.parked = false
		// Fails only on a closed connection, whose reader is awake.
		_ = c.tcp.SetReadDeadline(aLongTimeAgo)
	}
}

// pokeIfRoomLocked wakes a reader parked by a full pipeline once that is half
// empty, rather than for each answer.
func (c *Conn) pokeIfRoomLocked() {
	o := &c.srv.opts
	if c.parked && (c.head == nil || int(c.inFlight.Load()) <= o.MaxInFlight/2 && c.inFlightBytes.Load() <= o.MaxInFlightBytes/2) {
		c.pokeLocked()
	}
}

// park blocks the reader until ready, or until the time if that is not zero.
// Meanwhile it notices that the peer went away. It costs no goroutine, and a
// timer only where until is set.
//
// ready is called with mu held; whatever makes it true must poke afterwards.
func (c *Conn) park(until time.Time, ready func() bool) error {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return errConnClosed
		}
		if ready() || !until.IsZero() && !time.Now().Before(until) {
			c.mu.Unlock()
			return nil
		}
		c.parked = true
		err := c.tcp.SetReadDeadline(until)
		c.mu.Unlock()
		if err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}

		err = c.raw.Read(func(fd uintptr) bool {
			c.mu.Lock()
			parked, gone := c.parked, c.gone
			c.mu.Unlock()
			if parked && !gone && peerClosed(fd) {
				c.peerGone()
			}
			return !parked
		})

		c.mu.Lock()
		c.parked = false
		resetErr := c.tcp.SetReadDeadline(time.Time{})
		c.mu.Unlock()
		var timeout net.Error
		if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
			return err
		}
		if resetErr != nil {
			return fmt.Errorf("set deadline: %w", resetErr)
		}
	}
}

// enqueue makes r the youngest request in flight.
func (c *Conn) enqueue(r *Request) {
	c.mu.Lock()
	r.inline = c.head == nil && !c.writing
	if c.tail == nil {
		c.head = r
	} else {
		c.tail.next = r
	}
	c.tail = r
	c.inFlight.Add(1)
	c.inFlightBytes.Add(r.held)
	if c.closed { // nobody will take it from the queue
		c.head, c.tail = nil, nil
		c.inFlight.Store(0)
	}
	c.mu.Unlock()
}

// popLocked takes the oldest request if it was answered.
func (c *Conn) popLocked() *Request {
	r := c.head
	if r == nil || !r.done {
		return nil
	}
	c.head = r.next
	if c.head == nil {
		c.tail = nil
	}
	r.next = nil
	c.inFlight.Add(-1)
	c.inFlightBytes.Add(-r.held)
	r.held = 0
	return r
}

// maxBatch is how many answers are sent together.
const maxBatch = 64

// write sends answers in order until the oldest request has none yet. It is the
// short-lived writer goroutine, started by finish with c.writing set and
// counted in Server.goroutines; shut makes it end.
func (c *Conn) write() {
	defer c.srv.goroutines.Done()
	var batch []*Request
	for {
		clear(batch)
		batch = batch[:0]
		c.mu.Lock()
		for len(batch) < maxBatch {
			r := c.popLocked()
			if r == nil {
				break
			}
			batch = append(batch, r)
		}
		if len(batch) == 0 {
			c.writing = false
			c.pokeIfRoomLocked()
			c.mu.Unlock()
			return
		}
		c.pokeIfRoomLocked()
		c.mu.Unlock()
		c.send(batch)
	}
}

// send sends the answers of batch, and shuts the connection if that fails or
// an answer says so.
func (c *Conn) send(batch []*Request) {
	var reason closeReason
	var err error
	for _, r := range batch {
		a := &r.answer
		if err == nil && a.close != nil {
			// What came before goes out first.
			if reason, err = c.out.flush(c, false); err == nil {
				reason, err = closedByHandler, a.close
			}
		}
		if err == nil {
			reason, err = c.out.add(c, a)
		}
	}
	if err == nil {
		reason, err = c.out.flush(c, false)
	}
	c.out.reset()
	for _, r := range batch {
		r.answer.drop(c.budget)
	}
	if err != nil {
		c.shut(reason, err)
	}
}
