package link

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/internal/testlog"
)

// echo answers a stream with what it reads.
func echo(t testing.TB, from func(Peer)) func(net.Conn, Peer) {
	return func(conn net.Conn, p Peer) {
		defer conn.Close()
		from(p)
		if _, err := io.Copy(conn, conn); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("echo: %v", err)
		}
	}
}

func testStream(t *testing.T, a, b *Link) {
	t.Helper()
	seen := make(chan Peer, 1)
	b.HandleStream(KindKafka, echo(t, func(p Peer) { seen <- p }))
	conn, peer, err := a.Dial(t.Context(), b.Addr(), KindKafka)
	require.NoError(t, err)
	require.Equal(t, b.self(), peer)
	require.Equal(t, a.self(), <-seen)
	_, err = conn.Write([]byte("hallo"))
	require.NoError(t, err)
	buf := make([]byte, 5)
	_, err = io.ReadFull(conn, buf)
	require.NoError(t, err)
	require.Equal(t, "hallo", string(buf))
	require.NoError(t, conn.Close())
}

func TestStream(t *testing.T) {
	noLeaks(t)
	a, b := openLink(t, 1, nil), openLink(t, 2, nil)
	testStream(t, a, b)
	// A plain stream is a TCP connection, so that sendfile works on it.
	conn, _, err := a.Dial(t.Context(), b.Addr(), KindKafka)
	require.NoError(t, err)
	require.IsType(t, &net.TCPConn{}, conn)
	require.NoError(t, conn.Close())
}

func TestStreamOverTLS(t *testing.T) {
	noLeaks(t)
	ca := newAuthority(t)
	a := openLink(t, 1, func(o *Options) { o.TLS = ca.node(t) })
	b := openLink(t, 2, func(o *Options) { o.TLS = ca.node(t) })
	testStream(t, a, b)
	b.HandleCall("ping", func(_ context.Context, p Peer, body []byte) ([]byte, error) { return append(body, byte(p.NodeID)), nil })
	answer, err := a.Call(t.Context(), b.Addr(), "ping", []byte{7})
	require.NoError(t, err)
	require.Equal(t, []byte{7, 1}, answer)
}

// A certificate may be replaced while the port serves: streams that are there go on,
// new ones show the new one, in both roles.
func TestCertificateIsReplaced(t *testing.T) {
	noLeaks(t)
	ca, next := newAuthority(t), newAuthority(t)
	both := ca.node(t).RootCAs.Clone()
	both.AddCert(next.cert)
	trusting := func(c *tls.Config) *tls.Config { c.RootCAs, c.ClientCAs = both, both; return c }
	first, second := trusting(ca.node(t)), trusting(next.node(t))
	var now atomic.Pointer[tls.Config]
	now.Store(first)
	a := openLink(t, 1, func(o *Options) { o.TLS, o.NewTLS = first, now.Load })
	peer := trusting(ca.node(t))
	shown := make(chan []byte, 10)
	peer.VerifyConnection = func(s tls.ConnectionState) error {
		shown <- s.PeerCertificates[0].Raw
		return nil
	}
	b := openLink(t, 2, func(o *Options) { o.TLS = peer })
	for _, l := range []*Link{a, b} {
		l.HandleStream(KindKafka, func(c net.Conn, _ Peer) { _, _ = io.Copy(c, c); c.Close() })
	}
	var old []net.Conn
	for _, want := range []*tls.Config{first, second} {
		now.Store(want)
		for _, pair := range [][2]*Link{{a, b}, {b, a}} {
			c, _, err := pair[0].Dial(t.Context(), pair[1].Addr(), KindKafka)
			require.NoError(t, err)
			defer c.Close()
			require.Equal(t, want.Certificates[0].Certificate[0], <-shown)
			for _, c := range append(old, c) {
				_, err = c.Write([]byte("x"))
				require.NoError(t, err)
				_, err = io.ReadFull(c, make([]byte, 1))
				require.NoError(t, err)
			}
			old = append(old, c)
		}
	}
	now.Store(&tls.Config{MinVersion: tls.VersionTLS13}) // of no use: the last one stays
	c, _, err := a.Dial(t.Context(), b.Addr(), KindKafka)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Equal(t, second.Certificates[0].Certificate[0], <-shown)
}

