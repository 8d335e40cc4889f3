// Package faultproxy stands between an S3 client and a real server, and does
// on the wire what networks and overloaded servers do. It tests that drivers
// take such things for what they are, and that objstore.Retrying gets through.
package faultproxy

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
)

// Fault is what happens to one request.
type Fault int

// The faults.
const (
	None        Fault = iota
	Unavailable       // 503 SlowDown, the server hears nothing
	Throttled         // 429 without a body
	Internal          // 500 InternalError as XML
	Hang              // no answer until the client gives up
	ResetBefore       // the connection breaks before the server hears anything
	ResetAfter        // the server carries it out, and the connection breaks before the answer
	HangAfter         // the server carries it out, and no answer comes
	ResetMid          // the connection breaks in the middle of the answer's body
	StallMid          // the answer's body stops in the middle
	FlipUp            // a bit of the request's body is flipped
	FlipDown          // a bit of the answer's body is flipped
)

// String names the fault.
func (f Fault) String() string {
	return [...]string{"none", "503", "429", "500", "hang", "reset before", "reset after", "hang after", "reset mid-body", "stall mid-body", "flip up", "flip down"}[f]
}

// Proxy is a running proxy. Make one with New.
type Proxy struct {
	Addr string // host:port

	server  *httptest.Server
	closing chan struct{} // ends what hangs
	mu      sync.Mutex
	plan    func(*http.Request) Fault
	hits    int
}

// New starts a proxy to the server at target (host:port). Close it.
func New(target string) *Proxy {
	p := &Proxy{closing: make(chan struct{})}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: target})
		r.Out.Host = r.In.Host // part of the signature
	}}
	forward.ErrorLog = log.New(io.Discard, "", 0) // clients that give up are the point
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.serve(forward, w, r)
	}))
	p.Addr = p.server.Listener.Addr().String()
	return p
}

// Close stops the proxy and breaks its connections.
func (p *Proxy) Close() {
	close(p.closing)
	p.server.CloseClientConnections()
	p.server.Close()
}

// SetPlan says what happens to each request; nil is nothing.
func (p *Proxy) SetPlan(plan func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan, p.hits = plan, 0
}

// First gives the first n requests of a method a fault.
func (p *Proxy) First(n int, method string, f Fault) {
	p.SetPlan(func(r *http.Request) Fault {
		if r.Method != method || p.hits >= n {
			return None
		}
		p.hits++
		return f
	})
}

// Hits is how many requests met the fault that First asked for.
func (p *Proxy) Hits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hits
}

func (p *Proxy) fault(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.plan == nil {
		return None
	}
	return p.plan(r)
}

func (p *Proxy) serve(forward http.Handler, w http.ResponseWriter, r *http.Request) {
	switch f := p.fault(r); f {
	case Unavailable:
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
	case Internal:
		refuse(w, http.StatusInternalServerError, "InternalError")
	case Throttled:
		w.WriteHeader(http.StatusTooManyRequests)
	case Hang:
		_, _ = io.Copy(io.Discard, r.Body) // so that the client's end is seen
		p.hang(r)
	case ResetBefore:
		reset(w)
	case ResetAfter, HangAfter:
		forward.ServeHTTP(httptest.NewRecorder(), r)
		if f == HangAfter {
			p.hang(r)
			return
		}
		reset(w)
	case ResetMid, StallMid, FlipDown:
		p.spoil(f, forward, w, r)
	case FlipUp:
		b, err := io.ReadAll(r.Body)
		if err == nil && len(b) > 0 {
			b[len(b)/2] ^= 1
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		forward.ServeHTTP(w, r)
	default:
		forward.ServeHTTP(w, r)
	}
}

// spoil passes the answer on, damaged in the middle.
func (p *Proxy) spoil(f Fault, forward http.Handler, w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	forward.ServeHTTP(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	body := rec.Body.Bytes()
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(rec.Code)
	half := len(body) / 2
	if f == FlipDown && len(body) > 0 {
		body[half] ^= 1
		_, _ = w.Write(body) // the client may be gone
		return
	}
	_, _ = w.Write(body[:half])
	_ = http.NewResponseController(w).Flush()
	if f == StallMid {
		p.hang(r)
		return
	}
	reset(w)
}

// hang waits for the client to give up.
func (p *Proxy) hang(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-p.closing:
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>injected</Message></Error>`, code)
}

// reset breaks the connection with a TCP reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
