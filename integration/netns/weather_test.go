package netns

import (
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sockets are a sender at one node and a receiver at another.
func sockets(t *testing.T, from, to *Node) (sender, receiver net.PacketConn) {
	t.Helper()
	for _, s := range []struct {
		at *Node
		c  *net.PacketConn
	}{{from, &sender}, {to, &receiver}} {
		c, err := s.at.ListenPacket()
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		*s.c = c
	}
	return sender, receiver
}

// numbers sends so many numbered datagrams and returns those that arrive, in their
// order: at least so many as it waits for, and what comes before a silence.
func numbers(t *testing.T, sender, receiver net.PacketConn, n, least int) (got []uint32) {
	t.Helper()
	for i := range n {
		_, err := sender.WriteTo(binary.BigEndian.AppendUint32(nil, uint32(i)), receiver.LocalAddr())
		require.NoError(t, err)
	}
	buf := make([]byte, 100)
	for {
		limit := silence
		if len(got) < least {
			limit = patience
		}
		require.NoError(t, receiver.SetReadDeadline(time.Now().Add(limit)))
		k, _, err := receiver.ReadFrom(buf)
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			return got
		}
		require.Equal(t, 4, k)
		got = append(got, binary.BigEndian.Uint32(buf))
	}
}

// TestLoss: of one direction a part is lost, of the others nothing, and connections
// live with it.
func TestLoss(t *testing.T) {
	n, a, b, c := triangle(t)
	require.NoError(t, n.SetWeather(a, b, Weather{Loss: 0.3}))
	const sent, rounds = 200, 3 // a socket's buffer holds as many
	there, back := 0, 0
	for range rounds {
		s, r := sockets(t, a, b)
		there += len(numbers(t, s, r, sent, sent/2))
		s, r = sockets(t, b, a)
		back += len(numbers(t, s, r, sent, sent))
		s, r = sockets(t, a, c)
		require.Len(t, numbers(t, s, r, sent, sent), sent)
	}
	require.Equal(t, rounds*sent, back)
	require.InDelta(t, 0.7*rounds*sent, there, 80, "seven deviations")
	passed, lost := n.Traffic()
	require.EqualValues(t, rounds*sent, passed+lost, "nothing else goes this way")
	conn := dial(t, a, echo(t, b))
	for range 5 {
		require.NoError(t, ping(conn, patience))
	}
	require.NoError(t, n.ClearWeather())
	s, r := sockets(t, a, b)
	require.Len(t, numbers(t, s, r, sent, sent), sent)
}

// TestDelay: everything arrives, in order, and late.
func TestDelay(t *testing.T) {
	n, a, b, c := triangle(t)
	const delay = 250 * time.Millisecond
	conn, other := dial(t, a, echo(t, b)), dial(t, c, echo(t, b))
	require.NoError(t, n.SetWeather(a, b, Weather{Delay: delay}))
	require.NoError(t, n.SetWeather(b, a, Weather{Delay: delay, Jitter: delay / 2}))
	for range 3 {
		begin := time.Now()
		require.NoError(t, ping(conn, patience))
		require.GreaterOrEqual(t, time.Since(begin), 2*delay)
		begin = time.Now()
		require.NoError(t, ping(other, patience))
		require.Less(t, time.Since(begin), delay)
	}
	s, r := sockets(t, b, a)
	var want []uint32
	for i := range uint32(200) {
		want = append(want, i)
	}
	require.Equal(t, want, numbers(t, s, r, len(want), len(want)))
	require.NoError(t, n.ClearWeather())
	require.Empty(t, n.weather)
	begin := time.Now()
	require.NoError(t, ping(conn, patience))
	require.Less(t, time.Since(begin), delay)
}

// TestWeatherAndCuts: a cut is a cut in any weather.
func TestWeatherAndCuts(t *testing.T) {
	n, a, b, _ := triangle(t)
	rain := Weather{Delay: time.Millisecond}
	require.NoError(t, n.CutOneWay(a, b))
	require.NoError(t, n.SetWeather(a, b, rain))
	s, r := sockets(t, a, b)
	require.Empty(t, numbers(t, s, r, 10, 0))
	require.NoError(t, n.HealAll())
	require.Len(t, numbers(t, s, r, 10, 10), 10)
	require.NoError(t, n.CutOneWay(a, b))
	require.Empty(t, numbers(t, s, r, 10, 0))
}
