package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type handlerFunc func(*Request)

func (f handlerFunc) ServeKafka(r *Request) { f(r) }

// syncBuffer collects a log.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type testServer struct {
	*Server
	t     testing.TB
	log   *syncBuffer
	ended chan error
}

// start runs a server until the end of the test, when every goroutine of it
// must be gone and every byte of memory given back.
func start(t testing.TB, h handlerFunc, edit func(*Options)) *testServer {
	t.Helper()
	ts := &testServer{t: t, log: &syncBuffer{}, ended: make(chan error, 1)}
	opts := Options{
		Listeners: []Listener{{Name: "PLAINTEXT", Addr: "127.0.0.1:0"}},
		Handler:   h,
		Table:     fullTable(t),
		Logger:    slog.New(slog.NewTextHandler(ts.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if edit != nil {
		edit(&opts)
	}
	s, err := NewServer(opts)
	require.NoError(t, err)
	require.NoError(t, s.Listen())
	ts.Server = s
	before := runtime.NumGoroutine()
	go func() { ts.ended <- s.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, ErrClosed) {
			require.NoError(t, err)
		}
		require.NoError(t, <-ts.ended)
		require.Zero(t, s.Stats().Connections)
		require.Zero(t, s.Stats().InFlight)
		require.Zero(t, s.Stats().Memory, "memory must be given back")
		poll(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
	})
	return ts
}

func (ts *testServer) dial() *client {
	ts.t.Helper()
	nc, err := net.Dial("tcp", ts.Addr("PLAINTEXT").String())
	require.NoError(ts.t, err)
	ts.t.Cleanup(func() { _ = nc.Close() })
	require.NoError(ts.t, nc.SetDeadline(time.Now().Add(30*time.Second)))
	return &client{t: ts.t, nc: nc}
}

func (ts *testServer) eventually(cond func(Stats) bool) {
	ts.t.Helper()
	poll(ts.t, "condition on Stats", func() bool { return cond(ts.Stats()) })
}

// poll waits for cond on the test's own goroutine.
func poll(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "never: %s", what)
	}
}

// client speaks frames.
type client struct {
	t    testing.TB
	nc   net.Conn
	corr int32
}

// frame encodes req with its header, as clients do.
func frame(corr int32, req kmsg.Request) []byte {
	b := []byte{0, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(req.Key()))
	b = binary.BigEndian.AppendUint16(b, uint16(req.GetVersion()))
	b = binary.BigEndian.AppendUint32(b, uint32(corr))
	b = binary.BigEndian.AppendUint16(b, 4)
	b = append(b, "test"...)
	if req.IsFlexible() {
		b = append(b, 0)
	}
	b = req.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func (c *client) write(b []byte) {
	c.t.Helper()
	_, err := c.nc.Write(b)
	require.NoError(c.t, err)
}

// send sends req and returns its correlation id.
func (c *client) send(req kmsg.Request) int32 {
	c.t.Helper()
	c.corr++
	c.write(frame(c.corr, req))
	return c.corr
}

func (c *client) readFrame() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c.nc, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c.nc, b)
	return b, err
}

// receive reads the answer to the request with corr into resp.
func (c *client) receive(corr int32, resp kmsg.Response) {
	c.t.Helper()
	b, err := c.readFrame()
	require.NoError(c.t, err)
	require.Equal(c.t, corr, int32(binary.BigEndian.Uint32(b)), "answers must come in order")
	b = b[4:]
	if resp.IsFlexible() && resp.Key() != keyAPIVersions {
		require.Zero(c.t, b[0])
		b = b[1:]
	}
	require.NoError(c.t, resp.ReadFrom(b))
}

// closed waits until the server closes.
func (c *client) closed() {
	c.t.Helper()
	rest, err := io.ReadAll(c.nc)
	var nerr net.Error
	require.False(c.t, errors.As(err, &nerr) && nerr.Timeout(), "connection is still open")
	require.Empty(c.t, rest)
}

