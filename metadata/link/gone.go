package link

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// probeTime bounds one connection of a probe, and how long a port that accepted
	// it must keep it to count as alive.
	probeTime = 200 * time.Millisecond
	// probeTries and probePause are for a process that is just dying: its port may
	// still accept, and hang up.
	probeTries = 20
	probePause = 10 * time.Millisecond
)

// lost looks after a peer with which a connection has ended.
func (l *Link) lost(p Peer) {
	if l.opts.OnGone == nil || p.Addr == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.mu.probing[p.Addr]; ok || l.mu.closed {
		return
	}
	l.mu.probing[p.Addr] = struct{}{}
	l.running.Go(func() {
		gone := probe(l.ctx, p.Addr)
		l.mu.Lock()
		delete(l.mu.probing, p.Addr)
		l.mu.Unlock()
		if gone && l.ctx.Err() == nil {
			l.opts.OnGone(p)
		}
	})
}

// probe reports whether the port at addr refuses connections, so that the process
// behind it has ended. Anything else, silence above all, tells nothing.
func probe(ctx context.Context, addr string) bool {
	dialer := net.Dialer{Timeout: probeTime}
	for range probeTries {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err != nil {
			return errors.Is(err, syscall.ECONNREFUSED)
		}
		alive := keeps(conn)
		conn.Close()
		if alive {
			return false
		}
		select {
		case <-time.After(probePause):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// keeps reports whether the other side keeps a connection on which nothing is said.
func keeps(conn net.Conn) bool {
	if err := conn.SetReadDeadline(time.Now().Add(probeTime)); err != nil {
		return false
	}
	n, err := conn.Read(make([]byte, 1))
	return n > 0 || errors.Is(err, os.ErrDeadlineExceeded)
}
