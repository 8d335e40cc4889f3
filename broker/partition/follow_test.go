package partition

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/internal/testlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// group is several brokers' sets in one process, over one image, with the network
// left out: a follower's position is read from the leader's partition.
type group struct {
	t     testing.TB
	topic record.TopicID
	tp    record.TopicPartition
	nodes map[int32]*member

	mu  sync.Mutex // guards img
	img *metadata.Image
}

type member struct {
	log testlog.Buffer
	metadata.Client
	g         *group
	id        int32
	fs        vfs.FS
	dir       *commitlog.Dir
	set       *Set
	follows   []Following
	remote    RemoteState
	proposals chan *command.AlterPartition // nil: they are carried out
}

func (m *member) Image() *metadata.Image {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	return m.g.img
}

// Propose is the metadata log: the compare-and-set on the partition epoch.
func (m *member) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	c := cmd.(*command.AlterPartition)
	if m.proposals != nil {
		select {
		case m.proposals <- c:
		case <-ctx.Done():
		}
		return command.Result{}, errors.New("nobody answers")
	}
	res := command.Result{Items: make([]command.ItemResult, len(c.Partitions))}
	for i, ch := range c.Partitions {
		p := *m.Image().Partition(ch.Partition)
		if p.Leader != m.id || p.LeaderEpoch != ch.LeaderEpoch || p.PartitionEpoch != ch.PartitionEpoch {
			res.Items[i].Err = command.ErrStalePartitionEpoch
			continue
		}
		p.ISR = nil
		for _, is := range ch.ISR {
			p.ISR = append(p.ISR, is.BrokerID)
		}
		p.PartitionEpoch++
		go m.g.edit(func(e *metadata.Editor) { e.PutPartition(ch.Partition, &p) })
	}
	return res, nil
}

func newGroup(t testing.TB, configs map[string]string, ids ...int32) *group {
	t.Helper()
	g := &group{t: t, img: metadata.Empty(), topic: record.NewTopicID(), nodes: make(map[int32]*member)}
	g.tp = record.TopicPartition{Topic: g.topic}
	for _, id := range ids {
		g.nodes[id] = &member{g: g, id: id, fs: vfs.NewMem()}
		g.open(id)
	}
	g.edit(func(e *metadata.Editor) {
		for _, id := range ids {
			e.PutBroker(&metadata.Broker{ID: id, Epoch: 10})
		}
		e.PutTopic(&metadata.Topic{ID: g.topic, Name: "t", Partitions: 1, Configs: configs})
	})
	return g
}

func (g *group) open(id int32) {
	m := g.nodes[id]
	var err error
	m.dir, err = commitlog.OpenDir(m.fs, "data", commitlog.DirOptions{BootID: "boot"})
	require.NoError(g.t, err)
	m.set = NewSet(SetOptions{NodeID: id, FS: m.fs, Dir: m.dir, FlushWorkers: 2, MaxFiles: 64, LagMax: 10 * time.Second, Meta: m,
		OnFatal: func(err error) { g.t.Errorf("fatal: %v", err) }, Logger: slog.New(slog.NewTextHandler(&m.log, nil)),
		OnFollow: func(_ *Partition, f Following) { m.follows = append(m.follows, f) },
		LastRemoteState: func(ctx context.Context, tp record.TopicPartition) (record.Offset, []manifest.EpochStart, []byte, error) {
			return m.remote(ctx, tp)
		}})
	g.t.Cleanup(func() { g.shut(id) })
}

func (g *group) shut(id int32) {
	m := g.nodes[id]
	require.NoError(g.t, m.set.Close(true))
	if m.dir != nil {
		require.NoError(g.t, m.dir.Close(true))
		m.dir = nil
	}
}

// restart closes a broker and opens it again.
func (g *group) restart(id int32) {
	g.shut(id)
	g.open(id)
	img := g.nodes[id].Image()
	g.nodes[id].set.Apply(metadata.Empty(), img, img.Everything())
}

func (g *group) edit(f func(*metadata.Editor)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.img.Edit()
	f(e)
	next, delta := e.Commit(g.img.Index() + 1)
	for _, m := range g.nodes {
		m.set.Apply(g.img, next, delta)
	}
	g.img = next
}