func heartbeat(group string) *kmsg.HeartbeatRequest {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version = 4
	req.Group = group
	return req
}

func heartbeatAnswer(code int16) *kmsg.HeartbeatResponse {
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.Version = 4
	resp.ErrorCode = code
	return resp
}

func produce(acks int16, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version = 9
	req.Acks = acks
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = records
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic = "t"
	topic.Partitions = append(topic.Partitions, p)
	req.Topics = append(req.Topics, topic)
	return req
}

func produceAnswer() *kmsg.ProduceResponse {
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = 9
	return resp
}

func answerHeartbeat(r *Request) { r.Reply(heartbeatAnswer(int16(r.CorrelationID))) }

func groupOf(r *Request) string { return r.Body.(*kmsg.HeartbeatRequest).Group }

func TestAnswersInline(t *testing.T) {
	ts := start(t, func(r *Request) {
		require.Equal(t, "test", r.ClientID)
		require.Equal(t, "PLAINTEXT", r.Conn.Listener())
		require.True(t, r.Conn.RemoteAddr().IsValid())
		require.NoError(t, r.Context().Err())
		answerHeartbeat(r)
	}, nil)
	c := ts.dial()
	for range 3 {
		resp := heartbeatAnswer(0)
		corr := c.send(heartbeat("g"))
		c.receive(corr, resp)
		require.Equal(t, int16(corr), resp.ErrorCode)
	}
	// Many in one write, and one byte at a time.
	var all []byte
	for i := range int32(500) {
		all = append(all, frame(100+i, heartbeat(strings.Repeat("g", int(i))))...)
	}
	go c.write(all)
	for i := range int32(500) {
		c.receive(100+i, heartbeatAnswer(0))
	}
	for _, b := range frame(999, heartbeat("slow")) {
		c.write([]byte{b})
	}
	c.receive(999, heartbeatAnswer(0))
	require.Equal(t, uint64(504), ts.Stats().Requests[12])
}

// Answers given in any order, some inline and some from other goroutines, leave
// in the order of the requests.
func TestPipelineKeepsOrder(t *testing.T) {
	pending := make(chan *Request, 1000)
	ts := start(t, func(r *Request) {
		if r.CorrelationID%3 == 0 {
			answerHeartbeat(r)
			return
		}
		pending <- r
	}, nil)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			var held []*Request
			flush := func() {
				for i := len(held) - 1; i >= 0; i-- {
					answerHeartbeat(held[i])
				}
				held = held[:0]
			}
			for {
				select {
				case r, ok := <-pending:
					if !ok {
						flush()
						return
					}
					held = append(held, r)
					if len(held) == 7 {
						flush()
					}
				default:
					flush()
					r, ok := <-pending
					if !ok {
						return
					}
					held = append(held, r)
				}
			}
		})
	}
	var clients sync.WaitGroup
	for range 3 {
		c := ts.dial()
		const n = 3000
		clients.Go(func() {
			for i := range int32(n) {
				if _, err := c.nc.Write(frame(i, heartbeat("g"))); err != nil {
					t.Error(err)
					return
				}
			}
		})
		clients.Go(func() {
			for i := range int32(n) {
				b, err := c.readFrame()
				if err != nil || int32(binary.BigEndian.Uint32(b)) != i {
					t.Errorf("answer %d: %x %v", i, b, err)
					return
				}
			}
		})
	}
	clients.Wait()
	require.NoError(t, ts.Shutdown(context.Background())) // no more sends
	close(pending)
	workers.Wait()
}

func TestAcksNoneHasNoAnswer(t *testing.T) {
	ts := start(t, func(r *Request) {
		switch req := r.Body.(type) {
		case *kmsg.ProduceRequest:
			if req.Acks == 0 {
				r.ReplyNone()
				return
			}
			r.Reply(produceAnswer())
		}
	}, nil)
	c := ts.dial()
	c.send(produce(0, []byte("a")))
	c.send(produce(0, []byte("b")))
	c.receive(c.send(produce(1, []byte("c"))), produceAnswer())
}

