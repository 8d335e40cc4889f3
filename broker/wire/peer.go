package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/pprof"
)

// ClusterListener is the listener name of connections between brokers. No
// listener of Options may have it.
const ClusterListener = "CLUSTER"

// ErrNotTCP says that a connection handed to ServeConn is neither TCP nor TLS over
// TCP.
var ErrNotTCP = errors.New("not a TCP connection")

// ServeConn serves a connection that another broker of this cluster made to the
// cluster's port, on the caller's goroutine until it ends, and closes it. conn is
// a *net.TCPConn, or a *tls.Conn over one, at the start of its first frame:
// whoever the peer is was found out before, by the caller. node is its node id,
// which requests that speak for a broker are held against (Conn.PeerNode).
//
// It has the pipeline and the limits of any other connection, but it does not
// count against MaxConnections, and its memory is the brokers' share of the
// budget: clients cannot keep replication out. The error says why it was not
// served: ErrNotTCP, or ErrClosed after Shutdown; how it ended is in Stats.
func (s *Server) ServeConn(conn net.Conn, node int32) error {
	tcp, secure := conn, (*tls.Conn)(nil)
	if t, ok := conn.(*tls.Conn); ok {
		tcp, secure = t.NetConn(), t
	}
	t, ok := tcp.(*net.TCPConn)
	if !ok {
		return errors.Join(fmt.Errorf("%w but %T", ErrNotTCP, tcp), conn.Close())
	}
	s.counters.accepted.Add(1)
	c, err := s.newConn(ClusterListener, t)
	if err == nil {
		c.tls, c.broker, c.node, c.budget = secure, true, node, &s.brokers
		if !s.add(c) {
			err = ErrClosed
		}
	}
	if err != nil {
		s.counters.refused.Add(1)
		return errors.Join(err, conn.Close())
	}
	defer s.goroutines.Done()
	pprof.Do(context.Background(), pprof.Labels("wire", "conn", "listener", ClusterListener), func(context.Context) { c.run() })
	return nil
}
