package probe

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

func TestParseStat(t *testing.T) {
	// A command may hold blanks and parentheses.
	stat := "4242 (fi) rn (x) S 1 2 3 4 5 6 7 8 9 10 150 75 0 0 20 0 9 0 1 2 3\n"
	cpu, err := parseStat([]byte(stat))
	require.NoError(t, err)
	require.Equal(t, 2250*time.Millisecond, cpu)
	for _, bad := range []string{"", "1 firn S", "1 (firn) S 1 2", "1 (firn) S 1 2 3 4 5 6 7 8 9 10 x 75"} {
		_, err := parseStat([]byte(bad))
		require.ErrorIs(t, err, ErrProcStat)
	}
}

func TestMeterSeesCPU(t *testing.T) {
	m, err := StartMeter(os.Getpid())
	require.NoError(t, err)
	start, err := ProcessCPU(0)
	require.NoError(t, err)
	for { // burn what /proc can see
		now, err := ProcessCPU(0)
		require.NoError(t, err)
		if now-start >= 50*time.Millisecond {
			break
		}
	}
	u, err := m.Stop()
	require.NoError(t, err)
	require.GreaterOrEqual(t, u.Target, 50*time.Millisecond)
	require.GreaterOrEqual(t, u.Self, 50*time.Millisecond)
	require.Positive(t, u.Wall)
	_, err = ProcessCPU(1 << 30)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// batchOf makes a batch of n records.
func batchOf(n int, value string) []byte {
	bb := record.NewBuilder(record.BuilderOptions{})
	for range n {
		bb.Append(1, nil, []byte(value))
	}
	return bb.Build()
}

// produceRequest makes a request that sends each of batches to its partition.
func produceRequest(version, acks int16, batches map[int32][]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks = version, acks
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic, topic.TopicID = "snow", [16]byte{9, 8, 7}
	for p := range int32(len(batches)) {
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = p, batches[p]
		topic.Partitions = append(topic.Partitions, part)
	}
	req.Topics = append(req.Topics, topic)
	return req
}

func frameOf(req kmsg.Request, correlation int32) []byte {
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, correlation)
}

// answer reads one response with kmsg.
func answer(t *testing.T, r io.Reader, version int16, correlation int32) *kmsg.ProduceResponse {
	var size [4]byte
	_, err := io.ReadFull(r, size[:])
	require.NoError(t, err)
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err = io.ReadFull(r, body)
	require.NoError(t, err)
	require.EqualValues(t, correlation, binary.BigEndian.Uint32(body))
	require.Zero(t, body[4], "no tags in the header")
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = version
	require.NoError(t, resp.ReadFrom(body[5:]))
	return resp
}

func startProduce(t *testing.T, sync bool) (*ProduceServer, string) {
	dir := t.TempDir()
	srv, err := StartProduceServer(ProduceServerOptions{Addr: "127.0.0.1:0", Dir: dir, Sync: sync})
	require.NoError(t, err)
	return srv, dir
}

func connect(t *testing.T, addr string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

func TestProduceServer(t *testing.T) {
	for _, version := range []int16{9, 10, 11, 12, 13} {
		t.Run(fmt.Sprintf("v%d", version), func(t *testing.T) {
			srv, dir := startProduce(t, version%2 == 0)
			conn := connect(t, srv.Addr())
			defer conn.Close()
			one, two := batchOf(3, "flake"), batchOf(5, strings.Repeat("snow", 200_000))

			// Pipelined, with one above the buffer and one without an answer,
			// in pieces of all sizes.
			var sent []byte
			for id, acks := range []int16{-1, 0, 1} {
				sent = append(sent, frameOf(produceRequest(version, acks, map[int32][]byte{0: one, 1: two}), int32(id))...)
			}
			go func() {
				for i, rest := 0, sent; len(rest) > 0; i++ {
					n := min(1+i*i*i, len(rest))
					if _, err := conn.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
			}()
			in := bufio.NewReader(conn)
			for turn, id := range []int32{0, 2} {
				resp := answer(t, in, version, id)
				require.Len(t, resp.Topics, 1)
				if version < 13 {
					require.Equal(t, "snow", resp.Topics[0].Topic)
				} else {
					require.Equal(t, [16]byte{9, 8, 7}, resp.Topics[0].TopicID)
				}
				require.Len(t, resp.Topics[0].Partitions, 2)
				for p, part := range resp.Topics[0].Partitions {
					require.EqualValues(t, p, part.Partition)
					require.Zero(t, part.ErrorCode)
					require.EqualValues(t, -1, part.LogAppendTime)
					require.EqualValues(t, []int64{3, 5}[p]*int64(turn)*2, part.BaseOffset, "the unanswered request counts")
				}
			}
			require.EqualValues(t, 3*(len(one)+len(two)), srv.Bytes())
			require.NoError(t, srv.Close())
			for p, batch := range [][]byte{one, two} {
				files, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("*-%d.log", p)))
				require.NoError(t, err)
				require.Len(t, files, 1)
				got, err := os.ReadFile(files[0])
				require.NoError(t, err)
				require.Equal(t, bytes.Repeat(batch, 3), got)
			}
		})
	}
}