// TestCertificateOfAnotherAuthority: a node with a certificate of someone else, one
// with none, and one without TLS reach nobody, in either direction.
func TestCertificateOfAnotherAuthority(t *testing.T) {
	noLeaks(t)
	ca, other := newAuthority(t), newAuthority(t)
	var accepted atomic.Int32
	handle := func(l *Link) *Link {
		l.HandleStream(KindKafka, func(c net.Conn, _ Peer) { accepted.Add(1); c.Close() })
		return l
	}
	var told, plainTold testlog.Buffer
	good := handle(openLink(t, 1, func(o *Options) { o.TLS, o.Logger = ca.node(t), slog.New(slog.NewTextHandler(&told, nil)) }))
	bad := handle(openLink(t, 2, func(o *Options) { o.TLS = other.node(t) }))
	plain := handle(openLink(t, 3, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&plainTold, nil)) }))
	// It trusts the good one, and is signed by nobody that the good one trusts.
	sly := handle(openLink(t, 4, func(o *Options) { o.TLS = other.node(t); o.TLS.RootCAs = ca.node(t).RootCAs }))
	for _, pair := range [][2]*Link{{good, bad}, {bad, good}, {sly, good}, {plain, good}, {good, plain}} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, _, err := pair[0].Dial(ctx, pair[1].Addr(), KindKafka)
		require.ErrorIs(t, err, ErrUnreachable)
		cancel()
	}
	require.Zero(t, accepted.Load())
	// Each cause is complained of once for each direction, however often it is tried,
	// and with what to do about it; the side without TLS learns it too.
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, _, err := good.Dial(ctx, bad.Addr(), KindKafka)
		require.ErrorIs(t, err, ErrUnreachable)
		cancel()
	}
	for _, want := range []struct {
		in   *testlog.Buffer
		text string
	}{
		{&told, "TLS with a broker failed: its certificate is not accepted here"},
		{&told, "TLS with a broker that connected failed: its certificate is not accepted here"},
		{&told, "TLS with a broker that connected failed: the certificate of this broker is not accepted there"},
		{&told, "TLS with a broker that connected failed: only one of the two uses it"},
		{&told, "TLS with a broker failed: only one of the two uses it"},
		{&plainTold, "TLS with a broker that connected failed: only one of the two uses it"},
		{&plainTold, "TLS with a broker failed: only one of the two uses it"},
	} {
		require.Eventually(t, func() bool { return strings.Count(want.in.String(), want.text) == 1 }, 5*time.Second, 10*time.Millisecond, "%q in\n%s", want.text, want.in)
	}
	require.Equal(t, 2, strings.Count(plainTold.String(), "set cluster.tls.cert, cluster.tls.key and cluster.tls.ca on all brokers, or on none"), plainTold.String())
	_, err := Open(Options{Self: good.opts.Self, TLS: &tls.Config{MinVersion: tls.VersionTLS13}})
	require.ErrorContains(t, err, "certificate")
}

func TestRefusal(t *testing.T) {
	noLeaks(t)
	only := func(o *Options) {
		o.Accept = func(p Peer) error {
			if p.ClusterID != testCluster {
				return errors.New("cluster " + p.ClusterID + " is not ours: correct cluster.join")
			}
			return nil
		}
	}
	a := openLink(t, 1, only)
	stranger := openLink(t, 2, func(o *Options) { o.Self = func() Peer { return Peer{NodeID: 2, ClusterID: "other"} } })
	var refused *Refused
	_, _, err := stranger.Dial(t.Context(), a.Addr(), KindKafka)
	require.ErrorAs(t, err, &refused)
	require.ErrorIs(t, err, ErrUnreachable)
	require.False(t, refused.ByUs)
	require.Equal(t, "cluster other is not ours: correct cluster.join", refused.Reason)
	require.Equal(t, int32(1), refused.Peer.NodeID)

	_, err = stranger.Call(t.Context(), a.Addr(), "x", nil)
	require.ErrorAs(t, err, &refused)
	require.ErrorIs(t, err, ErrUnreachable)

	// The dialler is as particular.
	_, err = a.Call(t.Context(), stranger.Addr(), "x", nil)
	require.ErrorAs(t, err, &refused)
	require.True(t, refused.ByUs)

	// Streams that nobody handles yet.
	_, _, err = a.Dial(t.Context(), openLink(t, 3, nil).Addr(), KindRaft)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "no raft streams here", refused.Reason)
}

