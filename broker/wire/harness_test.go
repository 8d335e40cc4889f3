package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/internal/testlog"
)

type handlerFunc func(*Request)

func (f handlerFunc) ServeKafka(r *Request) { f(r) }

type testServer struct {
	*Server
	t     testing.TB
	log   *testlog.Buffer
	ended chan error
}

// start runs a server until the end of the test, when every goroutine of it
// must be gone and every byte of memory given back.
func start(t testing.TB, h handlerFunc, edit func(*Options)) *testServer {
	t.Helper()
	ts := &testServer{t: t, log: &testlog.Buffer{}, ended: make(chan error, 1)}
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

// Answers given in any order, some inline and some from other goroutines, leave
// in the order of the requests.
// The frame's buffer stays while Produce is pending, whatever is read next.
// A client that closes its side while a long poll is pending is noticed, also
// when the pipeline is full and unread requests stand before the end.
// The bytes of requests in flight bound the pipeline too, until DoneWithBody.
// A frame that began to arrive while the pipeline was full is not slow.
// Whatever bytes come, the server goes on and gives everything back.
// With the budget used up, connections wait for one another instead of failing,
// even if all of them are in the middle of a frame.
// A frame larger than the whole budget still passes, alone.
// A client library that knows more than we do speaks with us.
// A frame's memory follows its bytes, not the length it claims.
