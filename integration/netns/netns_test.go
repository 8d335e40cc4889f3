package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds what must happen.
const patience = 20 * time.Second

// silence is how long a test listens for what must not come.
const silence = 300 * time.Millisecond

// triangle is a network of nodes a, b and c.
func triangle(t *testing.T) (n *Network, a, b, c *Node) {
	t.Helper()
	n, err := New("a", "b", "c")
	if errors.Is(err, ErrCannot) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(n.Close)
	return n, n.Node("a"), n.Node("b"), n.Node("c")
}

// echo serves connections at a node until the test ends, and returns its address.
func echo(t *testing.T, x *Node) string {
	t.Helper()
	l, err := x.Listen(0)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, x *Node, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := x.Dial(ctx, "tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// ping sends a word over an echo and waits for it.
func ping(c net.Conn, limit time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

func TestNodesReachEachOther(t *testing.T) {
	_, a, b, c := triangle(t)
	addr := echo(t, b)
	for _, from := range []*Node{a, b, c} {
		conn := dial(t, from, addr)
		require.NoError(t, ping(conn, patience))
		host, _, err := net.SplitHostPort(conn.LocalAddr().String())
		require.NoError(t, err)
		require.Equal(t, from.Addr.String(), host)
	}
	// And nobody outside: this process is not in the network.
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	_, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	require.Error(t, err)
}

func TestTwoNetworksDoNotMeet(t *testing.T) {
	_, a, b, _ := triangle(t)
	_, a2, b2, _ := triangle(t)
	require.Equal(t, b.Addr, b2.Addr)
	addr := echo(t, b)
	require.NoError(t, ping(dial(t, a, addr), patience))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := a2.Dial(ctx, "tcp", addr)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// TestCutOneWay holds that only one direction is dropped, by datagrams.
func TestCutOneWay(t *testing.T) {
	n, a, b, c := triangle(t)
	require.NoError(t, n.CutOneWay(a, b))
	socket := map[*Node]net.PacketConn{}
	for _, x := range []*Node{a, b, c} {
		s, err := x.ListenPacket()
		require.NoError(t, err)
		defer s.Close()
		socket[x] = s
	}
	passes := func(from, to *Node) bool {
		word := from.Name + " to " + to.Name
		_, err := socket[from].WriteTo([]byte(word), socket[to].LocalAddr())
		require.NoError(t, err, "a cut is silent")
		limit := patience
		if n.cuts[direction{from, to}] {
			limit = silence
		}
		require.NoError(t, socket[to].SetReadDeadline(time.Now().Add(limit)))
		buf := make([]byte, 100)
		k, _, err := socket[to].ReadFrom(buf)
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			return false
		}
		require.Equal(t, word, string(buf[:k]))
		return true
	}
	require.False(t, passes(a, b))
	require.True(t, passes(b, a))
	require.True(t, passes(a, c))
	require.True(t, passes(c, b))
	require.NoError(t, n.Heal(a, b))
	require.True(t, passes(a, b))
}

// TestCutLeavesConnections has a connection that stands still while it is cut,
// and goes on.
func TestCutLeavesConnections(t *testing.T) {
	n, a, b, c := triangle(t)
	addr := echo(t, b)
	conn, other := dial(t, a, addr), dial(t, c, addr)
	require.NoError(t, ping(conn, patience))
	require.NoError(t, n.Cut(a, b))
	require.NoError(t, n.Cut(a, b), "it is cut already")
	require.NoError(t, conn.SetDeadline(time.Now().Add(silence)))
	_, err := conn.Write([]byte("ping"))
	require.NoError(t, err)
	_, err = io.ReadFull(conn, make([]byte, 4))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, ping(other, patience))
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	_, err = a.Dial(ctx, "tcp", addr)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), "%v", err)
	require.NoError(t, n.HealAll())
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.ReadFull(conn, make([]byte, 4))
	require.NoError(t, err)
	require.NoError(t, ping(conn, patience))
}

func TestIsolate(t *testing.T) {
	n, a, b, c := triangle(t)
	addr := echo(t, a)
	fromB, fromC := dial(t, b, addr), dial(t, c, addr)
	require.NoError(t, n.Isolate(a, c))
	require.ErrorIs(t, ping(fromB, silence), os.ErrDeadlineExceeded)
	require.NoError(t, ping(fromC, patience))
	require.NoError(t, n.HealAll())
	require.NoError(t, fromB.SetDeadline(time.Now().Add(patience)))
	_, err := io.ReadFull(fromB, make([]byte, 4))
	require.NoError(t, err)
}

// TestFlap passes everything in the end.
func TestFlap(t *testing.T) {
	n, a, b, _ := triangle(t)
	conn := dial(t, a, echo(t, b))
	stop := n.Flap(a, b, 30*time.Millisecond, 60*time.Millisecond)
	for range 50 {
		require.NoError(t, ping(conn, patience))
	}
	require.NoError(t, stop())
	require.Empty(t, n.cuts)
	require.NoError(t, ping(conn, patience))
}

func TestRate(t *testing.T) {
	n, a, b, _ := triangle(t)
	if _, err := exec.LookPath("tc"); err != nil {
		t.Skip("there is no program tc (package iproute2)")
	}
	conn := dial(t, a, echo(t, b))
	transfer := func() time.Duration {
		const size = 1 << 20
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		begin := time.Now()
		go func() { _, _ = conn.Write(make([]byte, size)) }()
		_, err := io.ReadFull(conn, make([]byte, size))
		require.NoError(t, err)
		return time.Since(begin)
	}
	require.NoError(t, n.Rate(b, 1<<20))
	require.Greater(t, transfer(), 700*time.Millisecond)
	require.NoError(t, n.Rate(b, 0))
	require.Less(t, transfer(), 500*time.Millisecond)
}

// helperEnv makes this test binary the victim of TestKilled.
const helperEnv = "FIRN_TEST_NETNS_VICTIM"

// TestKilled holds that nothing is left of a network when its process is killed.
func TestKilled(t *testing.T) {
	if os.Getenv(helperEnv) != "" {
		_, a, _, _ := triangle(t)
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, a.Start(cmd))
		inode, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
		require.NoError(t, err)
		fmt.Fprintln(os.Stdout, "namespace", inode)
		require.NoError(t, cmd.Wait())
		return
	}
	triangle(t) // skips where it is not possible
	victim := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
	victim.Env = append(os.Environ(), helperEnv+"=1")
	out, err := victim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	inode := ""
	for s := bufio.NewScanner(out); inode == "" && s.Scan(); {
		inode, _ = strings.CutPrefix(s.Text(), "namespace ")
	}
	require.True(t, strings.HasPrefix(inode, "net:["), inode)
	require.True(t, inUse(t, inode))
	require.NoError(t, victim.Process.Kill())
	_ = victim.Wait() // it was killed
	deadline := time.Now().Add(patience)
	for tick := time.NewTicker(10 * time.Millisecond); inUse(t, inode); <-tick.C {
		require.True(t, time.Now().Before(deadline), "a process is left in the namespace")
	}
}

// inUse tells whether a process is in a namespace.
func inUse(t *testing.T, inode string) bool {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	require.NoError(t, err)
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && at == inode { // it may have ended meanwhile
			return true
		}
	}
	return false
}
