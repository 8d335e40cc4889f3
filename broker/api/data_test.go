package api

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// dataBroker serves produce and fetch over a socket, from logs in memory.
type dataBroker struct {
	t    *testing.T
	meta *groupMeta
	set  *partition.Set
	fs   vfs.FS
	wire *wire.Server
	api  *Server
	addr string
}

// configured are a broker's static settings.
type configured map[string]string

func startData(t *testing.T, static ...configured) *dataBroker {
	before := runtime.NumGoroutine()
	// Cleanups run last first: by then all is stopped. Eventually looks from a
	// goroutine of its own.
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 10*time.Second, time.Millisecond,
			"a goroutine has outlived the broker")
	})
	logger := slog.New(slog.DiscardHandler)
	b := &dataBroker{t: t, fs: vfs.NewMem(), meta: &groupMeta{img: metadata.Empty()}}
	dir, err := commitlog.OpenDir(b.fs, "data", commitlog.DirOptions{BootID: "boot"})
	require.NoError(t, err)
	b.set = partition.NewSet(partition.SetOptions{NodeID: 1, FS: b.fs, Dir: dir, FlushWorkers: 2, MaxFiles: 64,
		LagMax: time.Hour, Meta: b.meta, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }, Logger: logger})
	service := fetch.New(fetch.Options{Partitions: b.set, Logger: logger, MaxBytes: 55 << 20, ColdFetches: 1, RemoteWait: time.Second})
	s := New(Options{Config: &config.Config{Node: config.Node{ID: 1}}, Meta: b.meta, Partitions: b.set, Fetch: service,
		Sessions: fetch.NewSessions(10), Times: &fetch.Finder{}, Logger: logger})
	for _, more := range static {
		s.Static = more
	}
	table, err := Table(100 << 20)
	require.NoError(t, err)
	ws, err := wire.NewServer(wire.Options{
		Listeners: []wire.Listener{{Name: "PLAINTEXT", Addr: "127.0.0.1:0"}}, Handler: s, Table: table, Logger: logger,
	})
	require.NoError(t, err)
	require.NoError(t, ws.Listen())
	b.wire, b.api, b.addr = ws, s, ws.Addr("PLAINTEXT").String()
	ended := make(chan error, 1)
	go func() { ended <- ws.Serve() }()
	t.Cleanup(func() {
		service.Drain()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, ws.Shutdown(ctx))
		requireServed(t, <-ended)
		service.Close()
		s.Close()
		require.NoError(t, b.set.Close(true))
		require.NoError(t, dir.Close(true))
	})
	b.edit(func(e *metadata.Editor) {
		for id, host := range map[int32]string{1: "one.test", 2: "two.test"} {
			e.PutBroker(&metadata.Broker{ID: id, Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: host, Port: 9092}}})
		}
	})
	return b
}

// requireServed judges how Serve ended. A test that asks nothing over the socket may
// shut the server down before Serve has begun, which then refuses to begin.
func requireServed(t *testing.T, err error) {
	if !errors.Is(err, wire.ErrClosed) {
		require.NoError(t, err)
	}
}

// edit changes the image and has the partitions follow.
func (b *dataBroker) edit(f func(*metadata.Editor)) {
	old := b.meta.Image()
	e := old.Edit()
	f(e)
	img, delta := e.Commit(old.Index() + 1)
	b.set.Apply(old, img, delta)
	b.meta.mu.Lock()
	b.meta.img = img
	b.meta.mu.Unlock()
}

// topic makes a topic with one partition for each of the given states.
func (b *dataBroker) topic(name string, configs map[string]string, states ...metadata.Partition) record.TopicID {
	id := record.NewTopicID()
	b.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: id, Name: name, Partitions: int32(len(states)), Configs: configs})
		for n := range states {
			e.PutPartition(record.TopicPartition{Topic: id, Partition: int32(n)}, &states[n])
		}
	})
	return id
}