func TestProduceServerRefuses(t *testing.T) {
	bad := batchOf(1, "v")
	bad[len(bad)-1] ^= 1
	good := frameOf(produceRequest(9, 1, map[int32][]byte{0: batchOf(1, "v")}), 1)
	old := bytes.Clone(good)
	old[7] = 8
	longer := append(bytes.Clone(good), 0)
	longer[3]++
	for name, c := range map[string]struct {
		frame []byte
		err   error
	}{
		"checksum":  {frameOf(produceRequest(9, 1, map[int32][]byte{0: bad}), 1), ErrBatch},
		"no batch":  {frameOf(produceRequest(9, 1, map[int32][]byte{0: {1}}), 1), ErrBatch},
		"version 8": {old, ErrFrame},
		"other key": {frameOf(kmsg.NewPtrMetadataRequest(), 1), ErrFrame},
		"longer":    {longer, ErrFrame},
		"huge":      {[]byte{0x7f, 0, 0, 0}, ErrFrame},
	} {
		t.Run(name, func(t *testing.T) {
			srv, _ := startProduce(t, false)
			conn := connect(t, srv.Addr())
			defer conn.Close()
			_, err := conn.Write(c.frame)
			require.NoError(t, err)
			n, err := conn.Read(make([]byte, 1))
			require.Zero(t, n)
			require.Error(t, err, "the connection closes without an answer")
			require.ErrorIs(t, srv.Close(), c.err)
		})
	}
}

func FuzzProduceRequest(f *testing.F) {
	for _, version := range []int16{9, 13} {
		f.Add(frameOf(produceRequest(version, 1, map[int32][]byte{0: batchOf(1, "v"), 1: batchOf(2, "w")}), 7)[4:])
	}
	p := &ProduceServer{opts: ProduceServerOptions{Dir: f.TempDir()}, partitions: map[partitionKey]*partitionFile{}}
	f.Fuzz(func(t *testing.T, frame []byte) {
		reply, err := p.request(frame, nil, map[partitionKey]*partitionFile{})
		for _, file := range p.partitions { // keep descriptors and disk bounded
			file.file.Close()
			require.NoError(t, os.Remove(file.file.Name()))
		}
		clear(p.partitions)
		if err == nil && len(reply) > 0 && int(binary.BigEndian.Uint32(reply)) != len(reply)-4 {
			t.Fatal("the answer's length is wrong")
		}
		if len(reply) > 64+64*len(frame) {
			t.Fatalf("%d bytes of answer to %d", len(reply), len(frame))
		}
	})
}

func TestSendfile(t *testing.T) {
	content := make([]byte, 3*sendfileStep+12345)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, content, 0o644))
	srv, err := StartFileServer("127.0.0.1:0", path)
	require.NoError(t, err)
	require.EqualValues(t, len(content), srv.Size())

	conn := connect(t, srv.Addr())
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	conn.Close()

	two, err := StartFileServer("127.0.0.1:0", path, path)
	require.NoError(t, err)
	require.EqualValues(t, 2*len(content), two.Size())
	conn = connect(t, two.Addr())
	got, err = io.ReadAll(conn)
	require.NoError(t, err)
	require.True(t, bytes.Equal(append(content[:len(content):len(content)], content...), got))
	conn.Close()
	require.NoError(t, two.Close())
	_, err = StartFileServer("127.0.0.1:0", path, path+".missing")
	require.ErrorIs(t, err, os.ErrNotExist)

	n, err := Drain(t.Context(), srv.Addr(), 3, 2)
	require.NoError(t, err)
	require.EqualValues(t, 6*len(content), n)

	require.NoError(t, os.Truncate(path, 10))
	conn = connect(t, srv.Addr())
	got, err = io.ReadAll(conn)
	require.NoError(t, err)
	require.Len(t, got, 10)
	conn.Close()
	require.ErrorIs(t, srv.Close(), io.ErrUnexpectedEOF)
	_, err = Drain(t.Context(), srv.Addr(), 1, 1)
	require.Error(t, err, "nobody listens")
}

