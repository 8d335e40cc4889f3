package raftnode

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
)

// BenchmarkCommits has 64 commands in flight over three voters on this machine's
// disk, each write synced: all on the leader, and over the three nodes. The aim is
// 2,000 a second.
func BenchmarkCommits(b *testing.B) {
	for name, spread := range map[string]int{"on the leader": 1, "on every node": 3} {
		b.Run(name, func(b *testing.B) {
			c := &testNodes{t: b, cables: map[[2]int]*cable{}, addrs: map[uuid.UUID]string{}, places: map[uuid.UUID]int{}, direct: true}
			dir := b.TempDir()
			for i := range 3 {
				c.add(nil, filepath.Join(dir, string(rune('a'+i))))
			}
			defer func() {
				for _, m := range c.members {
					c.close(m)
				}
			}()
			c.begin()
			lead := c.leader()
			nodes := append([]*member{lead}, c.others(lead)...)[:spread]
			res, err := lead.node.Propose(context.Background(), &command.RegisterBroker{BrokerID: 9, DirectoryID: uuid.New(), Incarnation: uuid.New()})
			require.NoError(b, err)
			cmd := &command.AllocateProducerIDs{BrokerID: 9, BrokerEpoch: res.BrokerEpoch}
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for w := range 64 {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := nodes[w%spread].node.Propose(context.Background(), cmd); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
