// Package link is the one port between brokers: Raft, metadata calls and
// replication go over it, under one optional mutual TLS.
//
// A Link listens on the cluster port and dials the ports of others. A stream
// begins with a hello from each side: who it is, which cluster it belongs to, and
// what the stream is for. Either side may refuse; the reason travels to the one
// that dialled. What comes then depends on the Kind: a raw byte stream for a
// handler (HandleStream), or calls (Call, HandleCall), which are HTTP/2 requests of
// net/http, many at a time on one connection.
//
// The hello is at most 1 KiB and must be whole within 5 s:
//
//	bytes  field
//	8      magic "FIRNLINK"
//	2      version, 1; a later version appends fields, which are skipped
//	1      0 opens, 1 accepts, 2 refuses
//	1      kind of stream: 1 Raft, 2 calls, 3 Kafka
//	2      length of the rest
//	4      node id, -1 for none
//	16     directory id
//	1+n    cluster id, then version, then advertised address, then the reason of a
//	       refusal: each a length and UTF-8
//
// A call is POST /call/<name>; the time that the caller has left travels in the
// Firn-Timeout-Ms header. An answer has status 200 and the bytes that the handler
// returned, or status 422, the code of a CallError in Firn-Error, and its message.
//
// Goroutines: the accept loop, one for each hello under way and each accepted
// stream, those of net/http, and one for each probe of a peer that was lost. Close
// ends and awaits them all. No lock is held across I/O.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Kind says what a stream is for.
type Kind byte

// The kinds of stream. The numbers are on the wire.
const (
	KindRaft  Kind = 1
	KindCall  Kind = 2
	KindKafka Kind = 3
)

// String names the kind in logs.
func (k Kind) String() string {
	switch k {
	case KindRaft:
		return "raft"
	case KindCall:
		return "call"
	case KindKafka:
		return "kafka"
	default:
		return fmt.Sprintf("kind %d", byte(k))
	}
}

const (
	// helloTime bounds the TLS handshake and both hellos, connectTime the
	// connection before them.
	helloTime   = 5 * time.Second
	connectTime = 3 * time.Second
	// maxHellos bounds the hellos under way; a stranger beyond it is hung up on.
	maxHellos = 256
	// defaultMaxConns is the default of Options.MaxConns.
	defaultMaxConns = 1024
)

// Options configure a Link.
type Options struct {
	// Listen is the address of the cluster port, host:port; port 0 takes a free
	// one. Empty: there is no port, and only calls to the node itself work.
	Listen string
	// Advertise is the address that others are told, host:port; an empty host or
	// port is that of the bound address.
	Advertise string
	// TLS puts every stream under mutual TLS, both as server and as client: it
	// needs a certificate for both roles and RootCAs; ClientCAs default to them.
	// The name that is verified is ServerName, or the host that is dialled. Nil is
	// plaintext.
	TLS *tls.Config
	// NewTLS is asked before each handshake for the configuration to go by, which is
	// like TLS; streams that are there live on. Nil, or nil from it: the last one
	// stays. It is not asked where TLS is nil.
	NewTLS func() *tls.Config
	// Self is what this side says in its hello, asked each time. Addr is filled in.
	// Required.
	Self func() Peer
	// Accept refuses a peer by an error, whose text the dialler is told; it is asked
	// on both sides. It must not block. Nil accepts everyone.
	Accept func(Peer) error
	// OnGone is called when a peer's process is certainly gone: a connection with it
	// ended, and its port refuses connections. It may be called more than once, from
	// any goroutine. Nil: nobody asks.
	OnGone func(Peer)
	// MaxConns bounds the accepted streams; default 1024.
	MaxConns int
	Logger   *slog.Logger

	// bodyTime is shorter in tests.
	bodyTime time.Duration
}

// Refused is the error of a dial that one of the two sides refused.
type Refused struct {
	// Reason is for people, from the side that refused.
	Reason string
	// Peer is who answered, as far as it said.
	Peer Peer
	// ByUs says that this side refused the other.
	ByUs bool
}

// Error returns who refused, and why.
func (r *Refused) Error() string {
	if r.ByUs {
		return fmt.Sprintf("refused %s: %s", r.Peer, r.Reason)
	}
	return fmt.Sprintf("refused by %s: %s", r.Peer, r.Reason)
}

var (
	// ErrUnreachable says that no stream came to be, so nothing was sent on it. A
	// *Refused is one too.
	ErrUnreachable = errors.New("peer is unreachable")
	// ErrClosed says that the link was closed.
	ErrClosed = errors.New("link is closed")
)

// Is makes a refusal ErrUnreachable.
func (r *Refused) Is(target error) bool { return target == ErrUnreachable }

// Link is one node's end of all streams.
type Link struct {
	opts     Options
	listener net.Listener // nil without a port
	addr     string
	tls      atomic.Pointer[secured] // nil without TLS
	caller   *caller
	answerer *answerer

	told complaints

	// ctx ends when the link closes.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	hellos  chan struct{}

	mu struct {
		sync.Mutex
		closed   bool
		streams  map[Kind]func(net.Conn, Peer)
		calls    map[string]CallFunc
		accepted map[net.Conn]struct{}
		// probing are the addresses of lost peers that are being looked at.
		probing map[string]struct{}
	}
	closeOnce sync.Once
}

