package peer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/peer"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

func TestThreeBrokersReplicate(t *testing.T) {
	for _, durability := range []string{"fsync", "replicated"} {
		t.Run(durability, func(t *testing.T) {
			c := newCluster(t, nil, 1, 2, 3)
			c.create(6, map[string]string{"durability": durability}, 1, 2, 3)
			var wg sync.WaitGroup
			for n := range 6 {
				wg.Go(func() {
					for i := range 20 {
						c.acked(int32(n%3)+1, n, batch(3, record.BuilderOptions{ProducerID: int64(n), BaseSequence: int32(3 * i)}))
					}
				})
			}
			wg.Wait()
			for n := range 6 {
				c.same(n, 0, 1, 2, 3)
			}
			require.Equal(t, 4, c.nodes[1].pull.Following())
		})
	}
}

// A broker dies under load and comes back: what was acknowledged stays, and all
// logs are the same in the end.
func TestABrokerDiesAndComesBack(t *testing.T) {
	c := newCluster(t, nil, 1, 2, 3)
	c.create(3, nil, 1, 2, 3)
	for round := range 3 {
		for n := range 3 {
			c.acked(c.leader(n), n, batch(5, plain()))
		}
		dies := int32(round%3) + 1
		// A tail that nobody has but the one that dies.
		for n := range 3 {
			if c.leader(n) == dies {
				for _, other := range []int32{1, 2, 3} {
					if other != dies {
						c.cutOff(other, dies, true)
					}
				}
				c.produce(dies, n, batch(2, plain()))
			}
		}
		c.stop(dies, false)
		c.fenceOut(dies)
		for n := range 3 {
			c.acked(c.leader(n), n, batch(5, plain()))
		}
		for _, other := range []int32{1, 2, 3} {
			c.cutOff(other, dies, false)
		}
		c.start(dies)
		for n := range 3 {
			c.inSync(n, 3)
			c.same(n, 0, 1, 2, 3)
		}
		for n := range 3 {
			c.lead(n, int32(n)+1)
		}
	}
}

// cutOff closes the connections from one broker to another, and keeps them so.
func (c *cluster) cutOff(from, to int32, cut bool) {
	c.nodes[from].mu.Lock()
	c.nodes[from].cut[to] = cut
	c.nodes[from].mu.Unlock()
	if cut {
		b := c.nodes[to]
		b.mu.Lock()
		for conn := range b.conns {
			_ = conn.Close()
		}
		b.mu.Unlock()
	}
}

func (c *cluster) leader(n int) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.img.Partition(c.tp(n)).Leader
}

// Leaderships move and connections break at random under producers; nothing
// acknowledged is lost.
func TestLeadershipsMoveUnderLoad(t *testing.T) {
	c := newCluster(t, func(o *peer.Options) { o.Sessions = 2 }, 1, 2, 3)
	const parts = 4
	c.create(parts, map[string]string{"durability": "replicated"}, 1, 2, 3)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	ends := make([]record.Offset, parts)
	for n := range parts {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, done := c.produce(c.leader(n), n, batch(2, plain()))
				<-done
				if a.Err == nil {
					ends[n] = max(ends[n], a.Base+2)
				}
			}
		})
	}
	for range 40 {
		n := rand.IntN(parts)
		c.mu.Lock()
		isr := c.img.Partition(c.tp(n)).ISR
		c.mu.Unlock()
		from, to := int32(rand.IntN(3))+1, int32(rand.IntN(3))+1
		c.cutOff(from, to, true)
		c.lead(n, isr[rand.IntN(len(isr))])
		c.cutOff(from, to, false)
		c.ackedBySome(n)
	}
	close(stop)
	wg.Wait()
	for n := range parts {
		c.inSync(n, 3)
		c.same(n, 0, 1, 2, 3)
		require.GreaterOrEqual(t, c.part(1, n).State().LogEnd, ends[n], "acknowledged records of partition %d are lost", n)
	}
}

// ackedBySome produces until it is acknowledged, by whoever leads.
func (c *cluster) ackedBySome(n int) {
	for {
		a, done := c.produce(c.leader(n), n, batch(1, plain()))
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			c.t.Fatalf("partition %d is not acknowledged", n)
		}
		if a.Err == nil {
			return
		}
	}
}

// A partition that comes to a session whose request waits at the leader is not
// kept waiting with it.
func TestANewPartitionDoesNotWaitForAnIdlePoll(t *testing.T) {
	c := newCluster(t, func(o *peer.Options) { o.MaxWait = time.Minute }, 1, 2)
	c.create(2, nil, 1, 2)
	c.acked(1, 0, batch(1, plain()))
	c.acked(2, 1, batch(1, plain()))
	begun := time.Now()
	c.lead(1, 1) // 2's session with 1 is idle and waits for a minute
	c.acked(1, 1, batch(1, plain()))
	require.Less(t, time.Since(begun), 30*time.Second)
	c.same(1, 0, 1, 2)
}

