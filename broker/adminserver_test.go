package broker

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startLimited serves h with short times and two connections.
func startLimited(t *testing.T, h http.HandlerFunc) *adminServer {
	t.Helper()
	before := runtime.NumGoroutine()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	limits := adminLimits{Header: 200 * time.Millisecond, Idle: 200 * time.Millisecond, Stall: 200 * time.Millisecond, HeaderBytes: 4 << 10, Conns: 2}
	a := newAdminServer(l, h, limits, slog.New(slog.DiscardHandler), func(err error) { t.Errorf("failed: %v", err) })
	t.Cleanup(func() {
		a.stop()
		require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 10*time.Second, time.Millisecond, "a goroutine is left")
	})
	return a
}

func dialAdmin(t *testing.T, a *adminServer) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", a.addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

// ends waits until the server hangs up.
func ends(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it was kept")
}

// A client that stops in the middle of what it says, or says nothing, is hung up on.
func TestAdminClientsThatStopAreLeft(t *testing.T) {
	a := startLimited(t, func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	for name, said := range map[string]string{
		"nothing":         "",
		"half a head":     "GET / HTTP/1.1\r\nHost: a\r\nX: ",
		"half a body":     "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
		"one and no more": "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"a long head":     fmt.Sprintf("GET / HTTP/1.1\r\nHost: a\r\nX: %s", make([]byte, 16<<10)),
	} {
		t.Run(name, func(t *testing.T) {
			c := dialAdmin(t, a)
			_, err := c.Write([]byte(said))
			require.NoError(t, err)
			ends(t, c)
		})
	}
}

// An answer that is not read is given up, and no later than that the handler ends.
func TestAdminAnswersThatNobodyReads(t *testing.T) {
	ended := make(chan error, 1)
	a := startLimited(t, func(w http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 1<<20)
		for {
			if _, err := w.Write(piece); err != nil {
				ended <- err
				return
			}
		}
	})
	c := dialAdmin(t, a)
	_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.NoError(t, err)
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "timeout")
	case <-time.After(20 * time.Second):
		t.Fatal("the handler still writes")
	}
}

// A slow answer whose reader reads is not cut off, however long it takes.
func TestAdminAnswersMayTakeTheirTime(t *testing.T) {
	a := startLimited(t, func(w http.ResponseWriter, r *http.Request) {
		for n := range 8 {
			select {
			case <-time.After(100 * time.Millisecond): // what a profile waits for
			case <-r.Context().Done():
				return
			}
			fmt.Fprint(w, n)
			w.(http.Flusher).Flush()
		}
	})
	resp, err := http.Get("http://" + a.addr.String())
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "01234567", string(text))
}

// Connections beyond the most wait until one leaves, and stop waits for the handlers
// that run, which their context tells.
func TestAdminConnectionsAreBounded(t *testing.T) {
	began, left := make(chan struct{}, 3), make(chan struct{}, 3)
	a := startLimited(t, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		if r.URL.Path == "/wait" {
			<-r.Context().Done()
			left <- struct{}{}
		}
	})
	var conns []net.Conn
	for n := range 3 {
		c := dialAdmin(t, a)
		_, err := fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: a\r\n\r\n", map[bool]string{true: "wait", false: ""}[n < 2])
		require.NoError(t, err)
		conns = append(conns, c)
		if n < 2 {
			<-began
		}
	}
	require.Len(t, a.few.slots, 2)
	select {
	case <-began:
		t.Fatal("a third connection was served beside two")
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, conns[0].Close())
	<-left
	<-began
	resp, err := http.ReadResponse(bufio.NewReader(conns[2]), nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	a.stop()
	require.Len(t, left, 1, "stop has waited")
}