// Open binds the cluster port. Nobody is answered before Serve.
func Open(opts Options) (*Link, error) {
	if opts.Self == nil {
		return nil, errors.New("cluster port: no identity")
	}
	if opts.Accept == nil {
		opts.Accept = func(Peer) error { return nil }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.bodyTime <= 0 {
		opts.bodyTime = bodyTime
	}
	if opts.MaxConns <= 0 {
		opts.MaxConns = defaultMaxConns
	}
	l := &Link{opts: opts, hellos: make(chan struct{}, maxHellos)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.mu.streams = map[Kind]func(net.Conn, Peer){}
	l.mu.calls = map[string]CallFunc{}
	l.mu.accepted = map[net.Conn]struct{}{}
	l.mu.probing = map[string]struct{}{}
	if opts.TLS != nil {
		s, err := secure(opts.TLS)
		if err != nil {
			l.cancel()
			return nil, err
		}
		l.tls.Store(s)
	}
	if opts.Listen != "" {
		if err := l.bind(); err != nil {
			l.cancel()
			return nil, err
		}
	}
	l.caller = newCaller(l)
	l.answerer = newAnswerer(l)
	return l, nil
}

func (l *Link) bind() error {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(l.ctx, "tcp", l.opts.Listen)
	if err != nil {
		return fmt.Errorf("cluster port: %w", err)
	}
	l.listener = ln
	if l.addr, err = advertised(l.opts.Advertise, ln.Addr().String()); err != nil {
		return errors.Join(fmt.Errorf("cluster port: %w", err), ln.Close())
	}
	return nil
}

// keepAlive finds a peer whose machine is gone, on a stream where nobody writes,
// within about 10 s.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3}

// advertised fills the host and port that advertise leaves open from what is bound.
func advertised(advertise, bound string) (string, error) {
	host, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", err
	}
	if advertise != "" {
		h, p, err := net.SplitHostPort(advertise)
		if err != nil {
			h, p = advertise, ""
		}
		if h != "" {
			host = h
		}
		if p != "" && p != "0" {
			port = p
		}
	}
	addr := net.JoinHostPort(host, port)
	if len(addr) > maxText {
		return "", fmt.Errorf("address of %d bytes, at most %d", len(addr), maxText)
	}
	return addr, nil
}

// Addr is the advertised address with the bound port; empty without a port.
func (l *Link) Addr() string { return l.addr }

// HandleStream (not for KindCall: see HandleCall) has fn called, on a goroutine of its own, with each accepted stream
// of a kind. fn owns the connection and closes it; it should not return before the
// stream's end. A later fn replaces an earlier one. Streams of a kind that nobody
// handles are refused.
func (l *Link) HandleStream(k Kind, fn func(conn net.Conn, p Peer)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.streams[k] = fn
}

func (l *Link) handler(k Kind) func(net.Conn, Peer) {
	if k == KindCall {
		return l.answerer.serve
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.streams[k]
}

// Serve begins to answer the port. It returns at once.
func (l *Link) Serve() {
	if l.listener == nil {
		return
	}
	l.spawn(l.acceptLoop)
}

// spawn runs fn on a goroutine that Close waits for; false if it is closed.
func (l *Link) spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return false
	}
	l.running.Go(fn)
	return true
}

func (l *Link) acceptLoop() {
	const pause = 50 * time.Millisecond // while descriptors are short
	for {
		conn, err := l.listener.Accept()
		if l.ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			l.opts.Logger.Warn("cluster port: accept failed", "error", err)
			select {
			case <-time.After(pause):
				continue
			case <-l.ctx.Done():
				return
			}
		}
		select {
		case l.hellos <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		if !l.spawn(func() { l.accepted(conn) }) {
			<-l.hellos
			conn.Close()
		}
	}
}

// accepted does the hello of one accepted connection and hands it on.
func (l *Link) accepted(raw net.Conn) {
	room := l.track(raw)
	defer l.untrack(raw)
	conn, h, err := l.answerHello(raw, room)
	<-l.hellos
	if err != nil {
		conn.Close()
		l.opts.Logger.Debug("cluster port: hello failed", "remote", raw.RemoteAddr().String(), "error", err)
		l.tellTLS(incoming, raw.RemoteAddr().String(), err)
		return
	}
	l.handler(h.kind)(conn, h.peer)
	l.lost(h.peer)
}

// track notes an accepted connection, so that Close closes it. It reports whether
// there is room for it.
func (l *Link) track(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.accepted[conn] = struct{}{}
	return !l.mu.closed && len(l.mu.accepted) <= l.opts.MaxConns
}

func (l *Link) untrack(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mu.accepted, conn)
}