// assign puts the partition's state into the metadata.
func (g *group) assign(leader int32, epoch record.Epoch, isr []int32, more ...func(*metadata.Partition)) {
	g.edit(func(e *metadata.Editor) {
		p := &metadata.Partition{Replicas: []int32{1, 2, 3}[:len(g.nodes)], ISR: isr, Leader: leader, LeaderEpoch: epoch,
			PartitionEpoch: int32(epoch) * 100, RemoteEpoch: -1, LastKnownLeader: -1}
		if have := g.img.Partition(g.tp); have != nil {
			p.RemoteEnd, p.RemoteEpoch, p.LogStart = have.RemoteEnd, have.RemoteEpoch, have.LogStart
		}
		for _, f := range more {
			f(p)
		}
		e.PutPartition(g.tp, p)
	})
}

func (g *group) part(id int32) *Partition {
	p := g.nodes[id].set.Get(g.tp)
	require.NotNil(g.t, p)
	return p
}

func (g *group) append(id int32, raw []byte, all bool) *Append {
	w := &waiting{done: make(chan struct{})}
	a := &Append{Raw: raw, AcksAll: all, LeaderEpoch: -1, ZstdOK: true, Owner: w}
	g.part(id).Append(a)
	if !all {
		<-w.done
	}
	return a
}

// ask is one fetch of a follower, as the leader answers it.
func (g *group) ask(id int32, at replica.Position) (*Reply, error) {
	res, err := g.part(at.Leader).Read(Read{From: at.Offset, Current: at.LeaderEpoch, LastFetched: at.LastEpoch,
		MaxBytes: 1 << 20, AtLeastOne: true, Replica: &ReplicaFetch{ID: id, BrokerEpoch: 10}})
	rep := &Reply{At: at, Reply: replica.Reply{HighWatermark: res.State.HighWatermark, LogStart: res.State.LogStart}}
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange):
		rep.Kind = replica.ReplyOutOfRange
	case errors.Is(err, kerr.OffsetMovedToTieredStorage):
		rep.Kind = replica.ReplyTiered
	case err != nil:
		rep.Kind = replica.ReplyRefused
		return rep, err
	case res.Diverging != nil:
		rep.Kind, rep.DivergingEpoch, rep.DivergingEnd = replica.ReplyDiverging, res.Diverging.Epoch, res.Diverging.End
	default:
		raw, rerr := res.Slice.ReadAll(nil)
		require.NoError(g.t, rerr)
		res.Slice.Release()
		rep.Raw = raw
	}
	return rep, nil
}

// pull is one turn of a follower; it answers false when there was nothing to ask.
func (g *group) pull(id int32) bool {
	p := g.part(id)
	require.NoError(g.t, p.Log().Flush(context.Background()))
	at, ok := p.Position()
	if !ok {
		return false
	}
	rep, err := g.ask(id, at)
	require.NoError(g.t, err)
	_, err = p.OnReply(rep)
	require.NoError(g.t, err)
	return true
}

// settle lets a follower pull until it has all.
func (g *group) settle(ids ...int32) {
	for range 20 {
		for _, id := range ids {
			g.pull(id)
		}
	}
}

// bytesOf is all that a log holds from an offset on.
func (g *group) bytesOf(id int32, from record.Offset) []byte {
	l := g.part(id).Log()
	s, err := l.Read(from, l.End(), 1<<30, true)
	require.NoError(g.t, err)
	defer s.Release()
	raw, err := s.ReadAll(nil)
	require.NoError(g.t, err)
	return raw
}

func (g *group) same(from record.Offset, ids ...int32) {
	g.t.Helper()
	want := g.bytesOf(ids[0], from)
	for _, id := range ids[1:] {
		require.Equal(g.t, want, g.bytesOf(id, from), "broker %d has other bytes than %d", id, ids[0])
		require.Equal(g.t, g.part(ids[0]).Log().Producers(), g.part(id).Log().Producers())
	}
}

