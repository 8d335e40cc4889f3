package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCallAndItsErrors(t *testing.T) {
	noLeaks(t)
	a, b := openLink(t, 1, nil), openLink(t, 2, nil)
	b.HandleCall("echo", func(_ context.Context, p Peer, body []byte) ([]byte, error) {
		if p != a.self() {
			return nil, errors.New("a stranger")
		}
		return body, nil
	})
	b.HandleCall("refuse", func(context.Context, Peer, []byte) ([]byte, error) {
		return nil, &CallError{Code: "not_leader", Message: "ask another: ü"}
	})
	b.HandleCall("fail", func(context.Context, Peer, []byte) ([]byte, error) { return nil, errors.New("disk on fire") })
	b.HandleCall("strange", func(context.Context, Peer, []byte) ([]byte, error) {
		return nil, &CallError{Code: "no such\r\ncode", Message: "m"}
	})
	b.HandleCall("large", func(context.Context, Peer, []byte) ([]byte, error) { return make([]byte, MaxBody+1), nil })
	big := make([]byte, MaxBody)
	_, err := rand.Read(big)
	require.NoError(t, err)
	for _, body := range [][]byte{nil, []byte("x"), big} {
		got, err := a.Call(t.Context(), b.Addr(), "echo", body)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, got))
	}
	for name, want := range map[string]CallError{
		"refuse":  {"not_leader", "ask another: ü"},
		"fail":    {CodeInternal, "disk on fire"},
		"strange": {CodeInternal, "m (no such\r\ncode)"},
		"large":   {CodeTooLarge, "answer to large: 16777217 bytes, at most 16777216"},
		"nothing": {CodeUnknownCall, `call "nothing" is not served here`},
	} {
		var ce *CallError
		_, err := a.Call(t.Context(), b.Addr(), name, nil)
		require.ErrorAs(t, err, &ce, name)
		require.Equal(t, want, *ce)
		require.NotErrorIs(t, err, ErrUnreachable)
	}
	var ce *CallError
	_, err = a.Call(t.Context(), b.Addr(), "echo", make([]byte, MaxBody+1))
	require.ErrorAs(t, err, &ce)
	require.Equal(t, CodeTooLarge, ce.Code)
}

