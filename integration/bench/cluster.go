package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/netns"
)

// clusterSize is how many brokers the cluster's rows run.
const clusterSize = 3

// cluster is a fleet and one client of it.
type cluster struct {
	*fleet.Fleet
	env     *Env
	network *netns.Network // nil on loopback
	client  *kgo.Client
}

// startCluster runs three brokers and waits until they are whole.
func (e *Env) startCluster(ctx context.Context, inNetwork bool, set ...string) (c *cluster, err error) {
	dir := e.path("cluster")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	c = &cluster{env: e}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.end())
		}
	}()
	if inNetwork {
		c.network, err = netns.New(fleet.Client)
		if errors.Is(err, netns.ErrCannot) {
			return c, fmt.Errorf("%w: %w", errCannot, err)
		}
		if err != nil {
			return c, err
		}
	}
	c.Fleet, err = fleet.New(fleet.Options{Program: e.Firn, Dir: dir, Brokers: clusterSize, Network: c.network,
		Set: append([]string{"log.level=warn"}, set...)})
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err = c.Start(ctx); err != nil {
		return c, fmt.Errorf("%w\n%s", err, c.LogTails(20))
	}
	// One that asks again at once: it measures the brokers and not its own pauses.
	c.client, err = kgo.NewClient(append(c.ClientOptions(), eager()...)...)
	return c, err
}

// eager are the options of a client that adds little to what it waits for.
func eager() []kgo.Opt {
	return []kgo.Opt{
		kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond }),
		kgo.MetadataMinAge(10 * time.Millisecond),
		kgo.UnknownTopicRetries(-1),
		kgo.DialTimeout(time.Second), kgo.RequestTimeoutOverhead(time.Second), // by default 10 s each
	}
}

// end kills what runs and removes the data.
func (c *cluster) end() error {
	if c == nil {
		return nil
	}
	var errs []error
	if c.client != nil {
		c.client.Close()
	}
	if c.Fleet != nil {
		errs = append(errs, c.Kill())
	}
	if c.network != nil {
		c.network.Close()
	}
	return errors.Join(append(errs, c.env.remove("cluster"))...)
}

// whole waits until the cluster is whole.
func (c *cluster) whole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return c.AwaitHealthy(ctx)
}

// createAssigned makes a topic whose partitions have the given replicas, the first
// of each its preferred leader.
func createAssigned(ctx context.Context, client *kgo.Client, name string, replicas [][]int32, configs map[string]string) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = int32(startLimit.Milliseconds())
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, -1, -1
	for p, r := range replicas {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(p), r
		topic.ReplicaAssignment = append(topic.ReplicaAssignment, a)
	}
	for k, v := range configs {
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = k, &v
		topic.Configs = append(topic.Configs, config)
	}
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("bench: create topic %s: %w", name, err)
	}
	return nil
}

// createTopic is createAssigned, and waits until every broker knows the topic.
func (c *cluster) createTopic(ctx context.Context, name string, replicas [][]int32, configs map[string]string) error {
	if err := createAssigned(ctx, c.client, name, replicas, configs); err != nil {
		return err
	}
	for _, b := range c.Living() { // they learn of it one after the other
		_, err := until(ctx, time.Now(), leaderPoll, func(ctx context.Context) (bool, error) {
			_, err := c.leaders(ctx, b, name)
			return err == nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// spread are the replicas of n partitions on all brokers, each the preferred leader
// in turns.
func spread(n int) [][]int32 {
	all := make([][]int32, n)
	for p := range all {
		for i := range clusterSize {
			all[p] = append(all[p], int32(1+(p+i)%clusterSize))
		}
	}
	return all
}

// leaders asks one broker for the leaders of a topic's partitions; -1 is none.
func (c *cluster) leaders(ctx context.Context, b *fleet.Broker, topic string) ([]int32, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, c.client.Broker(int(b.ID)))
	if err != nil { // the connection may be one to a broker's last life
		resp, err = req.RequestWith(ctx, c.client.Broker(int(b.ID)))
	}
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("bench: leaders of %s: %w", topic, err)
	}
	leaders := make([]int32, len(resp.Topics[0].Partitions))
	for _, p := range resp.Topics[0].Partitions {
		leaders[p.Partition] = p.Leader
	}
	return leaders, nil
}

// leaderPoll is how often brokers are asked whether there is a new leader.
const leaderPoll = 2 * time.Millisecond

// until asks again and again until done says so, and returns the time since
// began. Errors are those of brokers that are busy with a fault; the last one is
// told at the end of the wait.
func until(ctx context.Context, began time.Time, every time.Duration, done func(context.Context) (bool, error)) (seconds float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if ok {
			return time.Since(began).Seconds(), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("bench: not within %v: %w", startLimit, errors.Join(err, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}

// takenOver tells whether a broker says that each partition is led, and none by
// the one that is gone.
func (c *cluster) takenOver(ctx context.Context, asked, gone *fleet.Broker, topic string) (bool, error) {
	leaders, err := c.leaders(ctx, asked, topic)
	return err == nil && !slices.Contains(leaders, gone.ID) && !slices.Contains(leaders, -1), err
}

// survivor is a broker that is none of those given.
func (c *cluster) survivor(gone ...*fleet.Broker) *fleet.Broker {
	for _, b := range c.Living() {
		if !slices.Contains(gone, b) {
			return b
		}
	}
	return nil
}

// dataOf is the directory of a topic's partition on a broker.
func dataOf(b *fleet.Broker, topicID string, partition int) string {
	return filepath.Join(b.DataDir, topicID, fmt.Sprint(partition))
}

// dedicated is a client with connections of its own.
func (c *cluster) dedicated() (*kgo.Client, error) {
	client, err := kgo.NewClient(append(c.ClientOptions(), eager()...)...)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return client, nil
}
