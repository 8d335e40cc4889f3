package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// MaxBody bounds the body of a call and of its answer, in bytes.
	MaxBody = 16 << 20

	callPath      = "/call/"
	headerError   = "Firn-Error"
	headerTimeout = "Firn-Timeout-Ms"

	// maxStreams is how many calls one connection carries at a time; the caller
	// opens another beyond, up to maxRoute to one address.
	maxStreams = 1000
	maxRoute   = 8
	// After pingAfter without a frame the other side is asked for a sign of life,
	// and has pingTime for it: a connection through a cut cable ends in their sum.
	pingAfter = time.Second
	pingTime  = 2 * time.Second
	idleTime  = 5 * time.Minute
	// bodyTime bounds the arrival of a call's body, whose connection may well answer
	// pings all the while.
	bodyTime = 30 * time.Second
	// maxWait bounds the time that a caller may claim to have left, in ms.
	maxWait = 24 * 60 * 60 * 1000
)

// CallFunc answers a call. body is the callee's to read until it returns. An error
// that is no *CallError reaches the caller with CodeInternal. The context ends when
// the caller leaves or its time is up; fn returns soon after.
type CallFunc func(ctx context.Context, p Peer, body []byte) ([]byte, error)

// The codes of a CallError that the link itself gives.
const (
	// CodeInternal: the callee failed.
	CodeInternal = "internal"
	// CodeUnknownCall: nobody handles the name there, yet or at all.
	CodeUnknownCall = "unknown_call"
	// CodeTooLarge: the body or the answer is larger than MaxBody.
	CodeTooLarge = "too_large"
)

// CallError is an error that the callee answered. Code is a word of a-z, 0-9 and _;
// Message is for people.
type CallError struct {
	Code    string
	Message string
}

// Error returns the message and the code.
func (e *CallError) Error() string { return e.Message + " (" + e.Code + ")" }

// HandleCall has fn called, on a goroutine of its own, for each call of a name
// (a-z, 0-9, _ and -). A later fn replaces an earlier one; nil ends it.
func (l *Link) HandleCall(name string, fn func(ctx context.Context, p Peer, body []byte) ([]byte, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fn == nil {
		delete(l.mu.calls, name)
		return
	}
	l.mu.calls[name] = fn
}

// Call asks the node at addr, and returns its answer, or a *CallError that it
// answered. Any other error is the transport's: ErrUnreachable if the call was not
// sent, else nobody knows whether it was carried out. It ends with the context,
// whatever the other side does. A call to this node's own address does not leave
// the process.
func (l *Link) Call(ctx context.Context, addr, name string, body []byte) ([]byte, error) {
	if l.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(body) > MaxBody {
		return nil, &CallError{CodeTooLarge, fmt.Sprintf("call %s: %d bytes, at most %d", name, len(body), MaxBody)}
	}
	if addr == l.addr {
		return l.callSelf(ctx, name, body)
	}
	return l.caller.call(ctx, addr, name, body)
}

// callSelf runs a handler in place.
func (l *Link) callSelf(ctx context.Context, name string, body []byte) ([]byte, error) {
	if !l.enter() {
		return nil, ErrClosed
	}
	defer l.running.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.ctx, func() { cancel(ErrClosed) })()
	answer, err := l.answer(ctx, l.self(), name, body)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, callError(err)
	}
	return answer, nil
}

// enter counts work that Close waits for; false if it is closed.
func (l *Link) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return false
	}
	l.running.Add(1)
	return true
}

// answer runs the handler of a name.
func (l *Link) answer(ctx context.Context, p Peer, name string, body []byte) ([]byte, error) {
	l.mu.Lock()
	fn := l.mu.calls[name]
	l.mu.Unlock()
	if fn == nil {
		return nil, &CallError{CodeUnknownCall, fmt.Sprintf("call %q is not served here", name)}
	}
	answer, err := fn(ctx, p, body)
	if err == nil && len(answer) > MaxBody {
		err = &CallError{CodeTooLarge, fmt.Sprintf("answer to %s: %d bytes, at most %d", name, len(answer), MaxBody)}
	}
	return answer, err
}

// callError makes a handler's error one that travels.
func callError(err error) *CallError {
	var ce *CallError
	if errors.As(err, &ce) && ce.Code != "" && strings.Trim(ce.Code, "abcdefghijklmnopqrstuvwxyz0123456789_") == "" {
		return ce
	}
	return &CallError{CodeInternal, err.Error()}
}

// caller is the calling side: net/http over streams of KindCall, of which it keeps a
// few for each address.
type caller struct {
	link      *Link
	transport *http.Transport

	mu struct {
		sync.Mutex
		closed bool
		routes map[string]*route
		conns  map[*dialledConn]struct{}
	}
}

// route is the way to one address.
type route struct {
	conns []*http.ClientConn
	// dialling is the dial under way, or nil.
	dialling *dialling
}

