package group

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/firnlog/firn/record"
	"github.com/stretchr/testify/require"
)

// nullLog takes everything and keeps nothing.
type nullLog struct{ *fakeLog }

func (nullLog) Append(_ int32, _ record.Epoch, _ []byte, done func(record.Offset, error)) {
	done(0, nil)
}

func benchCoordinator(b *testing.B) *Coordinator {
	c, err := New(Options{Log: nullLog{newFakeLog()}, Partitions: func() int32 { return 1 }, Config: DefaultConfig(), Logger: quiet()})
	require.NoError(b, err)
	b.Cleanup(c.Close)
	c.Lead(0, 1)
	for c.Stats().Partitions == 0 {
		runtime.Gosched()
	}
	return c
}

func BenchmarkCommit(b *testing.B) {
	for _, partitions := range []int{1, 12} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			c := benchCoordinator(b)
			req := &CommitRequest{Group: "g", Generation: -1, Retention: -1}
			for p := range partitions {
				req.Offsets = append(req.Offsets, OffsetCommit{Topic: "t", TopicID: record.NewTopicID(), Partition: int32(p), Offset: 1})
			}
			done := func(CommitResponse) {}
			b.ReportAllocs()
			for b.Loop() {
				c.Commit(req, done)
			}
		})
	}
}

func BenchmarkHeartbeat(b *testing.B) {
	c := benchCoordinator(b)
	s := c.shards[0]
	req := &HeartbeatRequest{Group: "g", MemberID: "m-1", Generation: 0}
	s.run(func(t *turn) {
		g := s.create("g", t)
		g.known = true
		m := &member{id: "m-1", clientID: "m"}
		m.update(joinRequest("g", "", "t"))
		g.classic.add(m, "consumer", nil)
		g.classic.state = Stable
	})
	done := func(error) {}
	b.ReportAllocs()
	for b.Loop() {
		c.Heartbeat(req, done)
	}
}

func BenchmarkReplay(b *testing.B) {
	log := newFakeLog()
	for i := range 1000 {
		bb := record.NewBuilder(record.BuilderOptions{})
		for p := range int32(100) {
			r := plainOffset(fmt.Sprintf("group-%d", i%100), "a-topic", p, int64(i))
			bb.Append(0, r.Key, r.Value)
		}
		log.write(0, 0, bb.Build())
	}
	b.ReportAllocs()
	for b.Loop() {
		r := newReplay()
		require.NoError(b, log.Scan(b.Context(), 0, r.batch))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/record")
}

// BenchmarkMemory reports what a group with 12 offsets takes.
func BenchmarkMemory(b *testing.B) {
	const groups = 10_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		c := benchCoordinator(b)
		for i := range groups {
			req := &CommitRequest{Group: fmt.Sprintf("group-%d", i), Generation: -1, Retention: -1}
			for p := range int32(12) {
				req.Offsets = append(req.Offsets, OffsetCommit{Topic: "t", Partition: p, Offset: 1})
			}
			c.Commit(req, func(CommitResponse) {})
		}
		b.ReportMetric(float64(heap()-before)/groups, "B/group")
		runtime.KeepAlive(c)
	}
}