// answerHello reads the dialler's hello and answers it. The connection it returns is
// the one to use, or to close after an error.
func (l *Link) answerHello(conn net.Conn, room bool) (net.Conn, hello, error) {
	if err := conn.SetDeadline(time.Now().Add(helloTime)); err != nil {
		return conn, hello{}, err
	}
	if s := l.secured(); s != nil {
		secure := tls.Server(conn, s.server)
		if err := secure.HandshakeContext(l.ctx); err != nil {
			return conn, hello{}, fmt.Errorf("TLS: %w", refuseInTheClear(err))
		}
		conn = secure
	}
	h, err := readHello(conn)
	if err != nil {
		return conn, hello{}, refuseTLS(conn, err)
	}
	answer := hello{what: helloAccepts, kind: h.kind, peer: l.self()}
	refusal := l.judge(h, room)
	if refusal != nil {
		answer.what, answer.reason = helloRefuses, refusal.Error()
	}
	if _, err := conn.Write(encodeHello(answer)); err != nil {
		return conn, hello{}, err
	}
	if refusal != nil {
		return conn, hello{}, fmt.Errorf("refused %s: %w", h.peer, refusal)
	}
	return conn, h, conn.SetDeadline(time.Time{})
}

// judge says why an accepted stream is refused, or nil.
func (l *Link) judge(h hello, room bool) error {
	switch {
	case !room:
		return errors.New("too many connections")
	case h.what != helloOpens:
		return errors.New("not a dialler's hello")
	}
	if err := l.opts.Accept(h.peer); err != nil {
		return err
	}
	if l.handler(h.kind) == nil {
		return fmt.Errorf("no %s streams here", h.kind)
	}
	return nil
}

func (l *Link) self() Peer {
	p := l.opts.Self()
	p.Addr = l.addr
	return p
}

// Dial opens a stream to the node at addr. The context bounds it, and so do fixed
// times. The connection belongs to the caller. The error is a *Refused if either
// side refused, and in any case ErrUnreachable.
func (l *Link) Dial(ctx context.Context, addr string, k Kind) (net.Conn, Peer, error) {
	if l.ctx.Err() != nil {
		return nil, Peer{}, ErrClosed
	}
	conn, peer, err := l.dial(ctx, addr, k)
	if err != nil {
		return nil, peer, &unreachable{op: fmt.Sprintf("dial %s for %s", addr, k), err: err}
	}
	return conn, peer, nil
}

// unreachable is an ErrUnreachable with its cause.
type unreachable struct {
	op  string
	err error
}

// Error implements error.
func (u *unreachable) Error() string { return u.op + ": " + u.err.Error() }

// Unwrap returns the cause.
func (u *unreachable) Unwrap() error { return u.err }

// Is makes it ErrUnreachable.
func (u *unreachable) Is(target error) bool { return target == ErrUnreachable }

func (l *Link) dial(ctx context.Context, addr string, k Kind) (_ net.Conn, _ Peer, err error) {
	dialer := net.Dialer{Timeout: connectTime, KeepAliveConfig: keepAlive}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, Peer{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, helloTime, errNoHello)
	defer cancel()
	// A side that says nothing must not hold the caller beyond its context.
	raw := conn
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			conn.Close()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
		}
	}()
	defer func() {
		l.tellTLS(outgoing, addr, err)
	}()
	if s := l.secured(); s != nil {
		secure := tls.Client(conn, s.to(addr))
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, Peer{}, fmt.Errorf("TLS: %w", mixed(err))
		}
		conn = secure
	}
	if _, err := conn.Write(encodeHello(hello{what: helloOpens, kind: k, peer: l.self()})); err != nil {
		return nil, Peer{}, err
	}
	h, err := readHello(conn)
	if err != nil {
		return nil, Peer{}, err
	}
	switch h.what {
	case helloAccepts:
	case helloRefuses:
		return nil, h.peer, &Refused{Reason: h.reason, Peer: h.peer}
	default:
		return nil, h.peer, fmt.Errorf("%w: type %d in answer", errHello, h.what)
	}
	if err := l.opts.Accept(h.peer); err != nil {
		return nil, h.peer, &Refused{Reason: err.Error(), Peer: h.peer, ByUs: true}
	}
	return conn, h.peer, nil
}

// Close ends the port, every accepted stream and every call, and waits for the
// goroutines. Streams of Dial are their callers'. Handlers of streams must return
// when their connection is closed, those of calls when their context ends.
func (l *Link) Close() error {
	var err error
	l.closeOnce.Do(func() {
		l.mu.Lock()
		l.mu.closed = true
		l.mu.Unlock()
		l.cancel()
		if l.listener != nil {
			err = l.listener.Close()
		}
		l.mu.Lock()
		var conns []net.Conn
		for c := range l.mu.accepted {
			conns = append(conns, c)
		}
		l.mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		if cerr := l.answerer.close(); cerr != nil && !errors.Is(cerr, http.ErrServerClosed) {
			err = errors.Join(err, cerr)
		}
		l.caller.close()
		l.running.Wait()
	})
	if err != nil {
		return fmt.Errorf("close cluster port: %w", err)
	}
	return nil
}