// The frame's buffer stays while Produce is pending, whatever is read next.
func TestProduceBodyAliasesItsFrame(t *testing.T) {
	const pipelined = 40
	held := make(chan *Request, pipelined)
	ts := start(t, func(r *Request) { held <- r }, nil)
	c := ts.dial()
	records := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, 1000*i+10) }
	go func() {
		for i := range pipelined {
			c.send(produce(-1, records(i)))
		}
	}()
	var all []*Request
	for range pipelined {
		all = append(all, <-held)
	}
	for i, r := range all {
		require.Equal(t, records(i), r.Body.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records)
	}
	used := ts.Stats().Memory
	for i, r := range all {
		if i%2 == 0 {
			r.DoneWithBody()
		}
		r.DoneWithBody() // again is harmless
	}
	require.Less(t, ts.Stats().Memory, used)
	for _, r := range all {
		r.Reply(produceAnswer())
	}
	for i := range pipelined {
		c.receive(int32(i+1), produceAnswer())
	}
}

func TestAPIVersionsFallback(t *testing.T) {
	ts := start(t, func(r *Request) {
		require.Equal(t, "lib", r.Body.(*kmsg.ApiVersionsRequest).ClientSoftwareName)
		r.Conn.SetClientSoftware("lib", "1.2")
		name, version := r.Conn.ClientSoftware()
		require.Equal(t, "lib 1.2", name+" "+version)
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.ErrorCode = 7
		r.Reply(resp)
	}, nil)
	c := ts.dial()
	// Version 99: whatever follows the correlation id is not ours to read.
	c.write([]byte{0, 0, 0, 11, 0, 18, 0, 99, 0, 0, 0, 5, 0xde, 0xad, 0xbe})
	resp := kmsg.NewPtrApiVersionsResponse()
	c.receive(5, resp)
	require.Equal(t, int16(35), resp.ErrorCode)
	require.Len(t, resp.ApiKeys, 1)
	require.Equal(t, [3]int16{18, 0, 5}, [3]int16{resp.ApiKeys[0].ApiKey, resp.ApiKeys[0].MinVersion, resp.ApiKeys[0].MaxVersion})

	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 3
	req.ClientSoftwareName = "lib"
	resp.Version = 3
	c.receive(c.send(req), resp)
	require.Equal(t, int16(7), resp.ErrorCode, "behind a header without tags")
}

func TestRefusedFramesCloseWithoutAnswer(t *testing.T) {
	ts := start(t, answerHeartbeat, nil)
	good := frame(1, heartbeat("g"))
	with := func(at int, b ...byte) []byte {
		f := bytes.Clone(good)
		copy(f[at:], b)
		return f
	}
	for name, tc := range map[string]struct {
		bytes  []byte
		reason string
	}{
		"unknown key":      {with(4, 0, 99), "unsupported"},
		"negative key":     {with(4, 0xff, 0xff), "unsupported"},
		"unknown version":  {with(6, 0, 77), "unsupported"},
		"negative version": {with(6, 0xff, 0xff), "unsupported"},
		"negative length":  {with(0, 0xff, 0xff, 0xff, 0xff), "oversize"},
		"tiny length":      {with(0, 0, 0, 0, 7), "oversize"},
		"too long for key": {with(0, 0, 0x20, 0, 0), "oversize"},
		"unreadable body":  {with(len(good)-1, 9), "malformed"},
		"TLS hello":        {[]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01}, "not_kafka"},
		"HTTP":             {[]byte("GET / HTTP/1.1\r\n\r\n"), "not_kafka"},
	} {
		t.Run(name, func(t *testing.T) {
			before := ts.Stats().Closed[tc.reason]
			c := ts.dial()
			c.write(tc.bytes)
			c.closed()
			ts.eventually(func(s Stats) bool { return s.Closed[tc.reason] == before+1 })
		})
	}
	require.Equal(t, 1, strings.Count(ts.log.String(), "does not speak the Kafka protocol"), "once, for all")

	// A good request before the bad one is still answered.
	c := ts.dial()
	c.write(append(bytes.Clone(good), with(4, 0, 99)...))
	c.receive(1, heartbeatAnswer(0))
	c.closed()
}