// dialling is a dial that calls wait for. err is set before done is closed.
type dialling struct {
	done chan struct{}
	err  error
}

func newCaller(l *Link) *caller {
	c := &caller{link: l}
	c.mu.routes = map[string]*route{}
	c.mu.conns = map[*dialledConn]struct{}{}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	c.transport = &http.Transport{
		Protocols:          &protocols,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTime, WriteByteTimeout: pingAfter + pingTime},
		DialContext:        c.dial,
		DisableCompression: true,
		IdleConnTimeout:    idleTime,
	}
	return c
}

// take returns a stream to addr, dialling if there is none with room.
func (c *caller) take(ctx context.Context, addr string) (*http.ClientConn, error) {
	for {
		conn, wait := c.pick(addr)
		if conn != nil {
			return conn, nil
		}
		if wait == nil {
			return nil, ErrClosed
		}
		select {
		case <-wait.done:
			if wait.err != nil {
				return nil, wait.err
			}
		case <-ctx.Done():
			return nil, &unreachable{op: "dial " + addr, err: context.Cause(ctx)}
		}
	}
}

// pick finds a stream with room, or the dial to wait for; neither if it is closed.
func (c *caller) pick(addr string) (*http.ClientConn, *dialling) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		return nil, nil
	}
	r := c.mu.routes[addr]
	if r == nil {
		r = &route{}
		c.mu.routes[addr] = r
	}
	r.conns = slices.DeleteFunc(r.conns, func(conn *http.ClientConn) bool { return conn.Err() != nil })
	for _, conn := range r.conns {
		if conn.Reserve() == nil {
			return conn, nil
		}
	}
	if len(r.conns) == maxRoute {
		// The call waits in line on the one with the fewest.
		return slices.MinFunc(r.conns, func(a, b *http.ClientConn) int { return a.InFlight() - b.InFlight() }), nil
	}
	if r.dialling == nil {
		d := &dialling{done: make(chan struct{})}
		if !c.link.spawn(func() { c.open(addr, r, d) }) {
			return nil, nil
		}
		r.dialling = d
	}
	return nil, r.dialling
}

// open adds a stream to a route.
func (c *caller) open(addr string, r *route, d *dialling) {
	conn, err := c.transport.NewClientConn(c.link.ctx, "http", addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		r.conns = append(r.conns, conn)
	}
	d.err, r.dialling = err, nil
	close(d.done)
}

// dial is the transport's.
func (c *caller) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	conn, peer, err := c.link.Dial(ctx, addr, KindCall)
	if err != nil {
		return nil, err
	}
	d := &dialledConn{Conn: conn, caller: c, peer: peer}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.closed {
		conn.Close()
		return nil, ErrClosed
	}
	c.mu.conns[d] = struct{}{}
	return d, nil
}

// dialledConn is a stream of calls that this side opened.
type dialledConn struct {
	net.Conn
	caller *caller
	peer   Peer
	once   sync.Once
}

// Read tells when the other side ends the stream.
func (d *dialledConn) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		d.caller.link.lost(d.peer)
	}
	return n, err
}

// Close implements net.Conn.
func (d *dialledConn) Close() error {
	d.once.Do(func() {
		d.caller.mu.Lock()
		delete(d.caller.mu.conns, d)
		d.caller.mu.Unlock()
	})
	return d.Conn.Close()
}

func (c *caller) call(ctx context.Context, addr, name string, body []byte) (_ []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.link.ctx, func() { cancel(ErrClosed) })()
	defer func() {
		var ce *CallError
		if err != nil && !errors.As(err, &ce) {
			err = fmt.Errorf("call %s of %s: %w", name, addr, err)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+callPath+name, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		req.Header.Set(headerTimeout, strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10))
	}
	conn, err := c.take(ctx, addr)
	if err != nil {
		return nil, err
	}
	resp, err := conn.RoundTrip(req)
	if err != nil {
		return nil, ended(ctx, err)
	}
	defer resp.Body.Close()
	answer, err := readBody(resp.Body, resp.ContentLength)
	if err != nil {
		return nil, ended(ctx, err)
	}
	switch code := resp.Header.Get(headerError); {
	case resp.StatusCode == http.StatusOK:
		return answer, nil
	case resp.StatusCode == http.StatusUnprocessableEntity && code != "":
		return nil, &CallError{Code: code, Message: string(answer)}
	default:
		return nil, fmt.Errorf("answered with %s", resp.Status)
	}
}

