package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// adminLimits bound what clients of the admin address can hold, since they are not
// asked who they are. Zero values are no limits: take defaultAdminLimits.
type adminLimits struct {
	// Header is how long a request's head, and a body, may take to arrive.
	Header time.Duration
	// Idle is how long a connection is kept without a request.
	Idle time.Duration
	// Stall is how long a piece of an answer may wait for the client to read on. An
	// answer as a whole may take as long as it does: a profile takes what was asked.
	Stall time.Duration
	// HeaderBytes bounds a request's head, Conns the connections at a time; those
	// beyond wait in the kernel's queue.
	HeaderBytes, Conns int
}

var defaultAdminLimits = adminLimits{Header: 10 * time.Second, Idle: 2 * time.Minute, Stall: 30 * time.Second, HeaderBytes: 64 << 10, Conns: 256}

// adminServer is the HTTP side: health, metrics, profiles and the tiers.
//
// Liveness says that the process works; the object store, which may be down for
// hours while the disk has room, fails neither it nor readiness.
//
// Goroutines: the accept loop and those of net/http, which stop awaits as far as they
// run one of our handlers.
type adminServer struct {
	http   *http.Server
	few    *fewConns
	addr   net.Addr
	limits adminLimits
	log    *slog.Logger
	cancel context.CancelFunc // ends the context of all requests

	mu      sync.Mutex
	stopped bool           // guarded by mu: no request begins any more
	running sync.WaitGroup // requests, begun under mu; the accept loop
}

// newAdminServer serves h on l. failed is told when it can serve no more.
func newAdminServer(l net.Listener, h http.Handler, limits adminLimits, log *slog.Logger, failed func(error)) *adminServer {
	ctx, cancel := context.WithCancel(context.Background())
	a := &adminServer{addr: l.Addr(), limits: limits, log: log, cancel: cancel,
		few: &fewConns{Listener: l, slots: make(chan struct{}, limits.Conns), closed: make(chan struct{})}}
	a.http = &http.Server{
		Handler: a.bounded(h), ReadHeaderTimeout: limits.Header, IdleTimeout: limits.Idle, MaxHeaderBytes: limits.HeaderBytes,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	a.running.Go(func() {
		if err := a.http.Serve(a.few); !errors.Is(err, http.ErrServerClosed) {
			failed(err)
		}
	})
	return a
}

// stop ends the server and waits for what its requests still do: nothing that they
// look at may be closed before.
func (a *adminServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := a.http.Shutdown(ctx); err != nil {
		if err := a.http.Close(); err != nil { // a profile that still runs is cut off
			a.log.Debug("close the admin server", "err", err)
		}
	}
	a.cancel()
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	a.running.Wait()
}

func (a *adminServer) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stopped {
		a.running.Add(1)
	}
	return !a.stopped
}

// bounded holds one request to the limits.
func (a *adminServer) bounded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.enter() {
			panic(http.ErrAbortHandler)
		}
		defer a.running.Done()
		out := &promptWriter{ResponseWriter: w, control: http.NewResponseController(w), stall: a.limits.Stall}
		if r.ContentLength != 0 { // no request here needs a body; net/http reads what comes
			if err := out.control.SetReadDeadline(time.Now().Add(a.limits.Header)); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		h.ServeHTTP(out, r)
		out.extend() // net/http sends what is left
	})
}

// promptWriter gives the client a time for each piece of an answer.
type promptWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
}

// extend begins the time for the next piece. A connection that takes no deadline is
// at its end, which the write finds.
func (w *promptWriter) extend() { _ = w.control.SetWriteDeadline(time.Now().Add(w.stall)) }

// Write implements http.ResponseWriter.
func (w *promptWriter) Write(p []byte) (int, error) {
	w.extend()
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (w *promptWriter) Flush() {
	w.extend()
	_ = w.control.Flush() // the next write finds what is wrong
}

// Unwrap is for http.ResponseController.
func (w *promptWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// fewConns is a listener that accepts no more connections than it has slots.
type fewConns struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *fewConns) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotConn{Conn: conn, leave: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *fewConns) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// slotConn holds a slot until it is closed.
type slotConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *slotConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
