package faults

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"

	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/firnlog/firn/integration/harness"
)

// maxRSS is what the broker may hold at any moment while it is badly treated,
// with the small budget that the tests give it.
const maxRSS = 192 << 20

// victim is a broker with a well-behaved client, whose writes and memory are
// watched while others send rubbish.
type victim struct {
	*harness.Broker
	load *harness.Load
	peak func() int64
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	b := harness.Start(t, harness.Options{Set: []string{"socket.request.max.bytes=33554432", "queued.max.request.bytes=67108864"}})
	b.CreateTopic(t, "t", 1)
	b.CreateTopic(t, "bad", 1)
	v := &victim{Broker: b, load: harness.StartLoad(t, b, "t", harness.LoadOptions{Partitions: 1, RecordBytes: 1000, Rate: 500})}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var peak int64
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				peak = max(peak, b.RSS())
			}
		}
	})
	v.peak = func() int64 { stop(); wg.Wait(); return peak }
	t.Cleanup(func() { v.peak() })
	return v
}

// unharmed holds that the other client was served all along, and its records and
// the broker's memory are as they should be.
func (v *victim) unharmed(t *testing.T) {
	t.Helper()
	v.load.Await(200, 20*time.Second)
	v.load.Stop()
	v.load.Check(v.Broker, harness.CheckOptions{})
	peak := v.peak()
	t.Logf("peak of memory: %d MiB", peak>>20)
	require.Less(t, peak, int64(maxRSS))
}

func (v *victim) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", v.Addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// frame prefixes bytes with their length.
func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// header is a request header with a client id; flexible ones end in no tags.
func header(key, version int16, flexible bool) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 7)
	b = append(b, 0, 1, 'x')
	if flexible {
		b = append(b, 0)
	}
	return b
}

// answer sends bytes and reads what comes until the broker closes, or a whole
// frame has come.
func (v *victim) answer(t *testing.T, send []byte) (got []byte, closed bool) {
	t.Helper()
	conn := v.dial(t)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(15*time.Second)))
	// A broker that closes early breaks the write; what it says is read all the same.
	_, _ = conn.Write(send)
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "neither an answer nor an end to %x", send[:min(len(send), 64)])
		return nil, true
	}
	got = make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	return got, false
}

// TestBadFrames sends what is not Kafka's protocol, and frames whose counts lie.
func TestBadFrames(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x07} // an unsigned varint of 2^31-1
	for name, send := range map[string][]byte{
		"length of 2 GiB":          {0x7f, 0xff, 0xff, 0xff, 0, 18, 0, 0},
		"negative length":          {0xff, 0xff, 0xff, 0xff, 0, 18, 0, 0},
		"length of 0":              {0, 0, 0, 0},
		"length above the limit":   binary.BigEndian.AppendUint32(nil, 33554433),
		"no room for a header":     frame([]byte{0, 3}),
		"unknown API":              frame(header(9999, 0, false)),
		"negative API":             frame(header(-1, 0, false)),
		"unknown version":          frame(header(3, 99, true)),
		"negative version":         frame(header(3, -1, false)),
		"Produce 0":                frame(append(header(0, 0, false), make([]byte, 10)...)),
		"HTTP":                     []byte("GET / HTTP/1.1\r\nHost: firn\r\n\r\n"),
		"SSH":                      []byte("SSH-2.0-OpenSSH_9.9\r\n"),
		"tags of the header":       frame(append(header(3, 12, false), huge...)),
		"tags of the body":         frame(append(append(header(3, 12, true), 1, 0, 0), huge...)),
		"topics of Metadata":       frame(append(header(3, 12, true), huge...)),
		"topics of Metadata 1":     frame(append(header(3, 1, false), 0x7f, 0xff, 0xff, 0xff)),
		"members of LeaveGroup":    frame(append(header(13, 3, false), 0, 1, 'g', 0x7f, 0xff, 0xff, 0xff)),
		"topics of Fetch":          frame(append(header(1, 11, false), append(make([]byte, 29), 0x7f, 0xff, 0xff, 0xff)...)),
		"client id past the frame": frame([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff}),
		"cut off in the body":      frame(append(header(3, 1, false), 0, 0, 0, 1, 0, 9, 'x')),
	} {
		_, closed := v.answer(t, send)
		require.True(t, closed, "%s was answered", name)
	}
	got, closed := v.answer(t, frame(header(18, 99, true)))
	require.False(t, closed)
	require.Equal(t, kerr.UnsupportedVersion.Code, int16(binary.BigEndian.Uint16(got[4:])), "ApiVersions tells what it knows")

	// A client that speaks TLS hears at once that nobody else does.
	began := time.Now()
	_, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", v.Addr, &tls.Config{InsecureSkipVerify: true})
	require.Error(t, err)
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded))
	require.Less(t, time.Since(began), 8*time.Second)

	// Frames that end early, by the client's going.
	for range 200 {
		conn := v.dial(t)
		_, err := conn.Write([]byte{0, 0, 1, 0, 0, 3, 0, 12})
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	v.unharmed(t)
}

