package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/integration/probe/load"
)

// trio is a cluster of three brokers of either kind, with ids from 1 on.
type trio struct {
	addrs  []string
	pid    func(i int) int
	kill   func(i int) error
	start  func(ctx context.Context, i int) error // again, until it answers
	client *kgo.Client
	topics int // created so far
}

// kafkaTrio runs three Apache Kafka brokers that are controllers too.
func (e *Env) kafkaTrio(ctx context.Context) (t *trio, end func() error, err error) {
	var ports, controllers, voters []string
	t = &trio{}
	for i := range clusterSize {
		for _, list := range []*[]string{&ports, &controllers} {
			addr, err := freeAddr()
			if err != nil {
				return nil, nil, err
			}
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, nil, err
			}
			*list = append(*list, port)
		}
		t.addrs = append(t.addrs, net.JoinHostPort("127.0.0.1", ports[i]))
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%s", i+1, controllers[i]))
	}
	procs := make([]*process, clusterSize)
	begin := func(i int) (err error) {
		procs[i], err = start(fmt.Sprintf("Apache Kafka %d", i+1), []string{
			fmt.Sprintf("KAFKA_NODE=%d", i+1), "KAFKA_VOTERS=" + strings.Join(voters, ","), "KAFKA_CLUSTER_ID=" + benchClusterID,
		}, e.Kafka, ports[i], e.path(fmt.Sprintf("kafka-%d", i+1)), controllers[i])
		return err
	}
	await := func(ctx context.Context, i int) error {
		return procs[i].await(ctx, pollEvery, func(ctx context.Context) error { return load.Ping(ctx, t.addrs[i]) })
	}
	t.pid = func(i int) int { return procs[i].pid() }
	t.kill = func(i int) error { return procs[i].kill() }
	t.start = func(ctx context.Context, i int) error { return errors.Join(begin(i), await(ctx, i)) }
	end = func() error {
		var errs []error
		for _, p := range procs {
			if p != nil {
				errs = append(errs, p.kill())
			}
		}
		return errors.Join(errs...)
	}
	for i := range procs {
		if err := begin(i); err != nil {
			return nil, nil, errors.Join(err, end())
		}
	}
	for i := range procs {
		if err := await(ctx, i); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errNoKafka, errors.Join(err, end()))
		}
	}
	return t, end, nil
}

// benchClusterID is what the brokers of the bench's Kafka cluster are formatted
// with.
const benchClusterID = "ZmlybmJlbmNoLWthZmthMQ"

// firnTrio makes one of a fleet.
func firnTrio(c *cluster) *trio {
	t := &trio{addrs: c.Seeds()}
	t.pid = func(i int) int { return c.Brokers[i].Pid() }
	t.kill = func(i int) error { return c.Brokers[i].Kill() }
	t.start = func(ctx context.Context, i int) error { return c.Brokers[i].Start(ctx) }
	return t
}

// newTopic creates a topic with the given replicas of each partition, and waits
// until all are in sync and led.
func (t *trio) newTopic(ctx context.Context, prefix string, replicas [][]int32, configs map[string]string) (string, error) {
	t.topics++
	name := fmt.Sprintf("%s-%d", prefix, t.topics)
	if err := createAssigned(ctx, t.client, name, replicas, configs); err != nil {
		return "", err
	}
	return name, t.whole(ctx, name)
}

// whole waits until all replicas of a topic are in sync and every partition is
// led.
func (t *trio) whole(ctx context.Context, topic string) error {
	admin := kadm.NewClient(t.client)
	_, err := until(ctx, time.Now(), pollEvery, func(ctx context.Context) (bool, error) {
		described, err := admin.ListTopics(ctx, topic)
		if err == nil {
			err = described.Error()
		}
		if err != nil {
			return false, err
		}
		for _, p := range described[topic].Partitions {
			if len(p.ISR) != clusterSize || p.Leader < 0 {
				return false, fmt.Errorf("bench: %s-%d has leader %d and %v in sync", topic, p.Partition, p.Leader, p.ISR)
			}
		}
		ends, err := admin.ListEndOffsets(ctx, topic)
		return err == nil && ends.Error() == nil, errors.Join(err, ends.Error())
	})
	return err
}

