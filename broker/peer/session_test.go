package peer

import (
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// follower is a broker that follows a leader which a test plays.
type follower struct {
	*fakeLeader
	t     testing.TB
	set   *partition.Set
	m     *Manager
	topic record.TopicID
	img   *metadata.Image
}

func newFollower(t testing.TB, partitions int, configs map[string]string, tune func(*Options)) *follower {
	t.Helper()
	return newFollowerOn(t, vfs.NewMem(), "data", partitions, configs, tune)
}

func newFollowerOn(t testing.TB, fs vfs.FS, path string, partitions int, configs map[string]string, tune func(*Options)) *follower {
	t.Helper()
	f := &follower{t: t, topic: record.NewTopicID(), img: metadata.Empty(),
		fakeLeader: &fakeLeader{requests: make(chan *kmsg.FetchRequest), replies: make(chan []byte)}}
	log := slog.New(slog.DiscardHandler)
	o := Options{NodeID: 2, BrokerEpoch: func() int64 { return 5 }, Dial: f.dial, Logger: log, Backoff: 50 * time.Millisecond,
		MaxWait: 100 * time.Millisecond}
	if tune != nil {
		tune(&o)
	}
	var err error
	f.m, err = New(o)
	require.NoError(t, err)
	dir, err := commitlog.OpenDir(fs, path, commitlog.DirOptions{BootID: "boot"})
	require.NoError(t, err)
	f.set = partition.NewSet(partition.SetOptions{NodeID: 2, FS: fs, Dir: dir, FlushWorkers: 2, MaxFiles: 64,
		LagMax: time.Hour, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }, Logger: log, OnFollow: f.m.Follow})
	t.Cleanup(func() {
		f.m.Close()
		require.NoError(t, f.set.Close(true))
		require.NoError(t, dir.Close(true))
	})
	if configs == nil {
		configs = map[string]string{"durability": "replicated"}
	}
	f.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: f.topic, Name: "t", Partitions: int32(partitions), Configs: configs})
		for n := range partitions {
			e.PutPartition(f.tp(n), &metadata.Partition{Replicas: []int32{1, 2}, ISR: []int32{1}, Leader: 1, LeaderEpoch: 3,
				RemoteEpoch: -1, LastKnownLeader: -1})
		}
	})
	return f
}

func (f *follower) tp(n int) record.TopicPartition {
	return record.TopicPartition{Topic: f.topic, Partition: int32(n)}
}

func (f *follower) edit(fn func(*metadata.Editor)) {
	e := f.img.Edit()
	fn(e)
	next, delta := e.Commit(f.img.Index() + 1)
	f.set.Apply(f.img, next, delta)
	f.img = next
}

// asks waits for the next request.
func (f *follower) asks() *kmsg.FetchRequest {
	f.t.Helper()
	select {
	case req := <-f.requests:
		return req
	case <-time.After(10 * time.Second):
		f.t.Fatal("nothing is asked")
		return nil
	}
}

// asksAll answers, with nothing, until a request names all these partitions
// together with those before it.
func (f *follower) asksAll(n int) {
	f.t.Helper()
	seen := make(map[int32]bool)
	for {
		for _, p := range positions(f.asks()) {
			seen[p.Partition] = true
		}
		f.answer(1, 0)
		if len(seen) == n {
			return
		}
	}
}

func positions(req *kmsg.FetchRequest) []kmsg.FetchRequestTopicPartition {
	if len(req.Topics) == 0 {
		return nil
	}
	return req.Topics[0].Partitions
}

// answer replies in a session, with an error for all if code is not 0.
func (f *follower) answer(session int32, code int16, parts ...kmsg.FetchResponseTopicPartition) {
	resp := kmsg.NewPtrFetchResponse()
	resp.Version, resp.SessionID, resp.ErrorCode = fetchVersion, session, code
	if len(parts) > 0 {
		t := kmsg.NewFetchResponseTopic()
		t.TopicID, t.Partitions = f.topic, parts
		resp.Topics = append(resp.Topics, t)
	}
	f.replies <- frame(resp)
}

func part(n int32, code int16, hw int64, records []byte) kmsg.FetchResponseTopicPartition {
	p := kmsg.NewFetchResponseTopicPartition()
	p.Partition, p.ErrorCode, p.HighWatermark, p.LogStartOffset, p.RecordBatches = n, code, hw, 0, records
	return p
}