// TestManyCalls has thousands of calls in flight; each gets its own answer, and few
// connections carry them.
func TestManyCalls(t *testing.T) {
	noLeaks(t)
	var hellos atomic.Int32
	a := openLink(t, 1, nil)
	b := openLink(t, 2, func(o *Options) { o.Accept = func(Peer) error { hellos.Add(1); return nil } })
	const calls = 3000
	// One that fails will never be there: the others must not wait for it for ever.
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	var inside atomic.Int32
	met := make(chan struct{})
	b.HandleCall("meet", func(served context.Context, _ Peer, body []byte) ([]byte, error) {
		if inside.Add(1) == calls {
			close(met)
		}
		select {
		case <-met: // all of them are here at once
			return body, served.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	start := time.Now()
	var wg sync.WaitGroup
	for i := range uint32(calls) {
		wg.Go(func() {
			body := binary.BigEndian.AppendUint32(nil, i)
			got, err := a.Call(ctx, b.Addr(), "meet", body)
			if ctx.Err() == nil && (err != nil || !bytes.Equal(got, body)) {
				t.Errorf("call %d: %x, %v", i, got, err)
				giveUp()
			}
		})
	}
	wg.Wait()
	t.Logf("%d calls at once in %v over %d connections", calls, time.Since(start), hellos.Load())
	require.LessOrEqual(t, hellos.Load(), int32(maxRoute))
}

// TestCallToAPeerThatHangs ends with its context, and the handler's context ends too.
func TestCallToAPeerThatHangs(t *testing.T) {
	noLeaks(t)
	a, b := openLink(t, 1, nil), openLink(t, 2, nil)
	entered, left := make(chan time.Duration, 1), make(chan struct{})
	b.HandleCall("hang", func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) {
		deadline, _ := ctx.Deadline()
		entered <- time.Until(deadline)
		<-ctx.Done()
		close(left)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	go func() {
		if d := <-entered; d <= 0 || d > 10*time.Second {
			t.Errorf("the handler has %v left", d)
		}
		cancel()
	}()
	_, err := a.Call(ctx, b.Addr(), "hang", nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrUnreachable)
	<-left
}

// TestCallThroughACutCable: bytes are swallowed from some point on. The call ends
// with its context; the connection is given up, and a new one works.
func TestCallThroughACutCable(t *testing.T) {
	noLeaks(t)
	a, b := openLink(t, 1, nil), openLink(t, 2, nil)
	b.HandleCall("nop", func(context.Context, Peer, []byte) ([]byte, error) { return []byte("yes"), nil })
	cable := newCable(t, b.Addr())
	_, err := a.Call(t.Context(), cable.addr(), "nop", nil)
	require.NoError(t, err)
	cable.cut.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = a.Call(ctx, cable.addr(), "nop", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// Without a context's end the pings decide.
	start := time.Now()
	_, err = a.Call(t.Context(), cable.addr(), "nop", nil)
	require.Error(t, err)
	require.Less(t, time.Since(start), pingAfter+pingTime+3*time.Second)
	cable.cut.Store(false)
	got, err := a.Call(t.Context(), cable.addr(), "nop", nil)
	require.NoError(t, err)
	require.Equal(t, "yes", string(got))
}

func TestCloseEndsCalls(t *testing.T) {
	noLeaks(t)
	a, b := openLink(t, 1, nil), openLink(t, 2, nil)
	var entered sync.WaitGroup
	entered.Add(3)
	hang := func(ctx context.Context, _ Peer, _ []byte) ([]byte, error) {
		entered.Done()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.HandleCall("hang", hang)
	b.HandleCall("hang", hang)
	errs := make(chan error, 3)
	call := func(from, to *Link) {
		_, err := from.Call(context.Background(), to.Addr(), "hang", nil)
		errs <- err
	}
	go call(a, b)
	go call(b, a)
	go call(a, a)
	entered.Wait()
	require.NoError(t, a.Close())
	for range 3 {
		require.Error(t, <-errs)
	}
	_, err := a.Call(t.Context(), b.Addr(), "hang", nil)
	require.ErrorIs(t, err, ErrClosed)
	_, _, err = a.Dial(t.Context(), b.Addr(), KindKafka)
	require.ErrorIs(t, err, ErrClosed)
}

// TestNodeWithoutAPort calls itself alone.
func TestNodeWithoutAPort(t *testing.T) {
	noLeaks(t)
	l := openLink(t, 1, func(o *Options) { o.Listen = "" })
	require.Empty(t, l.Addr())
	l.HandleCall("who", func(_ context.Context, p Peer, _ []byte) ([]byte, error) { return []byte{byte(p.NodeID)}, nil })
	got, err := l.Call(t.Context(), "", "who", nil)
	require.NoError(t, err)
	require.Equal(t, []byte{1}, got)
	var ce *CallError
	_, err = l.Call(t.Context(), l.Addr(), "nothing", nil)
	require.ErrorAs(t, err, &ce)
	require.Equal(t, CodeUnknownCall, ce.Code)
}

// cable carries connections to an address until it is cut: then it swallows.
type cable struct {
	ln  net.Listener
	cut atomic.Bool
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &cable{ln: ln}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	pump := func(dst, src net.Conn) {
		defer dst.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			if err != nil {
				return
			}
			if c.cut.Load() {
				continue
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			wg.Go(func() { pump(out, in) })
			wg.Go(func() { pump(in, out) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return c
}

func (c *cable) addr() string { return c.ln.Addr().String() }

// BenchmarkCall is the cost of a small call, 64 in flight on two cores.
func BenchmarkCall(b *testing.B) {
	x, y := openLink(b, 1, nil), openLink(b, 2, nil)
	y.HandleCall("nop", func(context.Context, Peer, []byte) ([]byte, error) { return nil, nil })
	body := make([]byte, 200)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := x.Call(context.Background(), y.Addr(), "nop", body); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// A call whose body never ends, on a connection that is well otherwise, is answered with
// an error, and the connection goes on.
func TestCallWhoseBodyStops(t *testing.T) {
	noLeaks(t)
	a := openLink(t, 1, nil)
	b := openLink(t, 2, func(o *Options) { o.bodyTime = 100 * time.Millisecond })
	b.HandleCall("echo", func(_ context.Context, _ Peer, body []byte) ([]byte, error) { return body, nil })
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, _, err := a.Dial(ctx, b.Addr(), KindCall)
		return conn, err
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	post := func(body io.Reader) (int, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://peer/call/echo", body)
		require.NoError(t, err)
		resp, err := transport.RoundTrip(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
	never, hold := io.Pipe()
	defer hold.Close()
	status, text := post(struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader("half"), never), never})
	require.Equal(t, http.StatusUnprocessableEntity, status)
	require.Contains(t, text, "timeout")
	status, text = post(strings.NewReader("whole"))
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "whole", text)
}