func TestFollowersCopyAndTheirFetchesAcknowledge(t *testing.T) {
	for _, durability := range []string{"fsync", "replicated"} {
		g := newGroup(t, map[string]string{"durability": durability}, 1, 2, 3)
		g.assign(1, 0, []int32{1, 2, 3})
		done := make([]*Append, 0, 10)
		for i := range 10 {
			done = append(done, g.append(1, batch(3, record.BuilderOptions{ProducerID: 5, BaseSequence: int32(3 * i)}), true))
		}
		require.NoError(t, g.part(1).Log().Flush(context.Background()))
		g.pull(2)
		g.pull(2)
		require.EqualValues(t, 0, g.part(1).State().HighWatermark, "the third has nothing yet")
		g.settle(2, 3)
		for _, a := range done {
			<-a.Owner.(*waiting).done
			require.NoError(t, a.Err)
		}
		g.same(0, 1, 2, 3)
		for id := range int32(3) {
			require.EqualValues(t, 30, g.part(id+1).State().HighWatermark)
		}
		require.Equal(t, []Following{{Leader: 1}}, g.nodes[2].follows)
		require.Empty(t, g.nodes[1].follows)
		require.Zero(t, g.part(2).Counters().Violations)
	}
}

// What was received is asked behind only when it is durable: the fetch is the
// acknowledgement.
func TestAFollowerDoesNotAskBehindWhatIsNotDurable(t *testing.T) {
	g := newGroup(t, map[string]string{"durability": "fsync"}, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	g.append(1, batch(3, plain()), false)
	p := g.part(2)
	ready := make(readiness, 100)
	p.SetPuller(ready)
	at, ok := p.Position()
	require.True(t, ok)
	rep, err := g.ask(2, at)
	require.NoError(t, err)
	p.log.SetConfig(commitlog.Config{Lazy: true}) // nothing syncs by itself
	_, err = p.OnReply(rep)
	require.NoError(t, err)
	require.EqualValues(t, 3, p.State().LogEnd)
	_, ok = p.Position()
	require.False(t, ok)
	require.NoError(t, p.log.Flush(context.Background()))
	<-ready
	at, ok = p.Position()
	require.True(t, ok)
	require.EqualValues(t, 3, at.Offset)
}

type readiness chan struct{}

func (r readiness) FollowReady(*Partition) {
	select {
	case r <- struct{}{}:
	default:
	}
}

// The leader of epoch 0 has a tail that nobody copied. Under the leader of epoch 1
// it cuts that off and takes what is there instead, producers included.
func TestADeposedLeaderIsCutWhereItDiverges(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	g.append(1, batch(5, plain()), false)
	g.settle(2)
	lost := g.append(1, batch(4, record.BuilderOptions{ProducerID: 9}), true)
	g.assign(2, 1, []int32{2})
	<-lost.Owner.(*waiting).done
	require.ErrorIs(t, lost.Err, kerr.NotLeaderForPartition)
	g.append(2, batch(2, record.BuilderOptions{ProducerID: 8}), false)
	g.settle(1)
	g.same(0, 1, 2)
	require.EqualValues(t, 7, g.part(1).State().LogEnd)
	require.Zero(t, g.part(1).Counters().BelowWatermark)
	require.Equal(t, []Following{{Leader: 2, Epoch: 1}}, g.nodes[1].follows)
	require.Equal(t, []Following{{Leader: 1, Epoch: 0}, {Leader: -1, Epoch: 1}}, g.nodes[2].follows)
	// Empty epochs are forgotten: 1 leads and writes nothing, then 2.
	g.assign(1, 2, []int32{1, 2})
	g.assign(2, 3, []int32{1, 2})
	g.settle(1)
	require.EqualValues(t, 1, g.part(1).Log().LastEpoch())
	g.append(2, batch(1, plain()), false)
	g.settle(1)
	g.same(0, 1, 2)
}

func TestARestartedFollowerGoesOn(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	g.append(1, batch(5, plain()), false)
	g.settle(2)
	g.restart(2)
	g.append(1, batch(5, plain()), false)
	g.settle(2)
	g.same(0, 1, 2)
	g.restart(1)
	g.settle(2)
	require.EqualValues(t, 10, g.part(1).State().HighWatermark)
}

// A replica behind the leader's local start has what it lacks in the bucket.
func TestAFollowerBelowTheLocalStartBeginsAtTheBucketsEnd(t *testing.T) {
	g := newGroup(t, map[string]string{"remote.storage.enable": "true"}, 1, 2)
	g.assign(1, 0, []int32{1})
	for i := range 3 {
		g.append(1, batch(5, record.BuilderOptions{ProducerID: 7, BaseSequence: int32(5 * i)}), false)
		_, err := g.part(1).Log().Roll()
		require.NoError(t, err)
		if i == 0 {
			g.pull(2) // it has the first 5
			g.pull(2)
		}
	}
	producers, err := g.part(1).Log().ProducerSnapshotAt(10)
	require.NoError(t, err)
	g.nodes[2].remote = bucketState{end: 10, epochs: []manifest.EpochStart{{Epoch: 0, Start: 0}}, producers: producers}.ask
	g.assign(1, 0, []int32{1}, func(p *metadata.Partition) { p.RemoteEnd, p.RemoteEpoch, p.PartitionEpoch = 10, 0, 1 })
	_, err = g.part(1).Trim(10)
	require.NoError(t, err)
	require.EqualValues(t, 5, g.part(2).State().LogEnd)
	g.pull(2)
	require.Eventually(t, func() bool { return g.part(2).State().LogEnd == 10 }, 10*time.Second, time.Millisecond)
	g.settle(2)
	g.same(10, 1, 2)
	// It leads, and knows what the bucket holds.
	g.assign(2, 1, []int32{2})
	require.EqualValues(t, 15, g.part(2).State().HighWatermark)
	w := g.append(2, batch(5, record.BuilderOptions{ProducerID: 7, BaseSequence: 5}), false)
	require.NoError(t, w.Err)
	require.EqualValues(t, 5, w.Base, "a duplicate of what is in the bucket")
}

func TestANewReplicaOfATieredTopicCopiesTheTailAlone(t *testing.T) {
	g := newGroup(t, map[string]string{"remote.storage.enable": "true"}, 1, 2)
	g.nodes[2].remote = bucketState{end: 10, epochs: []manifest.EpochStart{{Epoch: 0, Start: 0}}}.ask
	g.assign(1, 0, []int32{1}, func(p *metadata.Partition) { p.Replicas = []int32{1} })
	g.append(1, batch(10, plain()), false)
	g.append(1, batch(3, plain()), false)
	require.Nil(t, g.nodes[2].set.Get(g.tp))
	g.assign(1, 0, []int32{1}, func(p *metadata.Partition) { p.RemoteEnd, p.RemoteEpoch, p.PartitionEpoch = 10, 0, 1 })
	require.Eventually(t, func() bool { _, ok := g.part(2).Position(); return ok }, 10*time.Second, time.Millisecond)
	g.settle(2)
	require.EqualValues(t, 10, g.part(2).Log().Start())
	require.Equal(t, []commitlog.EpochStart{{Epoch: 0, Start: 0}}, g.part(2).Log().Epochs(), "as the bucket has them")
	g.same(10, 1, 2)
	require.Empty(t, g.nodes[2].set.Failed())
}

func TestAFollowerBehindTheLogStartBeginsThere(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1})
	g.append(1, batch(5, plain()), false)
	g.settle(2)
	g.append(1, batch(5, plain()), false)
	g.append(1, batch(5, plain()), false)
	// DeleteRecords up to the middle of a batch.
	g.assign(1, 0, []int32{1}, func(p *metadata.Partition) { p.LogStart, p.PartitionEpoch = 7, 1 })
	g.settle(2)
	require.EqualValues(t, 15, g.part(2).State().LogEnd)
	require.EqualValues(t, 7, g.part(2).State().LogStart)
	g.same(5, 1, 2)
}

