package wire

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// peerPort accepts connections and hands them to ServeConn, as the cluster's port
// does after its hello. It returns a client's side and the end of the service.
func peerPort(t *testing.T, ts *testServer, secure func(net.Conn) net.Conn) (*client, <-chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	ended := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			ended <- err
			return
		}
		ended <- ts.ServeConn(secure(conn), 7)
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(30*time.Second)))
	return &client{t: t, nc: nc}, ended
}

func plaintext(c net.Conn) net.Conn { return c }

func answerListener(t *testing.T) handlerFunc {
	return func(r *Request) {
		if r.Conn.FromBroker() != (r.Conn.Listener() == ClusterListener) {
			t.Errorf("listener %s, from a broker: %t", r.Conn.Listener(), r.Conn.FromBroker())
		}
		if node := r.Conn.PeerNode(); node != map[bool]int32{true: 7, false: -1}[r.Conn.FromBroker()] {
			t.Errorf("from a broker: %t, node %d", r.Conn.FromBroker(), node)
		}
		r.Reply(heartbeatAnswer(int16(r.CorrelationID)))
	}
}

// A connection that was handed in is served like one that was accepted, past the
// limit of connections, and ends with its peer or with the server.
func TestServeConn(t *testing.T) {
	ts := start(t, answerListener(t), func(o *Options) { o.MaxConnections = 1 })
	mine := ts.dial()
	mine.receive(mine.send(heartbeat("g")), heartbeatAnswer(0))
	peer, ended := peerPort(t, ts, plaintext)
	for range 3 {
		peer.receive(peer.send(heartbeat("g")), heartbeatAnswer(0))
	}
	require.EqualValues(t, 2, ts.Stats().Connections)
	ts.dial().closed() // one client is all that is let in
	require.NoError(t, mine.nc.Close())
	ts.eventually(func(s Stats) bool { return s.Connections == 1 })
	next := ts.dial()
	next.receive(next.send(heartbeat("g")), heartbeatAnswer(0))

	require.NoError(t, peer.nc.Close())
	require.NoError(t, <-ended)
	peer, ended = peerPort(t, ts, plaintext)
	peer.receive(peer.send(heartbeat("g")), heartbeatAnswer(0))
	require.NoError(t, ts.Shutdown(t.Context()))
	require.NoError(t, <-ended)
	peer.closed()
	late, ended := peerPort(t, ts, plaintext)
	require.ErrorIs(t, <-ended, ErrClosed)
	late.closed()
}

func TestServeConnOverTLS(t *testing.T) {
	server, client := selfSigned(t)
	ts := start(t, answerListener(t), nil)
	peer, ended := peerPort(t, ts, func(c net.Conn) net.Conn {
		secure := tls.Server(c, server)
		if err := secure.Handshake(); err != nil {
			t.Error(err)
		}
		return secure
	})
	peer.nc = tls.Client(peer.nc, client)
	for range 3 {
		peer.receive(peer.send(heartbeat("g")), heartbeatAnswer(0))
	}
	require.NoError(t, peer.nc.Close())
	require.NoError(t, <-ended)

	a, b := net.Pipe()
	require.ErrorIs(t, ts.ServeConn(a, 7), ErrNotTCP)
	_, err := b.Read(make([]byte, 1))
	require.Error(t, err, "it is closed all the same")
}

// Clients that have taken all memory there is for them do not keep a broker from
// being served.
func TestMemoryIsKeptForBrokers(t *testing.T) {
	held := make(chan *Request, 16)
	ts := start(t, func(r *Request) {
		if r.Key == keyProduce {
			held <- r
			return
		}
		r.Reply(heartbeatAnswer(0))
	}, func(o *Options) { o.MemoryBudget, o.BrokerMemory = 1<<20, 256<<10 })
	hog := ts.dial()
	hog.send(produce(1, make([]byte, 900<<10)))
	first := <-held
	waiting := ts.dial()
	waiting.send(heartbeat("g"))
	ts.eventually(func(s Stats) bool { return s.MemoryWaits > 0 })
	peer, ended := peerPort(t, ts, plaintext)
	peer.receive(peer.send(heartbeat("g")), heartbeatAnswer(0))
	first.Reply(produceAnswer())
	waiting.receive(1, heartbeatAnswer(0))
	require.NoError(t, peer.nc.Close())
	require.NoError(t, <-ended)
}