func TestDialEndsWithItsContext(t *testing.T) {
	noLeaks(t)
	a := openLink(t, 1, nil)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts by its backlog, says nothing
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = a.Dial(ctx, mute.Addr().String(), KindRaft)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, ErrUnreachable)
	_, err = a.Call(ctx, mute.Addr().String(), "x", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, mute.Close())
	_, _, err = a.Dial(t.Context(), mute.Addr().String(), KindRaft)
	require.ErrorIs(t, err, ErrUnreachable)
}

// TestSlowHello trickles hellos that never become whole: they are hung up on in
// time, and a good peer is served meanwhile.
func TestSlowHello(t *testing.T) {
	noLeaks(t)
	a, b := openLink(t, 1, nil), openLink(t, 2, nil)
	done := make(chan time.Duration, 8)
	start := time.Now()
	for range cap(done) {
		conn, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		go func() {
			defer conn.Close()
			if _, err := conn.Write([]byte(helloMagic)); err != nil {
				t.Error(err)
			}
			_, err := io.ReadAll(conn)
			if err != nil {
				t.Errorf("not hung up on in order: %v", err)
			}
			done <- time.Since(start)
		}()
	}
	testStream(t, a, b)
	for range cap(done) {
		took := <-done
		require.Greater(t, took, helloTime-time.Second)
		require.Less(t, took, helloTime+3*time.Second)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	noLeaks(t)
	a := openLink(t, 1, nil)
	b := openLink(t, 2, func(o *Options) { o.MaxConns = 2 })
	b.HandleStream(KindKafka, echo(t, func(Peer) {}))
	var conns []net.Conn
	for range 2 {
		conn, _, err := a.Dial(t.Context(), b.Addr(), KindKafka)
		require.NoError(t, err)
		conns = append(conns, conn)
	}
	var refused *Refused
	_, _, err := a.Dial(t.Context(), b.Addr(), KindKafka)
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "too many connections", refused.Reason)
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool {
		conn, _, err := a.Dial(t.Context(), b.Addr(), KindKafka)
		return err == nil && conn.Close() == nil
	}, 5*time.Second, time.Millisecond)
}

func TestAdvertisedAddress(t *testing.T) {
	for _, c := range [][3]string{
		{"", "10.0.0.1:9094", "10.0.0.1:9094"},
		{"broker-1", "0.0.0.0:9094", "broker-1:9094"},
		{"broker-1:0", "0.0.0.0:9094", "broker-1:9094"},
		{":7000", "10.0.0.1:9094", "10.0.0.1:7000"},
		{"[2001:db8::1]:7000", "10.0.0.1:9094", "[2001:db8::1]:7000"},
	} {
		got, err := advertised(c[0], c[1])
		require.NoError(t, err)
		require.Equal(t, c[2], got)
	}
}

// TestPeerIsGone: a process that ends is told of; one whose connection ends, or who
// is silent, is not.
func TestPeerIsGone(t *testing.T) {
	noLeaks(t)
	gone := make(chan Peer, 16)
	a := openLink(t, 1, func(o *Options) { o.OnGone = func(p Peer) { gone <- p } })
	b := openLink(t, 2, nil)
	nop := func(context.Context, Peer, []byte) ([]byte, error) { return nil, nil }
	a.HandleCall("nop", nop)
	b.HandleCall("nop", nop)
	_, err := b.Call(t.Context(), a.Addr(), "nop", nil) // b is known to a by its own connection
	require.NoError(t, err)
	b.caller.close() // the connection ends, the process does not
	require.Never(t, func() bool { return len(gone) > 0 }, 3*probeTime, 10*time.Millisecond)

	c := openLink(t, 3, nil)
	c.HandleCall("nop", nop)
	_, err = a.Call(t.Context(), c.Addr(), "nop", nil) // c is known by a's connection
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, c.Close())
	require.Equal(t, c.self(), <-gone)
	t.Logf("told after %v", time.Since(start))
	require.Less(t, time.Since(start), 2*time.Second)
}