func TestARepliesBatchesAreChecked(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 5, []int32{1, 2})
	g.append(1, batch(3, plain()), false)
	at, _ := g.part(2).Position()
	rep, err := g.ask(2, at)
	require.NoError(t, err)
	for name, spoil := range map[string]func([]byte){
		"flipped bit": func(b []byte) { b[len(b)-1] ^= 1 },
		"later epoch": func(b []byte) { b[15] = 6 },
		"old magic":   func(b []byte) { b[16] = 1 },
	} {
		bad := *rep
		bad.Raw = append([]byte(nil), rep.Raw...)
		spoil(bad.Raw)
		_, err := g.part(2).OnReply(&bad)
		require.ErrorIs(t, err, record.ErrCorrupt, name)
		require.EqualValues(t, 0, g.part(2).State().LogEnd)
	}
	_, err = g.part(2).OnReply(rep)
	require.NoError(t, err)
	out, err := g.part(2).OnReply(rep)
	require.NoError(t, err)
	require.Equal(t, replica.Drop, out.Step, "the same answer a second time")
}

func TestReplicaReadsAreFenced(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 3, []int32{1, 2})
	p := g.part(1)
	ask := func(id int32, epoch record.Epoch, life int64, from record.Offset, last record.Epoch) (ReadResult, error) {
		return p.Read(Read{From: from, Current: epoch, LastFetched: last, Replica: &ReplicaFetch{ID: id, BrokerEpoch: life}})
	}
	_, err := ask(2, 3, 10, 0, -1)
	require.NoError(t, err)
	_, err = ask(2, 2, 10, 0, -1)
	require.ErrorIs(t, err, kerr.FencedLeaderEpoch)
	_, err = ask(2, 4, 10, 0, -1)
	require.ErrorIs(t, err, kerr.UnknownLeaderEpoch)
	_, err = ask(2, 3, 9, 0, -1)
	require.ErrorIs(t, err, kerr.StaleBrokerEpoch)
	_, err = ask(7, 3, 10, 0, -1)
	require.ErrorIs(t, err, kerr.ReplicaNotAvailable)
	res, err := ask(2, 3, 10, 5, -1)
	require.NoError(t, err)
	require.Equal(t, &Diverging{Epoch: 3, End: 0}, res.Diverging, "beyond the end, with no epoch to tell by")
	_, err = g.part(2).Read(Read{From: 0, Current: 3, LastFetched: -1, Replica: &ReplicaFetch{ID: 1}})
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)
}