// onBrokers is a partition with these replicas, all in sync, led by the first.
func onBrokers(replicas ...int32) metadata.Partition {
	return metadata.Partition{Replicas: replicas, ISR: replicas, Leader: replicas[0], LeaderEpoch: 3, RemoteEpoch: -1, LastKnownLeader: -1}
}

func (b *dataBroker) dial() *groupClient { return (&groupBroker{t: b.t, addr: b.addr}).dial() }

func someBatch(values ...string) []byte {
	b := record.NewBuilder(record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
	for i, v := range values {
		b.Append(1000+int64(i), []byte("k"), []byte(v))
	}
	return b.Build()
}

func produceTo(name string, id record.TopicID, acks int16, timeout int32, partition int32, raw []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, timeout
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = name, id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, raw
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func fetchFrom(name string, id record.TopicID, partition int32, from int64, minBytes, waitMillis int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.ReplicaState.ID = -1, -1
	req.MinBytes, req.MaxWaitMillis, req.MaxBytes, req.SessionEpoch = minBytes, waitMillis, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = name, id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, from, 1<<20
	rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = -1, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// fetchOne asks and returns the answer's one partition. The encoder's counts are
// not those of kmsg, so the bytes are not compared.
func fetchOne(c *groupClient, req *kmsg.FetchRequest, v int16) kmsg.FetchResponseTopicPartition {
	c.t.Helper()
	c.send(req, v)
	return c.receiveAny(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
}

func produced(c *groupClient, req *kmsg.ProduceRequest, v int16) kmsg.ProduceResponseTopicPartition {
	c.t.Helper()
	return ask[*kmsg.ProduceResponse](c, req, v).Topics[0].Partitions[0]
}

func TestProduceAndFetchAtEveryVersion(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1))
	c := b.dial()
	next := int64(0)
	eachVersion(t, 0, func(t *testing.T, v int16) {
		for _, acks := range []int16{-1, 1} {
			p := produced(c, produceTo("t", id, acks, 5000, 0, someBatch("a", "b")), v)
			require.Zero(t, p.ErrorCode)
			require.Equal(t, next, p.BaseOffset)
			require.EqualValues(t, -1, p.LogAppendTime)
			next += 2
		}
		// acks=0 has no answer: the next one on the connection is of the next request.
		c.send(produceTo("t", id, 0, 5000, 0, someBatch("c")), v)
		next++
		p := produced(c, produceTo("t", id, -1, 5000, 0, someBatch("d")), v)
		require.Equal(t, next, p.BaseOffset)
		next++
	})
	eachVersion(t, 1, func(t *testing.T, v int16) {
		p := fetchOne(c, fetchFrom("t", id, 0, 0, 1, 0), v)
		require.Zero(t, p.ErrorCode)
		require.Equal(t, next, p.HighWatermark)
		at := int64(0)
		for batch, err := range record.Batches(p.RecordBatches) {
			require.NoError(t, err)
			require.NoError(t, batch.VerifyCRC())
			require.EqualValues(t, at, batch.BaseOffset)
			require.EqualValues(t, 3, batch.LeaderEpoch)
			at = int64(batch.NextOffset())
		}
		require.Equal(t, next, at)
		require.Nil(t, p.AbortedTransactions)
	})
}

func TestProduceRefusals(t *testing.T) {
	b := startData(t)
	id := b.topic("t", map[string]string{"segment.bytes": "1048576", "max.message.bytes": "4000000"}, onBrokers(1), onBrokers(2))
	internal := record.NewTopicID()
	b.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: internal, Name: offsetsTopic, Partitions: 1, Internal: true})
		p := onBrokers(1)
		e.PutPartition(record.TopicPartition{Topic: internal}, &p)
	})
	c := b.dial()
	broken, tx := someBatch("a"), someBatch("a")
	broken[len(broken)-1] ^= 1
	tx[22] |= 1 << 4
	eachVersion(t, 0, func(t *testing.T, v int16) {
		unknown := kerr.UnknownTopicOrPartition.Code
		if v >= 13 {
			unknown = kerr.UnknownTopicID.Code
		}
		for name, k := range map[string]struct {
			req  *kmsg.ProduceRequest
			code int16
		}{
			"acks 2":              {produceTo("t", id, 2, 0, 0, someBatch("a")), kerr.InvalidRequiredAcks.Code},
			"unknown topic":       {produceTo("no", record.TopicID{9}, -1, 0, 0, someBatch("a")), unknown},
			"unknown partition":   {produceTo("t", id, -1, 0, 2, someBatch("a")), kerr.UnknownTopicOrPartition.Code},
			"bad crc":             {produceTo("t", id, -1, 5000, 0, broken), kerr.CorruptMessage.Code},
			"no batch":            {produceTo("t", id, -1, 5000, 0, []byte{}), kerr.InvalidRecord.Code},
			"transactional":       {produceTo("t", id, -1, 5000, 0, tx), kerr.TransactionalIDAuthorizationFailed.Code},
			"internal topic":      {produceTo(offsetsTopic, internal, -1, 5000, 0, someBatch("a")), kerr.InvalidTopicException.Code},
			"another leader":      {produceTo("t", id, -1, 5000, 1, someBatch("a")), kerr.NotLeaderForPartition.Code},
			"more than a segment": {produceTo("t", id, -1, 5000, 0, someBatch(string(make([]byte, 1<<20)))), kerr.RecordListTooLarge.Code},
		} {
			resp := ask[*kmsg.ProduceResponse](c, k.req, v)
			p := resp.Topics[0].Partitions[0]
			require.Equal(t, k.code, p.ErrorCode, name)
			require.EqualValues(t, -1, p.BaseOffset, name)
			if name == "another leader" && v >= 10 {
				require.EqualValues(t, 2, p.CurrentLeader.LeaderID)
				require.EqualValues(t, 3, p.CurrentLeader.LeaderEpoch)
				require.Len(t, resp.Brokers, 1)
				require.Equal(t, "two.test", resp.Brokers[0].Host)
			}
		}
	})
	require.EqualValues(t, 0, fetchOne(c, fetchFrom("t", id, 0, 0, 0, 0), 12).HighWatermark, "nothing was written")
}