// produce loads all brokers at once, at factor 3, and returns throughput and the
// CPU time of the three for 1 GB.
func (t *trio) produce(ctx context.Context, configs map[string]string, bytes int64) (mbps, cpu float64, err error) {
	topics := make([]string, clusterSize)
	for i := range topics {
		topics[i], err = t.newTopic(ctx, "load", ledBy(i, clusterSize), configs)
		if err != nil {
			return 0, 0, err
		}
	}
	defer func() {
		_, derr := kadm.NewClient(t.client).DeleteTopics(context.WithoutCancel(ctx), topics...)
		err = errors.Join(err, derr)
	}()
	var meters []*probe.Meter
	for i := range t.addrs {
		m, err := probe.StartMeter(t.pid(i))
		if err != nil {
			return 0, 0, err
		}
		meters = append(meters, m)
	}
	taken, wall, err := loadAll(ctx, t.addrs, topics, bytes)
	if err != nil {
		return 0, 0, err
	}
	for _, m := range meters {
		u, err := m.Stop()
		if err != nil {
			return 0, 0, err
		}
		cpu += cpuPerGB(u.Target, taken)
	}
	return mbPerSecond(taken, wall), cpu, nil
}

// pauseAfterKill kills a broker with SIGKILL under a paced producer, whose client asks
// again at once, and returns how long the unluckiest record took. Then the broker
// is started again.
func (t *trio) pauseAfterKill(ctx context.Context, topic string, i int) (seconds float64, err error) {
	l, err := startPaced(topic, append(eager(), kgo.SeedBrokers(t.addrs...))...)
	if err != nil {
		return 0, err
	}
	err = l.acked(ctx)
	if err == nil {
		err = t.kill(i)
	}
	if err != nil {
		_, errs := l.stop()
		return 0, errors.Join(append(errs, err)...)
	}
	// Whoever is to notice and to lead has long done so by then.
	err = l.acked(ctx)
	latencies, errs := l.stop()
	if err := errors.Join(append(errs, err)...); err != nil {
		return 0, fmt.Errorf("bench: records were given up: %w", err)
	}
	if err := t.start(ctx, i); err != nil {
		return 0, err
	}
	return slices.Max(latencies).Seconds(), t.whole(ctx, topic)
}

// peerCluster is the row of three brokers of each, one cluster after the other:
// both at once would share the cores.
func peerCluster(ctx context.Context, e *Env) (figures []Figure, err error) {
	size := e.bytes(1e9)
	const warm = 1_000_000_000
	if err := e.room(6 * (warm + int64(e.Runs)*size)); err != nil {
		return nil, err
	}
	const who = "Apache Kafka"
	speed := Figure{What: "produce at factor 3, three brokers, 12 partitions, acks=all, page cache", Unit: "MB/s", RawWhat: who}
	cpu := Figure{What: "CPU of the three brokers for 1 GB of that", Unit: "s", RawWhat: who}
	pause := Figure{What: "longest wait of a record after kill -9 of a broker, 500 records a second to 12 partitions", Unit: "s", RawWhat: who}

	measure := func(t *trio, configs map[string]string, speed, cpu, pause *[]float64) (err error) {
		if t.client, err = kgo.NewClient(append(eager(), kgo.SeedBrokers(t.addrs...))...); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		defer t.client.Close()
		if _, _, err := t.produce(ctx, configs, warm); err != nil {
			return err
		}
		for range e.Runs {
			s, c, err := t.produce(ctx, configs, size)
			if err != nil {
				return err
			}
			*speed, *cpu = append(*speed, s), append(*cpu, c)
		}
		topic, err := t.newTopic(ctx, "pause", spread(failPartitions), configs)
		if err != nil {
			return err
		}
		for run := range e.Runs {
			p, err := t.pauseAfterKill(ctx, topic, run%clusterSize)
			if err != nil {
				return err
			}
			*pause = append(*pause, p)
			e.logf("  pause after kill -9: %s s", number(p))
		}
		return nil
	}

	c, err := e.startCluster(ctx, false)
	if err == nil {
		err = measure(firnTrio(c), pageCache, &speed.Values, &cpu.Values, &pause.Values)
	}
	if err = errors.Join(err, c.end()); err != nil {
		return nil, err
	}
	t, end, err := e.kafkaTrio(ctx)
	if err != nil {
		return nil, err
	}
	err = measure(t, map[string]string{"min.insync.replicas": "2", "segment.bytes": "1073741824"}, &speed.Raw, &cpu.Raw, &pause.Raw)
	return []Figure{speed, cpu, pause}, errors.Join(err, end())
}
