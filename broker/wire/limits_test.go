package wire

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

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

func TestOverdue(t *testing.T) {
	const second = int64(time.Second)
	for name, tc := range map[string]struct {
		set  func(c *Conn)
		want error
	}{
		"fresh":                     {func(c *Conn) {}, nil},
		"frame in time":             {func(c *Conn) { c.frameSince.Store(970 * second) }, nil},
		"frame too late":            {func(c *Conn) { c.frameSince.Store(969 * second) }, errSlowFrame},
		"large frame at the rate":   {func(c *Conn) { c.frameSince.Store(900 * second); c.frameGot.Store(70 * 64 << 10) }, nil},
		"large frame below it":      {func(c *Conn) { c.frameSince.Store(900 * second); c.frameGot.Store(69 * 64 << 10) }, errSlowFrame},
		"write makes progress":      {func(c *Conn) { c.writeSince.Store(970 * second) }, nil},
		"write stands still":        {func(c *Conn) { c.writeSince.Store(969 * second) }, errSlowReader},
		"idle":                      {func(c *Conn) { c.active.Store(399 * second) }, errIdle},
		"idle, but answers to come": {func(c *Conn) { c.active.Store(399 * second); c.inFlight.Store(1) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewServer(Options{
				Listeners: []Listener{{Name: "A"}}, Handler: handlerFunc(answerHeartbeat), Table: fullTable(t),
			})
			require.NoError(t, err)
			s.now.Store(1000 * second)
			c := &Conn{srv: s}
			c.active.Store(1000 * second)
			tc.set(c)
			_, err = c.overdue()
			require.Equal(t, tc.want, err)
		})
	}
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

func TestBudgetExhaustionIsBackPressure(t *testing.T) {
	var inUse int64
	var mu sync.Mutex
	var ts *testServer
	ts = start(t, func(r *Request) {
		mu.Lock()
		inUse = max(inUse, ts.clients.used.Load())
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