// TestRandomFrames sends random bodies to every API and version, and well-formed
// ones with random damage.
func TestRandomFrames(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	v := newVictim(t)
	var wg sync.WaitGroup
	for worker := range uint64(4) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, worker))
			end := time.Now().Add(4 * time.Second)
			for time.Now().Before(end) {
				v.shoot(t, random)
			}
		})
	}
	wg.Wait()
	v.unharmed(t)
}

// shoot sends one bad frame and does not wait for more than its end.
func (v *victim) shoot(t *testing.T, random *rand.Rand) {
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", v.Addr)
	if err != nil {
		t.Errorf("dial: %v", err)
		return
	}
	defer conn.Close()
	req := kmsg.RequestForKey(int16(random.IntN(93)))
	for req == nil {
		req = kmsg.RequestForKey(int16(random.IntN(93)))
	}
	req.SetVersion(int16(random.IntN(int(req.MaxVersion()) + 1)))
	body := header(req.Key(), req.GetVersion(), req.IsFlexible())
	if random.IntN(2) == 0 {
		body = req.AppendTo(body)
		for range 1 + random.IntN(3) {
			body[len(body)-1-random.IntN(min(len(body), 40))] = byte(random.Uint32())
		}
	} else {
		for range random.IntN(200) {
			body = append(body, byte(random.Uint32()))
		}
	}
	_ = conn.SetDeadline(time.Now().Add(50 * time.Millisecond)) // some, such as Fetch, are answered later
	_, _ = conn.Write(frame(body))
	_, _ = io.Copy(io.Discard, conn)
}

// TestSlowClients has many connections claim large frames and send a byte now
// and then: they cost what they sent, and nobody else waits for them.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	var conns []net.Conn
	for i := range 300 {
		conn := v.dial(t)
		conns = append(conns, conn)
		start := append(binary.BigEndian.AppendUint32(nil, 33_000_000), header(0, 9, true)...)
		if i%3 == 0 { // some send more, and stop
			start = append(start, make([]byte, 100_000)...)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second)) // reading may have been stopped already
		_, _ = conn.Write(start)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 4 {
		<-tick.C
		for _, conn := range conns {
			_ = conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
			_, _ = conn.Write([]byte{0})
		}
		v.load.Await(100, 10*time.Second)
	}
	v.unharmed(t)
}

