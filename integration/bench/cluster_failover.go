package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/fleet"
)

// failTopic is the topic whose leaders fail, of failPartitions.
const (
	failTopic      = "failover"
	failPartitions = 12
)

// outage measures one fault: how long until a survivor names new leaders for all
// that the broker led, and until a producer that was at work has its next ack
// from each of these partitions.
type outage struct {
	leader, ack float64 // seconds
}

// breakAndMend does harm to a broker, measures, and undoes it.
func (c *cluster) breakAndMend(ctx context.Context, victim *fleet.Broker, harm func() error, mend func(context.Context) error) (o outage, err error) {
	asked := c.survivor(victim)
	led, err := c.leaders(ctx, asked, failTopic)
	if err != nil {
		return o, err
	}
	var mine []int32
	for p, l := range led {
		if l == victim.ID {
			mine = append(mine, int32(p))
		}
	}
	if len(mine) == 0 {
		return o, fmt.Errorf("bench: broker %d leads nothing", victim.ID)
	}
	probe, err := c.startAcks(ctx, mine)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, probe.stop()) }()
	if err := probe.await(ctx, time.Now()); err != nil { // it is at work
		return o, err
	}
	began := time.Now()
	if err := harm(); err != nil {
		return o, err
	}
	o.leader, err = until(ctx, began, leaderPoll, func(ctx context.Context) (bool, error) { return c.takenOver(ctx, asked, victim, failTopic) })
	if err == nil {
		err = probe.await(ctx, began)
		o.ack = time.Since(began).Seconds()
	}
	if err != nil {
		return o, err
	}
	if err := mend(ctx); err != nil {
		return o, err
	}
	return o, c.rebalance(ctx)
}

// rebalance waits until the cluster is whole, and gives leaderships back.
func (c *cluster) rebalance(ctx context.Context) error {
	if err := c.whole(ctx); err != nil {
		return err
	}
	return c.electPreferred(ctx)
}

// acks is a producer that writes to some partitions without a pause.
type acks struct {
	client *kgo.Client
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	sent  map[int32]time.Time // when the newest record that was acked was sent
	moved chan struct{}
	err   error
}

// ackEvery is the pace in a partition.
const ackEvery = 5 * time.Millisecond

