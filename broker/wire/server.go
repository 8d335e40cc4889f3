package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Server accepts connections and reads requests. Make one with NewServer, then
// Listen, then Serve.
type Server struct {
	opts     Options
	clients  budget // of memory
	brokers  budget // what is kept for other brokers
	counters counters
	now      atomic.Int64 // ns on the monotonic clock, as of the last sweep
	started  time.Time

	notKafkaLog rate.Sometimes

	drain      chan struct{}  // closed when Shutdown begins
	stopped    chan struct{}  // closed when every connection has ended
	goroutines sync.WaitGroup // of connections
	accepting  sync.WaitGroup // accept loops
	sweeper    sync.WaitGroup
	nextID     atomic.Uint64

	mu        sync.Mutex
	listeners []*net.TCPListener // guarded by mu, as Options.Listeners
	conns     map[*Conn]struct{} // guarded by mu
	peers     int                // guarded by mu: how many of conns are brokers'
	perIP     map[netip.Addr]int // guarded by mu
	serving   bool               // guarded by mu
	shutdown  bool               // guarded by mu
}

// NewServer checks opts; it opens nothing.
func NewServer(opts Options) (*Server, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		opts:        opts,
		started:     time.Now(),
		notKafkaLog: rate.Sometimes{First: 1, Interval: 10 * time.Second},
		drain:       make(chan struct{}),
		stopped:     make(chan struct{}),
		conns:       make(map[*Conn]struct{}),
		perIP:       make(map[netip.Addr]int),
	}
	s.clients.limit = opts.MemoryBudget - opts.BrokerMemory
	s.brokers.limit = opts.BrokerMemory
	s.tick()
	return s, nil
}

// ErrClosed is returned by Listen and Serve after Shutdown.
var ErrClosed = errors.New("wire server is shut down")

// Listen binds all listeners, so that their addresses are known and connections
// queue in the kernel before Serve.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shutdown {
		return ErrClosed
	}
	if s.listeners != nil {
		return nil
	}
	var bound []*net.TCPListener
	for _, l := range s.opts.Listeners {
		ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", l.Addr)
		if err != nil {
			err = fmt.Errorf("listener %s: %w", l.Name, err)
			for _, b := range bound {
				err = errors.Join(err, b.Close())
			}
			return err
		}
		bound = append(bound, ln.(*net.TCPListener))
	}
	s.listeners = bound
	return nil
}

// Addr is the bound address of the named listener, nil before Listen.
func (s *Server) Addr(listener string) net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range s.opts.Listeners {
		if l.Name == listener && i < len(s.listeners) {
			return s.listeners[i].Addr()
		}
	}
	return nil
}

// Serve accepts connections until Shutdown, and returns nil when that is
// complete. It calls Listen if nobody did. It may be called once.
func (s *Server) Serve() error {
	if err := s.Listen(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.serving || s.shutdown {
		s.mu.Unlock()
		return ErrClosed
	}
	s.serving = true
	for i, ln := range s.listeners {
		s.accepting.Go(func() { s.accept(&s.opts.Listeners[i], ln) })
	}
	s.sweeper.Go(s.sweepLoop)
	s.mu.Unlock()
	<-s.stopped
	return nil
}

// Draining is closed when Shutdown begins: long polls should answer.
func (s *Server) Draining() <-chan struct{} { return s.drain }

func (s *Server) draining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

// Shutdown stops accepting and reading, lets pending requests be answered until
// ctx ends, then cancels their contexts and closes every connection. All
// goroutines of the server have ended when it returns. Its error is ctx's when
// connections had to be cut. It may be called once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.shutdown {
		s.mu.Unlock()
		return ErrClosed
	}
	s.shutdown = true
	close(s.drain)
	var err error
	for _, ln := range s.listeners {
		err = errors.Join(err, ln.Close())
	}
	s.mu.Unlock()
	s.accepting.Wait() // no connection is added after this

	for _, c := range s.all() {
		c.mu.Lock()
		c.pokeLocked()
		// Wakes a reader that waits for a frame. Fails only when closed.
		_ = c.tcp.SetReadDeadline(aLongTimeAgo)
		c.mu.Unlock()
	}
	drained := make(chan struct{})
	go func() {
		s.goroutines.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		cut := s.all()
		for _, c := range cut {
			c.shut(closedShutdown, context.Cause(ctx))
		}
		<-drained
		if len(cut) > 0 {
			err = errors.Join(err, fmt.Errorf("cut %d connections: %w", len(cut), context.Cause(ctx)))
		}
	}
	close(s.stopped)
	s.sweeper.Wait()
	return err
}

