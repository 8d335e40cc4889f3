package wire

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

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