// startAcks begins to write, one record at a time in each partition.
func (c *cluster) startAcks(ctx context.Context, parts []int32) (*acks, error) {
	client, err := kgo.NewClient(append(append(c.ClientOptions(), eager()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProduceRequestTimeout(2*time.Second))...)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &acks{client: client, cancel: cancel, sent: make(map[int32]time.Time), moved: make(chan struct{}, 1)}
	for _, p := range parts {
		a.sent[p] = time.Time{}
		a.done.Go(func() { a.write(ctx, p) })
	}
	return a, nil
}

// write sends a record every ackEvery, or as soon as the one before it is acked.
func (a *acks) write(ctx context.Context, p int32) {
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		begin := time.Now()
		err := a.client.ProduceSync(ctx, &kgo.Record{Topic: failTopic, Partition: p, Value: []byte("x")}).FirstErr()
		a.mu.Lock()
		if err == nil {
			a.sent[p] = begin
		} else if ctx.Err() == nil && a.err == nil {
			a.err = fmt.Errorf("bench: produce to %s-%d, begun %v ago: %w", failTopic, p, time.Since(begin), err)
		}
		a.mu.Unlock()
		select {
		case a.moved <- struct{}{}:
		default:
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// await waits until each partition has acked a record that was sent after a time:
// an ack that was on its way when a fault began does not count.
func (a *acks) await(ctx context.Context, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		a.mu.Lock()
		err := a.err
		late := int32(-1)
		for p, at := range a.sent {
			if !at.After(since) {
				late = p
			}
		}
		a.mu.Unlock()
		if err != nil || late < 0 {
			return err
		}
		select {
		case <-a.moved:
		case <-ctx.Done():
			return fmt.Errorf("bench: %s-%d has no ack: %w", failTopic, late, ctx.Err())
		}
	}
}

func (a *acks) stop() error {
	a.cancel()
	a.done.Wait()
	a.client.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// failover is the row of new leaders.
func failover(ctx context.Context, e *Env) (figures []Figure, err error) {
	plain := outageFigures("kill -9 of a broker", 0.5)
	both := outageFigures("kill -9 of the broker that leads the metadata", 2)
	hole := outageFigures("blackhole of a broker", 4)
	worst := outageFigures("blackhole of the broker that leads the metadata", 4)
	meta := Figure{What: "new metadata leader after kill -9", Unit: "s", Target: &Target{Bound: 1.5}}
	all := func() []Figure { return slices.Concat(plain[:], both[:], []Figure{meta}, hole[:], worst[:]) }

	c, err := e.startCluster(ctx, false)
	if err == nil {
		err = c.killings(ctx, &plain, &both, &meta)
	}
	if err = errors.Join(err, c.end()); err != nil {
		return all(), err
	}
	c, err = e.startCluster(ctx, true)
	switch {
	case errors.Is(err, errCannot):
		for _, f := range []*[2]Figure{&hole, &worst} {
			f[0].Note, f[1].Note = err.Error(), err.Error()
		}
		return all(), nil
	case err == nil:
		err = c.blackholes(ctx, &hole, &worst)
	}
	return all(), errors.Join(err, c.end())
}

// outageFigures are the figures of a kind of fault: that of the target, and what
// a client sees of it.
func outageFigures(what string, bound float64) [2]Figure {
	return [2]Figure{
		{What: "new leaders after " + what, Unit: "s", Target: &Target{Bound: bound}},
		{What: "first acks after " + what, Unit: "s", Note: "of a franz-go producer that retries after 5 ms, waits for a connection for 1 s and for an answer for 3 s"},
	}
}

func (o outage) add(f *[2]Figure) {
	f[0].Values, f[1].Values = append(f[0].Values, o.leader), append(f[1].Values, o.ack)
}

func (c *cluster) killings(ctx context.Context, plain, both *[2]Figure, meta *Figure) error {
	if err := c.createTopic(ctx, failTopic, spread(failPartitions), map[string]string{"remote.storage.enable": "false"}); err != nil {
		return err
	}
	for range c.env.Runs {
		leader, err := c.Controller(ctx)
		if err != nil || leader == nil {
			return fmt.Errorf("bench: no metadata leader: %w", err)
		}
		victim := c.survivor(leader)
		o, err := c.breakAndMend(ctx, victim, victim.Kill, victim.Start)
		if err != nil {
			return err
		}
		o.add(plain)
		newLeader := make(chan measured, 1)
		o, err = c.breakAndMend(ctx, leader, func() error {
			if err := leader.Kill(); err != nil {
				return err
			}
			began := time.Now()
			go func() { newLeader <- c.newController(ctx, began, leader) }()
			return nil
		}, leader.Start)
		if err != nil {
			return err
		}
		o.add(both)
		m := <-newLeader
		if m.err != nil {
			return m.err
		}
		meta.Values = append(meta.Values, m.seconds)
		c.env.logf("  new leaders %.3f s, of the controller's partitions %.3f s, new controller %.3f s", last(plain[0].Values), last(both[0].Values), m.seconds)
	}
	return nil
}

func last(v []float64) float64 { return v[len(v)-1] }

// measured is a time, or why there is none.
type measured struct {
	seconds float64
	err     error
}

// newController waits until a survivor names another metadata leader.
func (c *cluster) newController(ctx context.Context, began time.Time, gone *fleet.Broker) measured {
	seconds, err := until(ctx, began, leaderPoll, func(ctx context.Context) (bool, error) {
		b, err := c.Controller(ctx, gone)
		return b != nil && b != gone, err
	})
	return measured{seconds, err}
}

func (c *cluster) blackholes(ctx context.Context, hole, worst *[2]Figure) error {
	if err := c.createTopic(ctx, failTopic, spread(failPartitions), map[string]string{"remote.storage.enable": "false"}); err != nil {
		return err
	}
	for range c.env.Runs {
		leader, err := c.Controller(ctx)
		if err != nil || leader == nil {
			return fmt.Errorf("bench: no metadata leader: %w", err)
		}
		for _, lost := range []struct {
			broker *fleet.Broker
			into   *[2]Figure
		}{{c.survivor(leader), hole}, {leader, worst}} {
			o, err := c.breakAndMend(ctx, lost.broker, func() error { return c.network.Isolate(lost.broker.Node) },
				func(context.Context) error { return c.network.HealAll() })
			if err != nil {
				return err
			}
			o.add(lost.into)
		}
		c.env.logf("  new leaders after a blackhole %.3f s, where it led the metadata %.3f s", last(hole[0].Values), last(worst[0].Values))
	}
	return nil
}