func (s *Server) all() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// accept is the accept loop of one listener.
func (s *Server) accept(l *Listener, ln *net.TCPListener) {
	labels := pprof.WithLabels(context.Background(), pprof.Labels("wire", "conn", "listener", l.Name))
	pprof.SetGoroutineLabels(labels) // readers and writers inherit them
	const firstPause, maxPause = 5 * time.Millisecond, time.Second
	pause := firstPause
	for {
		tcp, err := ln.AcceptTCP()
		if err == nil {
			pause = firstPause
			s.accepted(l, tcp)
			continue
		}
		if s.draining() {
			return
		}
		// Out of descriptors, most likely. Those who wait stay in the queue.
		s.opts.Logger.Warn("accept failed", "listener", l.Name, "err", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-s.drain:
			return
		}
		pause = min(2*pause, maxPause)
	}
}

func (s *Server) accepted(l *Listener, tcp *net.TCPConn) {
	s.counters.accepted.Add(1)
	c, err := s.newConn(l.Name, tcp)
	if err == nil && l.TLS != nil {
		c.tls = tls.Server(tcp, l.TLS)
	}
	if err == nil && s.add(c) {
		go func() {
			defer s.goroutines.Done()
			c.run()
		}()
		return
	}
	s.counters.refused.Add(1)
	s.opts.Logger.Debug("connection refused", "listener", l.Name, "remote", tcp.RemoteAddr(), "err", err)
	_ = tcp.Close() // nothing was sent that could be lost
}

func (s *Server) newConn(listener string, tcp *net.TCPConn) (*Conn, error) {
	raw, err := tcp.SyscallConn()
	if err == nil && s.opts.SendBufferBytes > 0 {
		err = tcp.SetWriteBuffer(s.opts.SendBufferBytes)
	}
	if err == nil && s.opts.ReceiveBufferBytes > 0 {
		err = tcp.SetReadBuffer(s.opts.ReceiveBufferBytes)
	}
	if err != nil {
		return nil, err
	}
	c := &Conn{
		srv:      s,
		id:       s.nextID.Add(1),
		listener: listener,
		node:     -1,
		budget:   &s.clients,
		remote:   addrPort(tcp.RemoteAddr()),
		local:    addrPort(tcp.LocalAddr()),
		tcp:      tcp,
		raw:      raw,
	}
	c.active.Store(s.now.Load())
	return c, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// add takes c in, unless a limit says no.
func (s *Server) add(c *Conn) bool {
	ip := c.remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.shutdown:
		return false
	case c.broker:
		s.peers++
	case len(s.conns)-s.peers >= s.opts.MaxConnections || s.perIP[ip] >= s.opts.MaxConnectionsPerIP:
		return false
	default:
		s.perIP[ip]++
	}
	s.conns[c] = struct{}{}
	s.goroutines.Add(1)
	return true
}

func (s *Server) remove(c *Conn) {
	ip := c.remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if c.broker {
		s.peers--
		return
	}
	if s.perIP[ip]--; s.perIP[ip] == 0 {
		delete(s.perIP, ip)
	}
}

// sweepLoop is the sweeper: the one clock for the deadlines of all connections,
// which cost them a store each instead of a timer.
func (s *Server) sweepLoop() {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("wire", "sweeper")))
	o := &s.opts
	every := min(o.IdleTimeout, o.FrameTimeout, o.WriteTimeout) / 8
	ticker := time.NewTicker(min(max(every, time.Millisecond), time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-s.stopped:
			return
		case <-ticker.C:
			s.tick()
			s.sweep()
		}
	}
}

// tick moves the coarse clock, which is never 0: that stands for "none".
func (s *Server) tick() { s.now.Store(int64(time.Since(s.started)) + 1) }

var (
	errIdle       = errors.New("idle for too long")
	errSlowFrame  = errors.New("frame comes too slowly")
	errSlowReader = errors.New("answer is taken too slowly")
)

func (s *Server) sweep() {
	type victim struct {
		c      *Conn
		reason closeReason
		err    error
	}
	var victims []victim
	s.mu.Lock()
	for c := range s.conns {
		if reason, err := c.overdue(); err != nil {
			victims = append(victims, victim{c, reason, err})
		}
	}
	s.mu.Unlock()
	for _, v := range victims {
		v.c.shut(v.reason, v.err)
	}
}

// overdue tells which deadline the connection missed.
func (c *Conn) overdue() (closeReason, error) {
	o := &c.srv.opts
	now := c.srv.now.Load()
	if t := c.writeSince.Load(); t != 0 && now-t > int64(o.WriteTimeout) {
		return closedSlowReader, errSlowReader
	}
	if t := c.frameSince.Load(); t != 0 {
		got := time.Duration(c.frameGot.Load()) * time.Second / time.Duration(o.MinFrameRate)
		if now-t > int64(o.FrameTimeout+got) {
			return closedSlowFrame, errSlowFrame
		}
	}
	if now-c.active.Load() > int64(o.IdleTimeout) && c.inFlight.Load() == 0 {
		return closedIdle, errIdle
	}
	return 0, nil
}