func TestCloseConnComesAfterEarlierAnswers(t *testing.T) {
	held := make(chan *Request, 10)
	ts := start(t, func(r *Request) { held <- r }, nil)
	c := ts.dial()
	first, second := c.send(heartbeat("a")), c.send(heartbeat("b"))
	r1, r2 := <-held, <-held
	r2.CloseConn(errors.New("bad acks=0"))
	answerHeartbeat(r1)
	c.receive(first, heartbeatAnswer(0))
	c.closed()
	_ = second
	ts.eventually(func(s Stats) bool { return s.Closed["handler"] == 1 })
	require.Contains(t, ts.log.String(), "bad acks=0")
}

func TestTwiceAnsweredIsLoggedAndHarmless(t *testing.T) {
	ts := start(t, func(r *Request) {
		answerHeartbeat(r)
		answerHeartbeat(r)
	}, nil)
	c := ts.dial()
	c.receive(c.send(heartbeat("a")), heartbeatAnswer(0))
	c.receive(c.send(heartbeat("a")), heartbeatAnswer(0))
	require.Contains(t, ts.log.String(), "answered twice")
}

// A client that closes its side while a long poll is pending is noticed, also
// when the pipeline is full and unread requests stand before the end.
func TestPeerCloseCancelsLongPoll(t *testing.T) {
	for _, requests := range []int{1, 4, 50} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d requests, half %v", requests, half), func(t *testing.T) {
				held := make(chan *Request, 100)
				ts := start(t, func(r *Request) {
					_ = r.Context()
					held <- r
				}, func(o *Options) { o.MaxInFlight = 4 })
				c := ts.dial()
				for range requests {
					c.send(heartbeat("a"))
				}
				first := <-held
				if half {
					require.NoError(t, c.nc.(*net.TCPConn).CloseWrite())
				} else {
					require.NoError(t, c.nc.Close())
				}
				<-first.Context().Done()
				require.ErrorIs(t, context.Cause(first.Context()), errPeerGone)
				answerHeartbeat(first)
				if !half {
					go func() {
						for r := range held {
							answerHeartbeat(r)
						}
					}()
					ts.eventually(func(s Stats) bool { return s.Connections == 0 })
					close(held)
					return
				}
				// Who closed only its side still gets all its answers.
				for i := range requests {
					if i > 0 {
						answerHeartbeat(<-held)
					}
					c.receive(int32(i+1), heartbeatAnswer(0))
				}
				c.closed()
			})
		}
	}
}

func TestPipelineIsBounded(t *testing.T) {
	held := make(chan *Request, 1000)
	ts := start(t, func(r *Request) { held <- r }, func(o *Options) { o.MaxInFlight = 8 })
	c := ts.dial()
	const n = 100
	go func() {
		for range n {
			c.send(heartbeat("a"))
		}
	}()
	for i := range n {
		r := <-held
		require.LessOrEqual(t, ts.Stats().InFlight, int64(8))
		answerHeartbeat(r)
		c.receive(int32(i+1), heartbeatAnswer(0))
	}
}

// The bytes of requests in flight bound the pipeline too, until DoneWithBody.
func TestPipelineIsBoundedByBytes(t *testing.T) {
	held := make(chan *Request, 1000)
	ts := start(t, func(r *Request) { held <- r }, func(o *Options) { o.MaxInFlightBytes = 100_000 })
	c := ts.dial()
	const n = 30
	go func() {
		for range n {
			c.send(produce(-1, make([]byte, 30_000)))
		}
	}()
	first := []*Request{<-held, <-held, <-held, <-held}
	poll(t, "reader parks", func() bool {
		c := first[0].Conn
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.parked
	})
	require.Empty(t, held)
	for _, r := range first {
		r.DoneWithBody()
	}
	for range n - 4 {
		r := <-held
		r.DoneWithBody()
		first = append(first, r)
	}
	for i, r := range first {
		r.Reply(produceAnswer())
		c.receive(int32(i+1), produceAnswer())
	}
}