// records is one batch of n records at an offset, under epoch 3.
func records(base record.Offset, n int) []byte {
	b := record.NewBuilder(record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
	for range n {
		b.Append(time.Now().UnixMilli(), []byte("k"), []byte("v"))
	}
	raw := b.Build()
	batch, err := record.ReadBatch(raw)
	if err != nil {
		panic(err)
	}
	batch.Stamp(base, 3)
	return raw
}

func TestIncrementalRequestsNameWhatHasChanged(t *testing.T) {
	f := newFollower(t, 3, nil, nil)
	f.asksAll(3)
	req := f.asks()
	require.EqualValues(t, 1, req.SessionID)
	require.Empty(t, req.Topics)
	f.answer(1, 0, part(1, 0, 0, records(0, 2)))
	req = f.asks()
	require.Len(t, positions(req), 1)
	p := positions(req)[0]
	require.EqualValues(t, 1, p.Partition)
	require.EqualValues(t, 2, p.FetchOffset)
	require.EqualValues(t, 3, p.LastFetchedEpoch)
	require.EqualValues(t, 3, p.CurrentLeaderEpoch)
	require.EqualValues(t, 2, req.ReplicaState.ID)
	require.EqualValues(t, 5, req.ReplicaState.Epoch)
	epoch := req.SessionEpoch
	f.answer(1, 0, part(1, 0, 2, nil))
	req = f.asks()
	require.Empty(t, req.Topics)
	require.Equal(t, epoch+1, req.SessionEpoch)
	require.EqualValues(t, 2, f.set.Get(f.tp(1)).State().HighWatermark)
	f.answer(1, 0)
}

func TestALostSessionIsBegunAnew(t *testing.T) {
	for name, reply := range map[string]func(*follower){
		"forgotten":    func(f *follower) { f.answer(0, kerr.FetchSessionIDNotFound.Code) },
		"wrong epoch":  func(f *follower) { f.answer(1, kerr.InvalidFetchSessionEpoch.Code) },
		"hung up":      func(f *follower) { f.replies <- nil },
		"malformed":    func(f *follower) { f.replies <- make([]byte, 9) },
		"refused":      func(f *follower) { f.answer(0, kerr.ClusterAuthorizationFailed.Code) },
		"short":        func(f *follower) { f.replies <- make([]byte, 5) },
		"cut in parts": func(f *follower) { f.replies <- frame(sample())[:40] },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFollower(t, 2, nil, nil)
			f.asksAll(2)
			require.NotZero(t, f.asks().SessionID)
			reply(f)
			req := f.asks()
			require.Zero(t, req.SessionID)
			require.Zero(t, req.SessionEpoch)
			require.Len(t, positions(req), 2, "all that it has")
			f.answer(9, 0)
			require.EqualValues(t, 9, f.asks().SessionID)
			f.answer(9, 0)
		})
	}
}

func TestWithoutASessionEachRequestIsFull(t *testing.T) {
	f := newFollower(t, 2, nil, nil)
	f.asksAll(2)
	f.asks()
	f.answer(0, kerr.FetchSessionIDNotFound.Code)
	for range 3 {
		req := f.asks()
		require.Zero(t, req.SessionID)
		require.Len(t, positions(req), 2)
		f.answer(0, 0)
	}
}

// A partition that its leader refuses is forgotten for a while, and asked for
// again; the others go on.
func TestARefusedPartitionBacksOffAlone(t *testing.T) {
	f := newFollower(t, 2, nil, nil)
	f.asksAll(2)
	f.asks()
	f.answer(1, 0, part(0, kerr.UnknownLeaderEpoch.Code, -1, nil), part(1, 0, 0, records(0, 1)))
	req := f.asks()
	require.Len(t, req.ForgottenTopics, 1)
	require.Equal(t, []int32{0}, req.ForgottenTopics[0].Partitions)
	require.Len(t, positions(req), 1)
	require.Less(t, req.MaxWaitMillis, int32(100), "the leader must not keep it beyond the pause")
	for {
		f.answer(1, 0)
		req = f.asks()
		if len(req.Topics) > 0 {
			break
		}
	}
	require.EqualValues(t, 0, positions(req)[0].Partition)
	f.answer(1, 0, part(0, 0, 0, records(0, 1)))
	f.asks()
	require.EqualValues(t, 1, f.set.Get(f.tp(0)).State().LogEnd)
	f.answer(1, 0)
}