// A refused batch without acks closes the connection: the client could not learn
// of it otherwise.
func TestProduceWithoutAcksClosesOnError(t *testing.T) {
	b := startData(t)
	c := b.dial()
	c.send(produceTo("no", record.TopicID{}, 0, 0, 0, someBatch("a")), 9)
	require.NoError(t, c.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, err := c.conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

// An append that the replicas do not confirm in time is answered by its timeout,
// once; the record stays, and what confirms it later answers nobody.
func TestProduceTimesOutOnce(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1, 2))
	c := b.dial()
	require.Equal(t, kerr.RequestTimedOut.Code, produced(c, produceTo("t", id, -1, 30, 0, someBatch("a")), 9).ErrorCode)
	require.Zero(t, produced(c, produceTo("t", id, 1, 30, 0, someBatch("b")), 9).ErrorCode, "acks=1 waits for nobody")
	// One that waits is answered when the leader goes.
	c.send(produceTo("t", id, -1, 60_000, 0, someBatch("c")), 9)
	other := b.dial()
	require.Eventually(t, func() bool {
		return b.set.Get(record.TopicPartition{Topic: id}).State().LogEnd == 3
	}, 10*time.Second, time.Millisecond)
	b.edit(func(e *metadata.Editor) {
		p := onBrokers(1, 2)
		p.Leader, p.LeaderEpoch, p.PartitionEpoch = 2, 4, 1
		e.PutPartition(record.TopicPartition{Topic: id}, &p)
	})
	req := produceTo("t", id, -1, 0, 0, nil)
	req.SetVersion(9)
	require.Equal(t, kerr.NotLeaderForPartition.Code, c.receive(req).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, kerr.NotLeaderForPartition.Code, fetchOne(other, fetchFrom("t", id, 0, 0, 1, 0), 10).ErrorCode)
	old := fetchFrom("t", id, 0, 0, 1, 0)
	old.Topics[0].Partitions[0].CurrentLeaderEpoch = 3
	p := fetchOne(other, old, 16) // from version 11 a follower may be read, in its epoch
	require.Equal(t, kerr.FencedLeaderEpoch.Code, p.ErrorCode)
	require.EqualValues(t, 2, p.CurrentLeader.LeaderID)
	require.EqualValues(t, 4, p.CurrentLeader.LeaderEpoch)
}