func TestAnyReplicaReadsToTheFollowersWatermark(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	g.append(1, batch(5, plain()), false)
	require.NoError(t, g.part(1).Log().Flush(context.Background()))
	g.pull(2)
	consume := func(from record.Offset) (ReadResult, error) {
		return g.part(2).Read(Read{From: from, Current: -1, LastFetched: -1, MaxBytes: 1000, AtLeastOne: true, AnyReplica: true})
	}
	res, err := consume(0)
	require.NoError(t, err)
	require.Zero(t, res.Slice.Bytes, "it has 5, but knows of none that it is committed")
	_, err = consume(5)
	require.ErrorIs(t, err, kerr.OffsetNotAvailable)
	g.settle(2)
	res, err = consume(0)
	require.NoError(t, err)
	require.NotZero(t, res.Slice.Bytes)
	res.Slice.Release()
	_, err = g.part(2).Read(Read{From: 0, Current: -1, LastFetched: -1})
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)
}

// A new leader does not tell a consumer that what it has read is not there.
func TestANewLeaderDoesNotTellAWatermarkBelowItsEpoch(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	g.append(1, batch(5, plain()), false)
	require.NoError(t, g.part(1).Log().Flush(context.Background()))
	g.pull(2)
	g.pull(2)
	require.EqualValues(t, 5, g.part(1).State().HighWatermark)
	g.restart(2) // it has forgotten what it learnt
	g.assign(2, 1, []int32{1, 2})
	_, err := read(g.part(2), 5)
	require.ErrorIs(t, err, kerr.OffsetNotAvailable)
	g.settle(1)
	_, err = read(g.part(2), 5)
	require.NoError(t, err)
}

type lease struct{ ended bool }

func (l *lease) Valid() bool { return !l.ended }

func TestALeaderWithoutLeaseAnswersNobodyButFollowers(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	l := &lease{}
	g.nodes[1].set.opts.Lease = l
	require.NoError(t, g.append(1, batch(1, plain()), false).Err)
	l.ended = true
	require.ErrorIs(t, g.append(1, batch(1, plain()), false).Err, kerr.NotLeaderForPartition)
	_, err := read(g.part(1), 0)
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)
	require.True(t, g.pull(2))
	require.EqualValues(t, 1, g.part(2).State().LogEnd)
}

