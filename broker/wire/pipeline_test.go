package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

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

// Bytes behind a request are ignored up to the length of its header, as Kafka
// does; more of them close the connection.
func TestBytesBehindARequest(t *testing.T) {
	ts := start(t, func(r *Request) {
		require.Equal(t, "group", groupOf(r))
		answerHeartbeat(r)
	}, nil)
	c := ts.dial()
	behind := func(n int) []byte {
		c.corr++
		b := append(frame(c.corr, heartbeat("group")), make([]byte, n)...)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		return b
	}
	header := minFrame + 2 + 4 + 1 // client id "test", no tags
	for _, n := range []int{0, 1, header} {
		c.write(behind(n))
		c.receive(c.corr, heartbeatAnswer(0))
	}
	c.write(behind(header + 1))
	c.closed()
}