// A fetch that waits is woken by what is written, by an answer that another
// partition's error makes, and by its time.
func TestFetchWaits(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1), onBrokers(1))
	c, other := b.dial(), b.dial()
	for range 50 {
		end := int64(b.set.Get(record.TopicPartition{Topic: id}).State().LogEnd)
		req := fetchFrom("t", id, 0, end, 1, 60_000)
		c.send(req, 12)
		require.Zero(t, produced(other, produceTo("t", id, -1, 5000, 0, someBatch("a")), 9).ErrorCode)
		got := c.receiveAny(req).(*kmsg.FetchResponse).Topics[0].Partitions[0]
		require.NotEmpty(t, got.RecordBatches)
		require.Equal(t, end+1, got.HighWatermark)
	}
	begin := time.Now()
	require.Empty(t, fetchOne(c, fetchFrom("t", id, 1, 0, 1, 30), 12).RecordBatches)
	require.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)
	two := fetchFrom("t", id, 1, 0, 1, 60_000)
	two.Topics[0].Partitions = append(two.Topics[0].Partitions, fetchFrom("t", id, 7, 0, 1, 0).Topics[0].Partitions...)
	c.send(two, 12)
	parts := c.receiveAny(two).(*kmsg.FetchResponse).Topics[0].Partitions
	require.Equal(t, kerr.UnknownTopicOrPartition.Code, parts[1].ErrorCode)
}

func TestFetchRefusals(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1))
	c := b.dial()
	require.Zero(t, produced(c, produceTo("t", id, -1, 5000, 0, someBatch("a", "b")), 9).ErrorCode)
	eachVersion(t, 1, func(t *testing.T, v int16) {
		code := func(f func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition)) int16 {
			req := fetchFrom("t", id, 0, 0, 1, 60_000)
			f(req, &req.Topics[0].Partitions[0])
			return fetchOne(c, req, v).ErrorCode
		}
		type part = kmsg.FetchRequestTopicPartition
		require.Equal(t, kerr.OffsetOutOfRange.Code, code(func(_ *kmsg.FetchRequest, p *part) { p.FetchOffset = 3 }))
		require.Equal(t, kerr.OffsetOutOfRange.Code, code(func(_ *kmsg.FetchRequest, p *part) { p.FetchOffset = -1 }))
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, code(func(_ *kmsg.FetchRequest, p *part) { p.Partition = 1 }))
		unknown := kerr.UnknownTopicOrPartition.Code
		if v >= 13 {
			unknown = kerr.UnknownTopicID.Code
		}
		require.Equal(t, unknown, code(func(r *kmsg.FetchRequest, _ *part) {
			r.Topics[0].Topic, r.Topics[0].TopicID = "no", [16]byte{}
		}))
		if v >= 9 {
			require.Equal(t, kerr.FencedLeaderEpoch.Code, code(func(_ *kmsg.FetchRequest, p *part) { p.CurrentLeaderEpoch = 2 }))
			require.Equal(t, kerr.UnknownLeaderEpoch.Code, code(func(_ *kmsg.FetchRequest, p *part) { p.CurrentLeaderEpoch = 4 }))
		}
		if v >= 12 {
			require.Equal(t, kerr.OffsetOutOfRange.Code, code(func(_ *kmsg.FetchRequest, p *part) { p.LastFetchedEpoch = 9 }))
		}
	})
}