// A frame that began to arrive while the pipeline was full is not slow.
func TestFullPipelineStopsTheFrameClock(t *testing.T) {
	held := make(chan *Request, 10)
	ts := start(t, func(r *Request) { held <- r }, func(o *Options) {
		o.MaxInFlight = 1
		o.FrameTimeout = 20 * time.Millisecond
	})
	c := ts.dial()
	second := frame(2, heartbeat("b"))
	c.write(append(frame(1, heartbeat("a")), second[:20]...))
	r := <-held
	swept := ts.now.Load()
	poll(t, "several frame timeouts", func() bool { return ts.now.Load() > swept+int64(100*time.Millisecond) })
	answerHeartbeat(r)
	c.receive(1, heartbeatAnswer(0))
	c.write(second[20:])
	answerHeartbeat(<-held)
	c.receive(2, heartbeatAnswer(0))
}

// Whatever bytes come, the server goes on and gives everything back.
func TestGarbageStreams(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ts := start(t, answerAnything, nil)
	var clients sync.WaitGroup
	for k := range 8 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(k)))
			for range 40 {
				var stream []byte
				for range 1 + rng.IntN(5) {
					key := int16(rng.IntN(95))
					l := layouts()[key]
					if l == nil {
						continue
					}
					req := kmsg.RequestForKey(key)
					fill(rng, reflect.ValueOf(req).Elem(), 0)
					req.SetVersion(int16(rng.IntN(int(l.max) + 1)))
					stream = append(stream, frame(1, req)...)
				}
				if rng.IntN(3) > 0 {
					stream = mutate(rng, stream)
				}
				nc, err := net.Dial("tcp", ts.Addr("PLAINTEXT").String())
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = nc.Write(stream) // it may be closed before the end
				if rng.IntN(2) == 0 {
					_ = nc.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, nc)
				}
				_ = nc.Close()
			}
		})
	}
	clients.Wait()
	ts.eventually(func(s Stats) bool { return s.Connections == 0 })
	c := ts.dial()
	c.receive(c.send(heartbeat("a")), heartbeatAnswer(0))
}

func answerAnything(r *Request) {
	if r.Key == 12 {
		answerHeartbeat(r)
		return
	}
	r.Reply(r.Body.ResponseKind())
}

func TestThrottleStopsReading(t *testing.T) {
	const pause = 150 * time.Millisecond
	ts := start(t, func(r *Request) {
		if r.CorrelationID == 1 {
			r.Conn.Throttle(pause)
			r.Conn.Throttle(time.Nanosecond) // does not shorten it
		}
		answerHeartbeat(r)
	}, nil)
	c := ts.dial()
	begin := time.Now()
	c.receive(c.send(heartbeat("a")), heartbeatAnswer(0))
	second := c.send(heartbeat("a"))
	c.receive(second, heartbeatAnswer(0))
	require.GreaterOrEqual(t, time.Since(begin), pause)
	c.receive(c.send(heartbeat("a")), heartbeatAnswer(0))
}

