package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/record"
)

func bareServer(t *testing.T) (*probe.ProduceServer, string) {
	dir := t.TempDir()
	srv, err := probe.StartProduceServer(probe.ProduceServerOptions{Addr: "127.0.0.1:0", Dir: dir})
	require.NoError(t, err)
	return srv, dir
}

func TestProduceAgainstBareServer(t *testing.T) {
	for _, o := range []ProduceOptions{
		{Version: 9, Acks: -1},
		{Version: 10, Acks: 1, Connections: 1, Depth: 1},
		{Version: 12, Acks: 0, Connections: 3},
		{Version: 13, Acks: 1, Batches: 5, Connections: 20, Depth: 9},
		{Version: 13, Acks: 0, Batches: 12},
		{Version: 9, Acks: 1, Partitions: 1, Connections: 2, RecordBytes: 100, BatchBytes: 1000, Codec: record.CodecZstd},
	} {
		t.Run(fmt.Sprintf("v%d acks=%d", o.Version, o.Acks), func(t *testing.T) {
			srv, dir := bareServer(t)
			o.Addr, o.Topic, o.TopicID, o.Bytes = srv.Addr(), "snow", record.NewTopicID(), 5<<20
			o.Pid = os.Getpid()
			res, err := Produce(t.Context(), o)
			require.NoError(t, err)
			require.NoError(t, srv.Close())
			require.GreaterOrEqual(t, res.Bytes, o.Bytes)
			o.SetDefaults()

			written, settled := srv.Bytes(), int64(0)
			if o.Acks == 0 { // one acked request per connection ends it
				settled = int64(o.Connections)
				require.Nil(t, res.Latency)
			} else {
				require.NotNil(t, res.Latency)
				require.Positive(t, res.Latency.P50)
				require.LessOrEqual(t, res.Latency.P50, res.Latency.P99)
				require.LessOrEqual(t, res.Latency.P99, res.Latency.P999)
				require.LessOrEqual(t, res.Latency.P999, res.Latency.Max)
			}
			perRequest := res.Bytes / res.Requests
			require.Equal(t, written, res.Bytes+settled*perRequest, "what is counted is what was written")

			// Every partition got whole, valid batches, about evenly.
			files, err := filepath.Glob(filepath.Join(dir, "*.log"))
			require.NoError(t, err)
			require.Len(t, files, int(o.Partitions))
			records := int64(0)
			for _, f := range files {
				b, err := os.ReadFile(f)
				require.NoError(t, err)
				end := 0
				for batch, err := range record.Batches(b) {
					require.NoError(t, err)
					rules := record.NewRules(time.Now().UnixMilli())
					_, err = record.Validate(batch.Raw, &rules)
					require.NoError(t, err)
					records += int64(batch.NumRecords)
					end += batch.Size()
				}
				require.Equal(t, len(b), end)
			}
			perRequestRecords := res.Records / res.Requests
			require.Equal(t, records, res.Records+settled*perRequestRecords)
			rep := res.Report(o)
			require.Equal(t, res.Bytes, rep.Bytes)
			require.NotNil(t, rep.ServerCPU)
		})
	}
}

func TestBatchesAreOfTheSizeAsked(t *testing.T) {
	o := ProduceOptions{Topic: "snow"}
	o.SetDefaults()
	b, err := record.ReadBatch(o.encode()[0].records)
	require.NoError(t, err)
	require.EqualValues(t, 15, b.NumRecords, "with the sixteenth the batch would be above 16 KiB")
	require.LessOrEqual(t, b.Size(), 16<<10)
	require.Greater(t, b.Size(), 15<<10)
}

func TestProduceEndsByTime(t *testing.T) {
	srv, _ := bareServer(t)
	res, err := Produce(t.Context(), ProduceOptions{Addr: srv.Addr(), Topic: "snow", Acks: 1, Duration: 100 * time.Millisecond})
	require.NoError(t, err)
	require.GreaterOrEqual(t, res.Usage.Wall, 100*time.Millisecond)
	require.Equal(t, srv.Bytes(), res.Bytes, "what is in flight at the end is awaited")
	require.NoError(t, srv.Close())
}

func TestProduceKeepsARate(t *testing.T) {
	srv, _ := bareServer(t)
	o := ProduceOptions{Addr: srv.Addr(), Topic: "snow", Acks: 1, Connections: 3, Rate: 3 << 20, Duration: 300 * time.Millisecond}
	res, err := Produce(t.Context(), o)
	require.NoError(t, err)
	require.LessOrEqual(t, float64(res.Bytes), 1.1*res.Usage.Wall.Seconds()*float64(o.Rate)+3*16<<10, "no faster than asked")
	require.NotZero(t, res.Bytes)
	require.NoError(t, srv.Close())
}

