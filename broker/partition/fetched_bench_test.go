package partition

import (
	"testing"

	"github.com/firnlog/firn/broker/replica"
)

// BenchmarkFollowerMovesWatermark is what an append with acks=all costs from its
// arrival until it is answered, where a follower's fetch moves the watermark: the log
// is in memory, and nothing crosses a wire.
func BenchmarkFollowerMovesWatermark(b *testing.B) {
	g := newGroup(b, map[string]string{"durability": "replicated"}, 1, 2)
	g.assign(1, 0, []int32{1, 2})
	p, raw := g.part(1), batch(1, plain())
	b.ReportAllocs()
	for b.Loop() {
		a := g.append(1, append([]byte(nil), raw...), true)
		at := replica.Position{Offset: p.Log().End(), LastEpoch: 0}
		res, err := p.Read(Read{From: at.Offset, Current: 0, LastFetched: at.LastEpoch, MaxBytes: 1 << 20, Replica: &ReplicaFetch{ID: 2, BrokerEpoch: 10}})
		if err != nil {
			b.Fatal(err)
		}
		res.Slice.Release()
		<-a.Owner.(*waiting).done
	}
}
