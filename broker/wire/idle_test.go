package wire

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	idleClientsEnv = "FIRN_TEST_IDLE_CLIENTS" // "address count"
	idleConns      = 10_000
	idleLimit      = 20 << 10 // bytes of resident memory for each
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(idleClientsEnv); spec != "" {
		if err := runIdleClients(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runIdleClients is the other process of TestIdleConnectionsAreSmall: it opens
// connections, sends one request on each, and keeps them until its input ends.
func runIdleClients(spec string) error {
	addr, count, _ := strings.Cut(spec, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	if err := raiseFileLimit(n + 100); err != nil {
		return err
	}
	answer := make([]byte, 4+11)
	for i := range n {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		if _, err := nc.Write(frame(int32(i), heartbeat("group"))); err != nil {
			return err
		}
		if _, err := io.ReadFull(nc, answer); err != nil {
			return err
		}
		defer nc.Close()
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func raiseFileLimit(n int) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Cur >= uint64(n) {
		return nil
	}
	l.Cur = uint64(n)
	l.Max = max(l.Max, l.Cur)
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

func residentMemory(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

func TestIdleConnectionsAreSmall(t *testing.T) {
	require.NoError(t, raiseFileLimit(idleConns+200))
	ts := start(t, answerHeartbeat, nil)
	before := residentMemory(t)
	// Against 10,000 connections of this process itself: the client is another.
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", idleClientsEnv, ts.Addr("PLAINTEXT"), idleConns))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	begin := time.Now()
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	took := time.Since(begin)

	require.Equal(t, int64(idleConns), ts.Stats().Connections)
	ts.eventually(func(s Stats) bool { return s.Memory == 0 })
	each := (residentMemory(t) - before) / idleConns
	t.Logf("%d bytes for each of %d connections, opened in %v", each, idleConns, took)
	if !raceEnabled {
		require.LessOrEqual(t, each, idleLimit)
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
}