func TestRequestsShareTheirBatch(t *testing.T) {
	o := ProduceOptions{Topic: "snow", Batches: 2}
	o.SetDefaults()
	requests := o.encode()
	for _, r := range requests {
		require.Len(t, r.frame, 5, "two batches and what stands around them")
		require.Same(t, &requests[0].records[0], &r.frame[1][0])
		require.Same(t, &requests[0].records[0], &r.frame[3][0])
	}
}

func TestProduceFails(t *testing.T) {
	o := ProduceOptions{Topic: "snow", Acks: 1, Bytes: 1 << 30, Connections: 2}
	t.Run("nobody listens", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		o.Addr = ln.Addr().String()
		require.NoError(t, ln.Close())
		_, err = Produce(t.Context(), o)
		require.Error(t, err)
	})
	t.Run("hangs", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { require.NoError(t, ln.Close()) }()
		o.Addr = ln.Addr().String() // the kernel accepts, nobody answers
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		res, err := Produce(ctx, o)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, res.Bytes)
	})
	t.Run("error code", func(t *testing.T) {
		o.Addr = respond(t, func(id uint32) []byte {
			resp := kmsg.NewPtrProduceResponse()
			resp.Version = 9
			topic := kmsg.NewProduceResponseTopic()
			topic.Topic = "snow"
			part := kmsg.NewProduceResponseTopicPartition()
			part.ErrorCode, part.ErrorMessage = kerr.KafkaStorageError.Code, kmsg.StringPtr("the disk is full")
			rec := kmsg.NewProduceResponseTopicPartitionErrorRecord()
			rec.ErrorMessage = kmsg.StringPtr("this one")
			part.ErrorRecords = append(part.ErrorRecords, rec)
			topic.Partitions = append(topic.Partitions, part)
			resp.Topics = append(resp.Topics, topic)
			return resp.AppendTo(append(binary.BigEndian.AppendUint32(nil, id), 0))
		})
		_, err := Produce(t.Context(), o)
		require.ErrorIs(t, err, kerr.KafkaStorageError)
		require.ErrorContains(t, err, "the disk is full")
	})
	t.Run("other answer", func(t *testing.T) {
		o.Addr = respond(t, func(id uint32) []byte { return binary.BigEndian.AppendUint32(nil, id+1) })
		_, err := Produce(t.Context(), o)
		require.ErrorIs(t, err, ErrResponse)
	})
	t.Run("cut off", func(t *testing.T) {
		o.Addr = respond(t, func(id uint32) []byte { return append(binary.BigEndian.AppendUint32(nil, id), 0, 9, 9) })
		_, err := Produce(t.Context(), o)
		require.ErrorIs(t, err, ErrResponse)
	})
	for name, bad := range map[string]func(*ProduceOptions){
		"version":  func(o *ProduceOptions) { o.Version = 8 },
		"no id":    func(o *ProduceOptions) { o.Version = 13 },
		"no name":  func(o *ProduceOptions) { o.Topic = "" },
		"acks":     func(o *ProduceOptions) { o.Acks = 2 },
		"batches":  func(o *ProduceOptions) { o.Batches = 13 },
		"endless":  func(o *ProduceOptions) { o.Bytes = 0 },
		"negative": func(o *ProduceOptions) { o.Depth = -1 },
	} {
		t.Run("options/"+name, func(t *testing.T) {
			o := o
			bad(&o)
			_, err := Produce(t.Context(), o)
			require.ErrorIs(t, err, ErrOptions)
		})
	}
}

// respond serves connections that answer each request with what fn makes of
// its correlation id.
func respond(t *testing.T, fn func(id uint32) []byte) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ln.Close()) })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					head, err := in.Peek(12)
					if err != nil {
						return
					}
					id := binary.BigEndian.Uint32(head[8:])
					if _, err := in.Discard(4 + int(binary.BigEndian.Uint32(head))); err != nil {
						return
					}
					body := fn(id)
					if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// The generator against a broker that somebody else wrote.