// batch is a record batch with these bytes for its records, valid but for what
// they are.
func batch(codec int16, records int32, payload []byte) []byte {
	b := kmsg.NewRecordBatch()
	b.Magic, b.Attributes, b.NumRecords, b.LastOffsetDelta = 2, codec, records, records-1
	b.FirstTimestamp, b.MaxTimestamp = time.Now().UnixMilli(), time.Now().UnixMilli()
	b.ProducerID, b.ProducerEpoch, b.FirstSequence, b.PartitionLeaderEpoch = -1, -1, -1, -1
	b.Records = payload
	b.Length = int32(49 + len(payload))
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// produce sends a batch by hand and returns the partition's error.
func produce(t *testing.T, c *kgo.Client, raw []byte) error {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	topic, part := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	req.Acks, req.TimeoutMillis = -1, 10_000
	topic.Topic, part.Records = "bad", raw
	req.SetVersion(9)
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := c.RequestSharded(t.Context(), req)[0].Resp, error(nil)
	require.NotNil(t, resp, "no answer to a bad batch")
	require.NoError(t, err)
	return kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

// TestBadBatches sends batches that are damaged, that lie about themselves, and
// that unpack to more than the broker may hold.
func TestBadBatches(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	c := v.Client(t, kgo.MaxVersions(produceBelowTopicIDs()))
	record := kmsg.NewRecord()
	record.Value = []byte("value")
	record.Length = 11
	one := record.AppendTo(nil)
	require.NoError(t, produce(t, c, batch(0, 1, one)), "the sound one")

	wrongCRC := batch(0, 1, one)
	wrongCRC[len(wrongCRC)-1] ^= 1
	require.ErrorIs(t, produce(t, c, wrongCRC), kerr.CorruptMessage)
	oldMagic := batch(0, 1, one)
	oldMagic[16] = 1
	longer := batch(0, 1, one)
	binary.BigEndian.PutUint32(longer[8:], uint32(len(longer)))
	for name, raw := range map[string][]byte{
		"old magic": oldMagic, "longer than its bytes": longer, "cut": batch(0, 1, one)[:70], "nothing": {}, "header alone": batch(0, 1, nil),
		"fewer records than counted": batch(0, 1000, one), "count of 2^31-1": batch(0, 1<<31-1, one), "negative count": batch(0, -1, one),
		"unknown codec": batch(7, 1, one), "no gzip at all": batch(1, 1, one), "no snappy at all": batch(2, 1, one),
		"no lz4 at all": batch(3, 1, one), "no zstd at all": batch(4, 1, one),
		"record of 2 GiB":  batch(0, 1, binary.AppendVarint(nil, 1<<31-1)),
		"headers of 2^31":  batch(0, 1, append([]byte{20, 0, 0, 0, 1, 0}, binary.AppendVarint(nil, 1<<31-1)...)),
		"two in one":       append(batch(0, 1, one), batch(0, 1, one)...),
		"control by hand":  batch(0x20, 1, one),
		"transaction left": batch(0x10, 1, one),
	} {
		require.Error(t, produce(t, c, raw), name)
	}
	_, ends := v.Ends(t, "bad")
	require.EqualValues(t, 1, ends[0], "a bad batch was appended")

	bombs := map[string][]byte{"gzip": batch(1, 1, bomb(t, "gzip")), "lz4": batch(3, 1, bomb(t, "lz4")), "zstd": batch(4, 1, bomb(t, "zstd"))}
	var wg sync.WaitGroup
	for name, raw := range bombs {
		for range 2 {
			wg.Go(func() {
				if err := produce(t, v.Client(t, kgo.MaxVersions(produceBelowTopicIDs())), raw); err == nil {
					t.Errorf("the %s bomb of %d bytes was taken", name, len(raw))
				}
			})
		}
	}
	wg.Wait()
	_, ends = v.Ends(t, "bad")
	require.EqualValues(t, 1, ends[0], "a bomb was appended")
	v.unharmed(t)
}

// bomb is a record of zeros, compressed, that alone would take twice the memory
// that the broker may hold.
func bomb(t *testing.T, codec string) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch codec {
	case "gzip":
		z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		require.NoError(t, err)
		w = z
	case "lz4":
		w = lz4.NewWriter(&out)
	case "zstd":
		z, err := zstd.NewWriter(&out, zstd.WithWindowSize(1<<20))
		require.NoError(t, err)
		w = z
	}
	// One record, of a value alone, whose last byte is missing: all of it has to be
	// unpacked to find that.
	const size = 2 * maxRSS
	zeros := make([]byte, 1<<20)
	inner := binary.AppendVarint([]byte{0, 0, 0, 1}, size)
	_, err := w.Write(append(binary.AppendVarint(nil, int64(len(inner))+size+1), inner...))
	require.NoError(t, err)
	for range size / len(zeros) {
		_, err := w.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.Less(t, out.Len(), 8<<20)
	return out.Bytes()
}

// produceBelowTopicIDs makes a client send Produce by the topic's name.
func produceBelowTopicIDs() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(0, 9)
	return v
}