func TestMetadataAtEveryVersion(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1), onBrokers(2, 1))
	c := b.dial()
	eachVersion(t, 3, func(t *testing.T, v int16) {
		req := kmsg.NewPtrMetadataRequest()
		req.IncludeTopicAuthorizedOperations, req.IncludeClusterAuthorizedOperations = true, true
		for _, name := range []string{"t", "t", "no"} {
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = kmsg.StringPtr(name)
			req.Topics = append(req.Topics, rt)
		}
		resp := ask[*kmsg.MetadataResponse](c, req, v)
		require.Len(t, resp.Brokers, 2)
		require.Len(t, resp.Topics, 2, "named twice, answered once")
		require.Equal(t, kerr.UnknownTopicOrPartition.Code, resp.Topics[1].ErrorCode)
		got := resp.Topics[0]
		require.Equal(t, "t", *got.Topic)
		require.Len(t, got.Partitions, 2)
		require.EqualValues(t, 2, got.Partitions[1].Leader)
		require.Equal(t, []int32{2, 1}, got.Partitions[1].Replicas)
		if v >= 7 {
			require.EqualValues(t, 3, got.Partitions[0].LeaderEpoch)
		}
		if v >= 8 {
			require.EqualValues(t, topicOperations, got.AuthorizedOperations)
			require.EqualValues(t, noAuthorizedOperations, resp.Topics[1].AuthorizedOperations)
		}
		if v >= 8 && v <= 10 {
			require.EqualValues(t, clusterOperations, resp.AuthorizedOperations)
		}
		if v >= 10 {
			require.Equal(t, [16]byte(id), got.TopicID)
		}
		none := kmsg.NewPtrMetadataRequest()
		none.Topics = []kmsg.MetadataRequestTopic{}
		want := 0
		if v == 0 {
			want = 1 // an empty list was all
		}
		require.Len(t, ask[*kmsg.MetadataResponse](c, none, v).Topics, want)
		if v < 10 {
			return
		}
		byID := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.TopicID = id
		byID.Topics = append(byID.Topics, rt)
		switch resp := ask[*kmsg.MetadataResponse](c, byID, v); {
		case v < 12:
			require.Equal(t, kerr.InvalidRequest.Code, resp.Topics[0].ErrorCode)
			require.Empty(t, resp.Brokers)
		default:
			require.Zero(t, resp.Topics[0].ErrorCode)
			require.Equal(t, "t", *resp.Topics[0].Topic)
		}
	})
}

func TestListOffsetsAtEveryVersion(t *testing.T) {
	b := startData(t)
	id := b.topic("t", nil, onBrokers(1))
	c := b.dial()
	require.Zero(t, produced(c, produceTo("t", id, -1, 5000, 0, someBatch("a", "b", "c")), 9).ErrorCode)
	p := onBrokers(1)
	p.LogStart = 1
	b.edit(func(e *metadata.Editor) { e.PutPartition(record.TopicPartition{Topic: id}, &p) })
	eachVersion(t, 2, func(t *testing.T, v int16) {
		for ts, want := range map[int64]struct {
			offset, time int64
			since        int16
		}{
			-1: {3, -1, 1}, -2: {1, -1, 1}, -3: {2, 1002, 7}, -4: {1, -1, 8}, -5: {-1, -1, 9}, -6: {-1, -1, 11},
			0: {1, 1001, 1}, 1001: {1, 1001, 1}, 1002: {2, 1002, 1}, 1003: {-1, -1, 1}, -7: {-1, -1, 99},
		} {
			req := kmsg.NewPtrListOffsetsRequest()
			req.ReplicaID = -1
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic = "t"
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Timestamp = ts
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
			got := ask[*kmsg.ListOffsetsResponse](c, req, v).Topics[0].Partitions[0]
			if v < want.since {
				require.Equal(t, kerr.UnsupportedVersion.Code, got.ErrorCode, ts)
				continue
			}
			require.Zero(t, got.ErrorCode, ts)
			require.Equal(t, []int64{want.offset, want.time}, []int64{got.Offset, got.Timestamp}, ts)
			if v >= 4 && want.offset >= 0 {
				require.EqualValues(t, 3, got.LeaderEpoch)
			}
		}
	})
}