func TestProduceAndFetchAgainstKfake(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	defer cluster.Close()
	addr := cluster.ListenAddrs()[0]
	ctx := t.Context()
	require.NoError(t, CreateTopic(ctx, addr, "snow", 4, map[string]string{"retention.ms": "-1"}))
	require.NoError(t, CreateTopic(ctx, addr, "snow", 4, nil), "it may exist")
	id, partitions, err := LookupTopic(ctx, addr, "snow")
	require.NoError(t, err)
	require.False(t, id.IsZero())
	require.EqualValues(t, 4, partitions)
	_, _, err = LookupTopic(ctx, addr, "ice")
	require.ErrorIs(t, err, kerr.UnknownTopicOrPartition)

	var sent ProduceResult
	for _, version := range []int16{9, 13} {
		res, err := Produce(ctx, ProduceOptions{Addr: addr, Topic: "snow", TopicID: id, Partitions: 4, Version: version,
			Acks: -1, Connections: 3, Batches: 2, Bytes: 2 << 20})
		require.NoError(t, err)
		sent.Bytes += res.Bytes
		sent.Records += res.Records
	}
	for _, o := range []FetchOptions{
		{Version: 11, From: -1, VerifyCRC: true},
		{Version: 12, From: -1, Connections: 3, MaxBytes: 100_000, PartitionBytes: 20_000},
		{Version: 13, Connections: 4, VerifyCRC: true, Pid: os.Getpid()},
		{Version: 12, Connections: 8}, // each partition twice
	} {
		t.Run(fmt.Sprintf("fetch v%d by %d", o.Version, o.Connections), func(t *testing.T) {
			o.Addr, o.Topic, o.TopicID, o.Partitions = addr, "snow", id, 4
			res, err := Fetch(ctx, o)
			require.NoError(t, err)
			times := int64(max(1, o.Connections/4))
			require.Equal(t, times*sent.Bytes, res.Bytes)
			require.Equal(t, times*sent.Records, res.Records)
			require.Positive(t, res.Requests)
			require.Positive(t, res.Report(o).Latency.P50)
		})
	}
	t.Run("from the middle", func(t *testing.T) {
		res, err := Fetch(ctx, FetchOptions{Addr: addr, Topic: "snow", Partitions: 4, From: 16})
		require.NoError(t, err)
		require.Equal(t, sent.Records-4*15, res.Records, "the batch that holds the offset comes whole")
	})
	t.Run("a part", func(t *testing.T) {
		res, err := Fetch(ctx, FetchOptions{Addr: addr, Topic: "snow", Partitions: 4, Bytes: 100_000, MaxBytes: 20_000, PartitionBytes: 20_000})
		require.NoError(t, err)
		require.GreaterOrEqual(t, res.Bytes, int64(100_000))
		require.Less(t, res.Bytes, int64(200_000))
	})
	t.Run("too many partitions", func(t *testing.T) {
		_, err := Fetch(ctx, FetchOptions{Addr: addr, Topic: "snow", Partitions: 5})
		require.ErrorIs(t, err, kerr.UnknownTopicOrPartition)
	})
}

func TestFetchSeesFlippedBits(t *testing.T) {
	batch := (&ProduceOptions{Topic: "t", Partitions: 1, Version: 9, Batches: 1, RecordBytes: 10, BatchBytes: 100}).encode()[0].records
	for _, size := range []int{len(batch), len(batch) - 1, record.HeaderSize, 5, 0} {
		c := &fetchConn{opts: &FetchOptions{VerifyCRC: true}}
		r := &reader{r: bufio.NewReader(bytes.NewReader(batch)), left: size}
		p := &fetchPartition{}
		require.NoError(t, c.take(r, p, size))
		require.NoError(t, r.end())
		require.Equal(t, size == len(batch), c.bytes > 0, "a cut-off batch does not count")
	}
	flipped := slices.Clone(batch)
	flipped[len(batch)-1] ^= 4
	c := &fetchConn{opts: &FetchOptions{VerifyCRC: true}}
	r := &reader{r: bufio.NewReader(bytes.NewReader(flipped)), left: len(batch)}
	require.ErrorIs(t, c.take(r, &fetchPartition{}, len(batch)), record.ErrCorrupt)
	flipped[16] = 1
	r = &reader{r: bufio.NewReader(bytes.NewReader(flipped)), left: len(batch)}
	require.ErrorIs(t, c.take(r, &fetchPartition{}, len(batch)), record.ErrCorrupt)
}

func TestHistogramAgainstSorting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var parts [3]histogram
		var all []time.Duration
		for range rapid.IntRange(1, 3000).Draw(t, "n") {
			d := time.Duration(rng.Int64() >> rng.IntN(63))
			all = append(all, d)
			parts[rng.IntN(3)].add(d)
		}
		var h histogram
		for i := range parts {
			h.merge(&parts[i])
		}
		slices.Sort(all)
		for _, q := range []float64{0, 0.5, 0.99, 0.999, 1} {
			rank := max(int(q*float64(len(all))+0.5), 1)
			want := all[rank-1]
			got := h.quantile(q)
			require.GreaterOrEqual(t, got, want)
			require.LessOrEqual(t, float64(got), float64(want)*(1+1.0/64)+1)
		}
		require.EqualValues(t, all[len(all)-1], h.max)
	})
	require.Zero(t, (&histogram{}).quantile(0.5))
}

func FuzzReadProduce(f *testing.F) {
	f.Add([]byte{0, 0, 0, 5, 0, 0, 0, 1, 0}, int16(9))
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = 13
	topic := kmsg.NewProduceResponseTopic()
	topic.Partitions = append(topic.Partitions, kmsg.NewProduceResponseTopicPartition())
	resp.Topics = append(resp.Topics, topic)
	body := resp.AppendTo([]byte{0, 0, 0, 1, 0})
	f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), int16(13))
	f.Fuzz(func(t *testing.T, b []byte, version int16) {
		r := &reader{r: bufio.NewReader(bytes.NewReader(b))}
		if err := readProduce(r, version, 1); err == nil && r.left != 0 {
			t.Fatal("an answer was read in part")
		}
	})
}