// One partition cannot be followed; the others in its session do not notice.
func TestOneFailingPartitionHoldsUpNobody(t *testing.T) {
	c := newCluster(t, nil, 1, 2)
	c.create(2, nil, 1)
	c.join(0, 2)
	c.join(1, 2)
	c.cutOff(2, 1, true)
	_, done := c.produce(1, 0, batch(1, plain()))
	c.spoil(1, 0)
	c.cutOff(2, 1, false)
	for range 20 {
		c.acked(1, 1, batch(1, plain()))
	}
	c.same(1, 0, 1, 2)
	select {
	case <-done:
		t.Fatal("acknowledged without the follower")
	default:
	}
}

// spoil flips a bit of the last byte that a broker has of a partition.
func (c *cluster) spoil(id int32, n int) {
	b := c.nodes[id]
	f, err := b.fs.OpenReadWrite(b.fs.PathJoin(b.dir.PathOf(c.tp(n)), fmt.Sprintf("%020d.log", 0)), vfs.WriteCategoryUnspecified)
	require.NoError(c.t, err)
	st, err := f.Stat()
	require.NoError(c.t, err)
	last := make([]byte, 1)
	_, err = f.ReadAt(last, st.Size()-1)
	require.NoError(c.t, err)
	last[0] ^= 1
	_, err = f.WriteAt(last, st.Size()-1)
	require.NoError(c.t, err)
	require.NoError(c.t, f.Close())
}

// A follower far behind takes from the bucket what its leader has there alone.
func TestAFollowerBelowTheLocalStartBeginsAtTheBucketsEnd(t *testing.T) {
	c := newCluster(t, nil, 1, 2)
	c.create(1, map[string]string{"remote.storage.enable": "true"}, 1)
	for i := range 3 {
		c.acked(1, 0, batch(5, record.BuilderOptions{ProducerID: 7, BaseSequence: int32(5 * i)}))
		_, err := c.part(1, 0).Log().Roll()
		require.NoError(t, err)
	}
	producers, err := c.part(1, 0).Log().ProducerSnapshotAt(10)
	require.NoError(t, err)
	state := partition.RemoteState(func(context.Context, record.TopicPartition) (record.Offset, []manifest.EpochStart, []byte, error) {
		return 10, []manifest.EpochStart{{Epoch: 0, Start: 0}}, producers, nil
	})
	c.edit(func(e *metadata.Editor) {
		p := *c.img.Partition(c.tp(0))
		p.RemoteEnd, p.RemoteEpoch, p.PartitionEpoch = 10, 0, p.PartitionEpoch+1
		e.PutPartition(c.tp(0), &p)
	})
	_, err = c.part(1, 0).Trim(10)
	require.NoError(t, err)
	c.nodes[2].remote.Store(&state)
	c.edit(func(e *metadata.Editor) {
		p := *c.img.Partition(c.tp(0))
		p.Replicas, p.PartitionEpoch = []int32{1, 2}, p.PartitionEpoch+1
		e.PutPartition(c.tp(0), &p)
	})
	c.inSync(0, 2)
	c.same(0, 10, 1, 2)
	require.EqualValues(t, 10, c.part(2, 0).Log().Start())
	require.Equal(t, c.part(1, 0).Log().Producers(), c.part(2, 0).Log().Producers())
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("", func(t *testing.T) {
		c := newCluster(t, func(o *peer.Options) { o.MaxWait = time.Minute }, 1, 2, 3)
		c.create(9, nil, 1, 2, 3)
		c.acked(1, 0, batch(1, plain()))
		// The topic goes: the sessions have nothing left, and end with their connections.
		c.edit(func(e *metadata.Editor) { e.DeleteTopic(c.topic) })
		require.Eventually(t, func() bool {
			for _, b := range c.nodes {
				b.mu.Lock()
				n := len(b.conns)
				b.mu.Unlock()
				if n > 0 || b.pull.Following() > 0 {
					return false
				}
			}
			return true
		}, 10*time.Second, time.Millisecond)
	})
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 10*time.Second, time.Millisecond)
}

// Many partitions, few of them busy: a fetch names those alone.
func TestIdlePartitionsAreNotAskedAgain(t *testing.T) {
	c := newCluster(t, nil, 1, 2)
	c.create(400, map[string]string{"durability": "replicated"}, 1, 2)
	for n := range 400 {
		c.acked(int32(n%2)+1, n, batch(1, plain()))
	}
	before := c.nodes[2].pull.Stats()
	for range 20 {
		c.acked(1, 0, batch(1, plain()))
	}
	c.same(0, 0, 1, 2)
	after := c.nodes[2].pull.Stats()
	require.Equal(t, before.Sessions, after.Sessions)
	require.Equal(t, before.FailedReplies, after.FailedReplies)
}