// ended prefers the context's word on why a call ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readBody reads a body of at most MaxBody bytes, whose length may be known.
func readBody(r io.Reader, length int64) ([]byte, error) {
	if length > MaxBody {
		return nil, &CallError{CodeTooLarge, fmt.Sprintf("%d bytes, at most %d", length, MaxBody)}
	}
	const claimed = 64 << 10 // beyond, memory is taken as bytes arrive
	var buf bytes.Buffer
	buf.Grow(int(min(max(length, 0), claimed)) + bytes.MinRead)
	if _, err := buf.ReadFrom(io.LimitReader(r, MaxBody+1)); err != nil {
		return nil, err
	}
	if buf.Len() > MaxBody {
		return nil, &CallError{CodeTooLarge, fmt.Sprintf("more than %d bytes", MaxBody)}
	}
	return buf.Bytes(), nil
}

// close ends every stream of calls that this side opened.
func (c *caller) close() {
	c.mu.Lock()
	c.mu.closed = true
	var conns []*dialledConn
	for d := range c.mu.conns {
		conns = append(conns, d)
	}
	c.mu.Unlock()
	for _, d := range conns {
		// It is the end of the stream that matters, in whatever state it is.
		if err := d.Close(); err != nil {
			c.link.opts.Logger.Debug("cluster port: close of a call's connection", "error", err)
		}
	}
	c.transport.CloseIdleConnections()
}

// answerer is the called side: net/http over accepted streams of KindCall.
type answerer struct {
	link   *Link
	server *http.Server
	conns  chan net.Conn
}

func newAnswerer(l *Link) *answerer {
	a := &answerer{link: l, conns: make(chan net.Conn)}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	a.server = &http.Server{
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingTime, WriteByteTimeout: pingAfter + pingTime},
		Handler:           a,
		MaxHeaderBytes:    8 << 10,
		ReadHeaderTimeout: helloTime,
		BaseContext:       func(net.Listener) context.Context { return l.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*acceptedConn).peer)
		},
		ErrorLog: log.New(serverLines{l.opts.Logger}, "", 0),
	}
	l.running.Go(func() {
		// Serve ends with ErrServerClosed, at close, and for no other reason.
		if err := a.server.Serve(acceptedConns{a}); !errors.Is(err, http.ErrServerClosed) {
			l.opts.Logger.Error("cluster port: calls are not answered any more", "error", err)
		}
	})
	return a
}

// peerKey is the context's key of the caller.
type peerKey struct{}

// acceptedConn is a stream of calls that the other side opened. It hides TLS from
// net/http, which would expect ALPN of it.
type acceptedConn struct {
	net.Conn
	peer   Peer
	closed chan struct{}
	once   sync.Once
}

// Close implements net.Conn.
func (c *acceptedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// serve hands an accepted stream to net/http, and returns at its end.
func (a *answerer) serve(conn net.Conn, p Peer) {
	c := &acceptedConn{Conn: conn, peer: p, closed: make(chan struct{})}
	select {
	case a.conns <- c:
		<-c.closed
	case <-a.link.ctx.Done():
		conn.Close()
	}
}

// acceptedConns is the listener that net/http accepts from.
type acceptedConns struct{ a *answerer }

// Accept implements net.Listener.
func (l acceptedConns) Accept() (net.Conn, error) {
	select {
	case c := <-l.a.conns:
		return c, nil
	case <-l.a.link.ctx.Done():
		return nil, http.ErrServerClosed
	}
}

// Close implements net.Listener; Accept ends with the link.
func (l acceptedConns) Close() error { return nil }

// Addr implements net.Listener.
func (l acceptedConns) Addr() net.Addr { return &net.TCPAddr{} }

func (a *answerer) close() error { return a.server.Close() }

// ServeHTTP answers one call.
func (a *answerer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !a.link.enter() {
		panic(http.ErrAbortHandler) // no answer at all: an empty one would be a success
	}
	defer a.link.running.Done()
	answer, err := a.serveCall(http.NewResponseController(w), r)
	if err != nil {
		ce := callError(err)
		w.Header().Set(headerError, ce.Code)
		answer = []byte(ce.Message)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
	// A caller that has left does not want the answer.
	if _, err := w.Write(answer); err != nil {
		a.link.opts.Logger.Debug("cluster port: an answer was not taken", "call", r.URL.Path, "error", err)
	}
}

func (a *answerer) serveCall(control *http.ResponseController, r *http.Request) ([]byte, error) {
	name, ok := strings.CutPrefix(r.URL.Path, callPath)
	peer, known := r.Context().Value(peerKey{}).(Peer)
	if !ok || !known || r.Method != http.MethodPost {
		return nil, &CallError{CodeUnknownCall, "not a call"}
	}
	if err := control.SetReadDeadline(time.Now().Add(a.link.opts.bodyTime)); err != nil {
		return nil, err
	}
	body, err := readBody(r.Body, r.ContentLength)
	if err != nil {
		return nil, err
	}
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	ctx := r.Context()
	if ms, err := strconv.ParseInt(r.Header.Get(headerTimeout), 10, 64); err == nil && ms > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(ms, maxWait)*int64(time.Millisecond)))
		defer cancel()
	}
	return a.link.answer(ctx, peer, name, body)
}
