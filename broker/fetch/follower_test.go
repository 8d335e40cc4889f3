package fetch

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// follows makes a session that of broker 2.
func (c *sessionReader) follows(throttle *Throttle) {
	c.resolve = func(parts []SessionPartition, wants []Want) []Want {
		from := len(wants)
		wants = c.b.resolve(parts, wants)
		for i := range wants[from:] {
			w := &wants[from+i]
			w.Read.Replica = &partition.ReplicaFetch{ID: 2, BrokerEpoch: -1}
			w.OutOfSync = !slices.Contains(c.b.image().Partition(w.TP).ISR, 2)
			w.Throttled = throttle
			w.Told = -1
		}
		return wants
	}
	c.follower = true
}

// ask begins a fetch that may wait.
func (c *sessionReader) ask(parts ...SessionPartition) (*Plan, <-chan []Got) {
	r, plan := c.request(parts)
	done := make(chan []Got, 1)
	r.Done = func(got []Got) { done <- got }
	c.s.Fetch(r)
	return plan, done
}

func isr(ids ...int32) *metadata.Partition {
	p := ledBy(1, 0)
	p.ISR = ids
	return p
}

// writeUnacked appends a record that the watermark may wait for.
func (b *node) writeUnacked(n int32, size int) {
	build := record.NewBuilder(record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
	build.Append(1, nil, make([]byte, size))
	done := make(outcome, 1)
	b.set.Get(b.tp(n)).Append(&partition.Append{Raw: build.Build(), LeaderEpoch: -1, Owner: done})
	require.NoError(b.t, <-done)
}

// A follower is woken by what is appended, before it is committed, and answered
// at once while it does not know the watermark.
func TestFollowerLearnsRecordsAndWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, 3)
		defer b.close()
		b.edit(func(e *metadata.Editor) {
			e.PutBroker(&metadata.Broker{ID: 2})
			for n := range int32(3) {
				e.PutPartition(b.tp(n), isr(1, 2))
			}
		})
		s := b.service(nil)
		defer s.Close()
		c := newSessionReader(b, s)
		c.follows(nil)
		c.wait = time.Hour
		key := SessionKey{Name: "t"}

		plan, done := c.ask(at(0, 0), at(1, 0), at(2, 0))
		require.Len(t, answer(plan, <-done), 3, "a full fetch tells the watermarks at once")
		plan, done = c.ask()
		synctest.Wait()
		require.Empty(t, done)
		require.Zero(t, c.readyCount())

		b.writeUnacked(0, 10)
		got := answer(plan, <-done)
		require.Len(t, got, 1)
		require.Positive(t, got[key].bytes)
		require.Zero(t, got[key].watermark, "it waits for the follower")

		plan, done = c.ask(at(0, 1))
		got = answer(plan, <-done)
		require.Zero(t, got[key].bytes)
		require.EqualValues(t, 1, got[key].watermark, "by its fetch all have the record")
		plan, done = c.ask()
		synctest.Wait()
		require.Empty(t, done)
		require.Zero(t, c.readyCount())

		// And again, from what it has told.
		b.writeUnacked(0, 10)
		require.Positive(t, answer(plan, <-done)[key].bytes)
		plan, done = c.ask()
		require.Positive(t, answer(plan, <-done)[key].bytes, "not asked beyond: read again")
		plan, done = c.ask(at(0, 2))
		require.EqualValues(t, 2, answer(plan, <-done)[key].watermark)

		// Out of sync, it is looked at by each fetch: by that it joins.
		b.edit(func(e *metadata.Editor) {
			next := isr(1)
			next.PartitionEpoch = 7
			e.PutPartition(b.tp(1), next)
		})
		c.wait = time.Minute
		plan, done = c.ask()
		begin := time.Now()
		require.Empty(t, answer(plan, <-done))
		require.Equal(t, time.Minute, time.Since(begin), "that is nothing to tell")
		require.Equal(t, 1, c.readyCount())
	})
}

// Without a session there is nobody to know what a follower was told: it is
// answered when the watermark moves, and not at once each time.
func TestFollowerWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, 1)
		defer b.close()
		s := b.service(nil)
		defer s.Close()
		b.write(0, 10)
		b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(0), isr(1, 2)) })
		wants := b.wants(1, 0)
		wants[0].Read.Replica, wants[0].Told = &partition.ReplicaFetch{ID: 2, BrokerEpoch: -1}, UnknownWatermark
		begin := time.Now()
		release(<-ask(t, s, &Request{Wants: wants, MinBytes: 1, MaxWait: time.Minute}))
		require.Equal(t, time.Minute, time.Since(begin))
		wants[0].Told = UnknownWatermark
		done := ask(t, s, &Request{Wants: wants, MinBytes: 1, MaxWait: time.Hour})
		synctest.Wait()
		require.Empty(t, done)
		b.writeUnacked(0, 10)
		got := <-done
		require.Positive(t, got[0].Bytes())
		release(got)
	})
}

// Followers that are not in sync wait for a throttle, those in sync do not.
func TestThrottleHoldsBackWhoIsNotInSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, 1)
		defer b.close()
		s := b.service(nil)
		defer s.Close()
		b.write(0, 10)
		throttle := NewThrottle()
		throttle.SetRate(100)
		wants := b.wants(0, 0)
		wants[0].Read.Replica, wants[0].Told = &partition.ReplicaFetch{ID: 2, BrokerEpoch: -1}, -1
		wants[0].OutOfSync, wants[0].Throttled = true, throttle
		bytes := func() int64 {
			got := <-ask(t, s, &Request{Ctx: context.Background(), Wants: wants, MinBytes: 1})
			defer release(got)
			require.NoError(t, got[0].Err)
			require.EqualValues(t, 1, got[0].State.LogEnd, "told all the same")
			return got[0].Bytes()
		}
		require.Positive(t, bytes())
		throttle.Sent(250)
		require.Zero(t, bytes())
		time.Sleep(time.Second) // of the bubble
		require.Zero(t, bytes(), "what was sent too much is to be made up for")
		time.Sleep(time.Second)
		require.Positive(t, bytes())
		throttle.Sent(1000)
		require.Zero(t, bytes())
		wants[0].OutOfSync = false
		require.Positive(t, bytes())
		wants[0].OutOfSync = true
		throttle.SetRate(0)
		require.Positive(t, bytes(), "no rate, no bound")
	})
}