func TestSlowLorisIsClosed(t *testing.T) {
	ts := start(t, answerHeartbeat, func(o *Options) { o.FrameTimeout = 60 * time.Millisecond })
	c := ts.dial()
	c.receive(c.send(heartbeat("a")), heartbeatAnswer(0))
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for _, b := range frame(2, heartbeat(strings.Repeat("a", 30_000))) {
			if _, err := c.nc.Write([]byte{b}); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	ts.eventually(func(s Stats) bool { return s.Closed["slow_frame"] == 1 })
	close(stop)
	sender.Wait()
}

func TestIdleIsClosedButNotWhilePending(t *testing.T) {
	held := make(chan *Request, 1)
	ts := start(t, func(r *Request) { held <- r }, func(o *Options) { o.IdleTimeout = 40 * time.Millisecond })
	busy, idle := ts.dial(), ts.dial()
	corr := busy.send(heartbeat("a"))
	r := <-held
	idle.closed()
	ts.eventually(func(s Stats) bool { return s.Closed["idle"] == 1 })
	answerHeartbeat(r)
	busy.receive(corr, heartbeatAnswer(0))
	busy.closed()
}

func TestSlowReaderIsClosed(t *testing.T) {
	ts := start(t, func(r *Request) {
		r.ReplyRaw(&Payload{Sections: []Section{{Bytes: make([]byte, 64<<20)}}})
	}, func(o *Options) { o.WriteTimeout = 50 * time.Millisecond })
	c := ts.dial()
	c.send(heartbeat("a"))
	ts.eventually(func(s Stats) bool { return s.Closed["slow_reader"] == 1 })
}

func TestConnectionLimits(t *testing.T) {
	ts := start(t, answerHeartbeat, func(o *Options) { o.MaxConnectionsPerIP = 2 })
	a, b := ts.dial(), ts.dial()
	a.receive(a.send(heartbeat("a")), heartbeatAnswer(0))
	b.receive(b.send(heartbeat("a")), heartbeatAnswer(0))
	ts.dial().closed()
	require.Equal(t, uint64(1), ts.Stats().Refused)
	require.NoError(t, a.nc.Close())
	ts.eventually(func(s Stats) bool { return s.Connections == 1 })
	d := ts.dial()
	d.receive(d.send(heartbeat("a")), heartbeatAnswer(0))
}

// With the budget used up, connections wait for one another instead of failing,
// even if all of them are in the middle of a frame.
func TestBudgetExhaustionIsBackPressure(t *testing.T) {
	var inUse int64
	var mu sync.Mutex
	var ts *testServer
	ts = start(t, func(r *Request) {
		mu.Lock()
		inUse = max(inUse, ts.budget.used.Load())
		mu.Unlock()
		r.Reply(produceAnswer())
	}, func(o *Options) { o.MemoryBudget = 1 << 20 })
	var clients sync.WaitGroup
	const frameBytes = 600 << 10
	for range 8 {
		c := ts.dial()
		clients.Go(func() {
			for i := range int32(10) {
				if _, err := c.nc.Write(frame(i, produce(-1, make([]byte, frameBytes)))); err != nil {
					t.Error(err)
					return
				}
				if _, err := c.readFrame(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	require.Positive(t, ts.Stats().MemoryWaits)
	require.Less(t, inUse, int64(1<<20+3<<20), "one frame over the budget at most")
	ts.eventually(func(s Stats) bool { return s.Memory == 0 })
}

// A frame larger than the whole budget still passes, alone.
func TestFrameLargerThanBudget(t *testing.T) {
	ts := start(t, func(r *Request) { r.Reply(produceAnswer()) }, func(o *Options) { o.MemoryBudget = 1 })
	var clients sync.WaitGroup
	for range 3 {
		c := ts.dial()
		clients.Go(func() {
			for i := range int32(3) {
				if _, err := c.nc.Write(frame(i, produce(-1, make([]byte, 1<<20)))); err != nil {
					t.Error(err)
					return
				}
				if _, err := c.readFrame(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
}

// A client library that knows more than we do speaks with us.
func TestFranzGoConnects(t *testing.T) {
	var ts *testServer
	ts = start(t, func(r *Request) {
		switch r.Body.(type) {
		case *kmsg.ApiVersionsRequest:
			resp := kmsg.NewPtrApiVersionsResponse()
			for key := range int16(maxKey) {
				if a, ok := ts.opts.Table.Lookup(key); ok {
					k := kmsg.NewApiVersionsResponseApiKey()
					k.ApiKey, k.MinVersion, k.MaxVersion = key, a.Min, a.Max
					resp.ApiKeys = append(resp.ApiKeys, k)
				}
			}
			r.Reply(resp)
		case *kmsg.MetadataRequest:
			resp := kmsg.NewPtrMetadataResponse()
			b := kmsg.NewMetadataResponseBroker()
			addr := r.Conn.LocalAddr()
			b.Host, b.Port = addr.Addr().String(), int32(addr.Port())
			resp.Brokers = append(resp.Brokers, b)
			r.Reply(resp)
		default:
			r.CloseConn(fmt.Errorf("unexpected key %d", r.Key))
		}
	}, func(o *Options) {
		var err error
		o.Table, err = NewTable(API{Key: 18, Max: 2}, API{Key: 3, Max: 12})
		require.NoError(t, err)
	})
	client, err := kgo.NewClient(kgo.SeedBrokers(ts.Addr("PLAINTEXT").String()))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(t, client.Ping(ctx))
	require.GreaterOrEqual(t, ts.Stats().Requests[18], uint64(2), "asked above our maximum, then again")
}

// A frame's memory follows its bytes, not the length it claims.
func TestMemoryFollowsBytes(t *testing.T) {
	ts := start(t, func(r *Request) { r.Reply(produceAnswer()) }, nil)
	f := frame(1, produce(-1, make([]byte, 50<<20)))
	c := ts.dial()
	c.write(f[:1000])
	ts.eventually(func(s Stats) bool { return s.BytesIn == 1000 })
	ts.eventually(func(s Stats) bool { return s.Memory > 0 })
	require.LessOrEqual(t, ts.Stats().Memory, int64(128<<10))
	c.write(f[1000:])
	c.receive(1, produceAnswer())
	ts.eventually(func(s Stats) bool { return s.Memory == 0 })
}

func TestShutdownLetsPendingRequestsFinish(t *testing.T) {
	held := make(chan *Request, 10)
	ts := start(t, func(r *Request) { held <- r }, nil)
	idle, busy, partial := ts.dial(), ts.dial(), ts.dial()
	corr := busy.send(heartbeat("a"))
	partial.write(frame(1, heartbeat("a"))[:9])
	r := <-held
	ts.eventually(func(s Stats) bool { return s.Connections == 3 })
	ended := make(chan error)
	go func() { ended <- ts.Shutdown(context.Background()) }()
	<-ts.Draining()
	idle.closed()
	partial.closed()
	require.NoError(t, r.Context().Err())
	answerHeartbeat(r)
	busy.receive(corr, heartbeatAnswer(0))
	busy.closed()
	require.NoError(t, <-ended)
	_, err := net.Dial("tcp", ts.opts.Listeners[0].Addr)
	require.Error(t, err)
	require.ErrorIs(t, ts.Listen(), ErrClosed)
	require.ErrorIs(t, ts.Server.Serve(), ErrClosed)
}

func TestShutdownCutsWhatDoesNotFinish(t *testing.T) {
	held := make(chan *Request, 10)
	ts := start(t, func(r *Request) { held <- r }, nil)
	c := ts.dial()
	c.send(heartbeat("a"))
	r := <-held
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, ts.Shutdown(ctx), context.Canceled)
	c.closed()
	<-r.Context().Done()
	released := make(chan struct{})
	r.ReplyRaw(&Payload{Release: func() { close(released) }}) // too late, but not lost
	<-released
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := NewServer(Options{Listeners: []Listener{{Name: "A"}, {Name: "A"}}, MaxInFlight: -1})
	for _, want := range []string{"used twice", "no handler", "no table", "negative"} {
		require.ErrorContains(t, err, want)
	}
	s, err := NewServer(Options{
		Listeners: []Listener{{Name: "A", Addr: "127.0.0.1:0"}, {Name: "B", Addr: "256.0.0.1:1"}},
		Handler:   handlerFunc(answerHeartbeat), Table: fullTable(t),
	})
	require.NoError(t, err)
	require.ErrorContains(t, s.Listen(), "listener B")
	require.Nil(t, s.Addr("A"))
}