// The ISR grows by a follower that has caught up, under the broker epoch that it
// was heard with, and many changes make one command.
func TestISRGrowsAndShrinksThroughTheMetadataLog(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1})
	g.append(1, batch(5, plain()), false)
	require.NoError(t, g.part(1).Log().Flush(context.Background()))
	g.settle(2)
	require.Eventually(t, func() bool { return g.part(1).InSync().InSync == 2 }, 10*time.Second, time.Millisecond)

	g.nodes[1].proposals = make(chan *command.AlterPartition, 1)
	g.part(1).tick(time.Now().Add(time.Minute), nil)
	select {
	case c := <-g.nodes[1].proposals:
		t.Fatalf("%+v, though nobody is behind", c)
	default:
	}
	g.append(1, batch(5, plain()), false)
	g.part(1).tick(time.Now().Add(2*time.Minute), nil)
	c := <-g.nodes[1].proposals
	require.EqualValues(t, 10, c.BrokerEpoch)
	require.Equal(t, []command.ISRMember{{BrokerID: 1, BrokerEpoch: -1}}, c.Partitions[0].ISR)
}

func TestAPartitionThatIsReassignedAwayLeavesNothing(t *testing.T) {
	g := newGroup(t, nil, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	g.append(1, batch(5, plain()), false)
	g.settle(2)
	g.assign(1, 1, []int32{1}, func(p *metadata.Partition) { p.Replicas = []int32{1} })
	require.Nil(t, g.nodes[2].set.Get(g.tp))
	left, err := g.nodes[2].dir.ListPartitions()
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, Following{Leader: -1, Epoch: 0}, g.nodes[2].follows[1])
	_, err = g.nodes[2].set.Lookup(g.tp)
	require.ErrorIs(t, err, kerr.NotLeaderForPartition)
	// It comes back, from nothing.
	g.assign(1, 2, []int32{1})
	require.EqualValues(t, 0, g.part(2).State().LogEnd)
	g.settle(2)
	g.same(0, 1, 2)
}

// Random leaderships, appends, restarts and pulls: whatever was acknowledged is in
// every later leader's log, and in the end all logs are the same, byte by byte.
func TestGroupOfSetsKeepsWhatWasAcknowledged(t *testing.T) {
	for range 5 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			g := newGroup(t, map[string]string{"durability": "replicated", "min.insync.replicas": "1"}, 1, 2, 3)
			leader, epoch := int32(1), record.Epoch(0)
			g.assign(1, 0, []int32{1, 2, 3})
			var acked, waiters []*Append
			next := map[int64]int32{}
			for range 150 {
				switch n := rng.IntN(20); {
				case n < 7:
					id := int64(rng.IntN(3))
					a := g.append(leader, batch(2, record.BuilderOptions{ProducerID: id, ProducerEpoch: int16(epoch), BaseSequence: next[id]}), true)
					next[id] += 2
					waiters = append(waiters, a)
				case n < 17:
					if id := int32(rng.IntN(3)) + 1; id != leader {
						g.pull(id)
					}
				case n < 19:
					g.restart(int32(rng.IntN(3)) + 1)
				default:
					leader, epoch = int32(rng.IntN(3))+1, epoch+1
					clear(next)
					g.assign(leader, epoch, []int32{1, 2, 3})
				}
				waiting := waiters[:0]
				for _, a := range waiters {
					select {
					case <-a.Owner.(interface{ Done() <-chan struct{} }).Done():
						if a.Err == nil {
							acked = append(acked, a)
						}
					default:
						waiting = append(waiting, a)
					}
				}
				waiters = waiting
				for _, a := range acked {
					require.Less(t, a.Base, g.part(leader).State().LogEnd, "lost at epoch %d", epoch)
				}
			}
			for range 30 {
				for id := range int32(3) {
					if id+1 != leader {
						g.pull(id + 1)
					}
				}
			}
			g.same(0, 1, 2, 3)
			for id := range int32(3) {
				c := g.part(id + 1).Counters()
				require.Zero(t, c.BelowWatermark)
				require.Zero(t, c.Violations)
			}
		})
	}
}

func (w *waiting) Done() <-chan struct{} { return w.done }