func TestCloseEndsIdleConnections(t *testing.T) {
	srv, _ := startProduce(t, false)
	conn := connect(t, srv.Addr())
	defer conn.Close()
	_, err := conn.Write([]byte{0, 0})
	require.NoError(t, err)
	require.NoError(t, srv.Close())
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
}

// store is the least of S3 that GetObjects speaks to.
func store(t *testing.T, objects map[string][]byte, requests *[]string) *httptest.Server {
	type content struct {
		Key  string
		Size int
	}
	type listing struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Name     string
		Contents []content
	}
	var log = make(chan string, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, isObject := strings.CutPrefix(r.URL.Path, "/bucket/")
		if !isObject || key == "" {
			if r.URL.Query().Has("location") {
				fmt.Fprint(w, `<LocationConstraint>us-east-1</LocationConstraint>`)
				return
			}
			l := listing{Name: "bucket"}
			for k, v := range objects {
				if strings.HasPrefix(k, r.URL.Query().Get("prefix")) {
					l.Contents = append(l.Contents, content{k, len(v)})
				}
			}
			slices.SortFunc(l.Contents, func(a, b content) int { return strings.Compare(a.Key, b.Key) })
			if err := xml.NewEncoder(w).Encode(l); err != nil {
				t.Error(err)
			}
			return
		}
		log <- key + " " + r.Header.Get("Range")
		w.Header().Set("Last-Modified", time.Unix(1, 0).UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", `"e"`)
		http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader(objects[key]))
	}))
	t.Cleanup(func() {
		srv.Close()
		close(log)
		for line := range log {
			*requests = append(*requests, line)
		}
		slices.Sort(*requests)
	})
	return srv
}

func TestGetObjects(t *testing.T) {
	objects := map[string][]byte{
		"data/a": make([]byte, 10), "data/b": make([]byte, 1), "data/empty": nil, "other": make([]byte, 99),
	}
	for name, c := range map[string]struct {
		o    ObjectOptions
		want ObjectResult
		asks []string
	}{
		"whole": {ObjectOptions{Prefix: "data/"}, ObjectResult{11, 2},
			[]string{"data/a bytes=0-9", "data/b bytes=0-0"}},
		"ranges": {ObjectOptions{Prefix: "data/", RangeBytes: 4}, ObjectResult{11, 4},
			[]string{"data/a bytes=0-3", "data/a bytes=4-7", "data/a bytes=8-9", "data/b bytes=0-0"}},
		"bounded": {ObjectOptions{Prefix: "data/", RangeBytes: 4, MaxBytes: 5}, ObjectResult{8, 2},
			[]string{"data/a bytes=0-3", "data/a bytes=4-7"}},
	} {
		var asks []string
		t.Run(name, func(t *testing.T) {
			srv := store(t, objects, &asks)
			c.o.Endpoint, c.o.Bucket, c.o.Parallel = srv.Listener.Addr().String(), "bucket", 3
			c.o.Region = "us-east-1"
			res, err := GetObjects(t.Context(), c.o)
			require.NoError(t, err)
			require.Equal(t, c.want, res)
			c.o.Prefix = "nothing"
			_, err = GetObjects(t.Context(), c.o)
			require.ErrorIs(t, err, ErrNoObjects)
		})
		require.Equal(t, c.asks, asks, name)
	}
}

func TestReport(t *testing.T) {
	r := NewReport("produce", 2e9, 100, 12, Usage{Wall: 4 * time.Second, Target: 3 * time.Second, Self: time.Second}, 77)
	r.Latency = NewLatency(time.Millisecond, 2*time.Millisecond, 3*time.Millisecond, 4500*time.Microsecond)
	var text, line bytes.Buffer
	require.NoError(t, r.WriteText(&text))
	require.Equal(t, `produce      2000000000 bytes in 4.000 s over 12 connections: 500.0 MB/s, 100 operations
latency      p50 1.000 ms, p99 2.000 ms, p99.9 3.000 ms, max 4.500 ms
server CPU   3.00 s, 1.500 s for 1 GB
own CPU      1.00 s, 0.500 s for 1 GB
`, text.String())
	require.NoError(t, r.WriteJSON(&line))
	var back Report
	require.NoError(t, json.Unmarshal(line.Bytes(), &back))
	require.Equal(t, r, back)

	r = NewReport("drain", 0, 0, 1, Usage{}, 0)
	require.Nil(t, r.ServerCPU)
	text.Reset()
	require.NoError(t, r.WriteText(&text))
	require.NotContains(t, text.String(), "server")
}