// A reply of the epoch before changes nothing: the log is asked for anew.
func TestALateReplyIsDropped(t *testing.T) {
	f := newFollower(t, 1, nil, nil)
	f.asksAll(1)
	f.asks()
	f.edit(func(e *metadata.Editor) {
		p := *f.img.Partition(f.tp(0))
		p.LeaderEpoch, p.PartitionEpoch = 4, 1
		e.PutPartition(f.tp(0), &p)
	})
	f.answer(1, 0, part(0, 0, 5, records(0, 2)))
	req := f.asks()
	require.EqualValues(t, 0, f.set.Get(f.tp(0)).State().LogEnd)
	require.EqualValues(t, 4, positions(req)[0].CurrentLeaderEpoch)
	require.EqualValues(t, 0, positions(req)[0].FetchOffset)
	f.answer(1, 0)
}

// On a topic with durability=fsync nothing is acknowledged that a power loss could
// take: the next request comes after the flush.
func TestTheNextRequestComesAfterTheFlush(t *testing.T) {
	f := newFollower(t, 1, map[string]string{"durability": "fsync"}, nil)
	f.asksAll(1)
	for i := range 5 {
		f.asks()
		f.answer(1, 0, part(0, 0, 0, records(record.Offset(2*i), 2)))
		req := f.asks()
		st := f.set.Get(f.tp(0)).State()
		require.EqualValues(t, st.LogEnd, st.FlushedEnd)
		require.EqualValues(t, 2*i+2, positions(req)[0].FetchOffset)
		f.answer(1, 0)
	}
}

func TestThrottledPartitionsAreHeldBack(t *testing.T) {
	f := newFollower(t, 2, map[string]string{"durability": "replicated", "follower.replication.throttled.replicas": "0:2"},
		func(o *Options) { o.ThrottleRate = func() int64 { return 1 } })
	f.asksAll(2)
	f.asks()
	f.answer(1, 0, part(0, 0, 0, records(0, 5)), part(1, 0, 0, records(0, 5)))
	req := f.asks()
	require.Equal(t, []int32{0}, req.ForgottenTopics[0].Partitions, "overdrawn by far")
	require.Len(t, positions(req), 1)
	f.answer(1, 0)
}

// A leader that went silent is not waited for once nothing is wanted of it.
func TestASilentLeaderIsLeft(t *testing.T) {
	f := newFollower(t, 1, nil, func(o *Options) { o.MaxWait, o.Timeout = time.Minute, time.Hour })
	f.asksAll(1)
	f.asks() // and is never answered
	f.edit(func(e *metadata.Editor) {
		p := *f.img.Partition(f.tp(0))
		p.Leader, p.LeaderEpoch, p.PartitionEpoch = 2, 4, 1
		p.ISR = []int32{2}
		e.PutPartition(f.tp(0), &p)
	})
	f.m.mu.Lock()
	s := f.m.sessions[sessionKey{leader: 1}]
	f.m.mu.Unlock()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.running
	}, 10*time.Second, time.Millisecond)
	close(f.replies)
}

// BenchmarkFollow is one reply with one batch for each of 16 partitions, from the
// frame to the log.
func BenchmarkFollow(b *testing.B) {
	f := newFollowerOn(b, vfs.Default, b.TempDir(), 16, nil, nil)
	f.m.Close()
	go func() {
		for range f.requests {
		}
	}()
	s := newSession(f.m, sessionKey{leader: 1})
	l := &s.loop
	l.id = 1
	value := make([]byte, 16<<10)
	var parts []kmsg.FetchResponseTopicPartition
	for n := range 16 {
		p := f.set.Get(f.tp(n))
		s.parts[f.tp(n)] = &entry{p: p, tp: f.tp(n), asked: true}
		bb := record.NewBuilder(record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
		bb.Append(1, nil, value)
		parts = append(parts, part(int32(n), 0, 0, bb.Build()))
	}
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = fetchVersion
	t := kmsg.NewFetchResponseTopic()
	t.TopicID, t.Partitions = f.topic, parts
	resp.Topics = append(resp.Topics, t)
	whole := body(resp)
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		err := walkReply(whole, func(*replyHead) error { return nil }, func(r *partReply) error {
			e := s.parts[f.tp(int(r.Partition))]
			at, ok := e.p.Position()
			if !ok {
				b.Fatal("no position")
			}
			e.sent = at
			batch, err := record.ReadBatch(r.Records)
			if err != nil {
				return err
			}
			batch.Stamp(at.Offset, 3)
			return l.part(r)
		})
		if err != nil {
			b.Fatal(err)
		}
		clear(l.list)
		l.list = l.list[:0]
	}
}
