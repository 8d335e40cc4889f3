package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/checker"
	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// administrator changes topics through a broker drawn for each request, once
// each: whatever is not answered has an unknown outcome.
type administrator struct {
	id      int
	c       *harness.Cluster
	r       *rand.Rand
	clients map[int32]*kgo.Client // by broker
	hist    *checker.History      // its clock alone

	mu  *sync.Mutex
	ops *[]checker.TopicOp
}

// adminTopics are few, so that administrators meet.
const adminTopics = 4

// only reaches one broker, and asks it once.
func only(t *testing.T, c *harness.Cluster, b *fleet.Broker) *kgo.Client {
	t.Helper()
	return c.Client(kgo.SeedBrokers(b.Kafka), kgo.RequestRetries(0), kgo.RetryTimeout(5*time.Second))
}

// step makes one change.
func (a *administrator) step(ctx context.Context, n int) {
	b := a.c.Brokers[a.r.IntN(len(a.c.Brokers))]
	op := checker.TopicOp{Client: a.id, Topic: fmt.Sprintf("meta-%d", a.r.IntN(adminTopics)), Via: b.ID, Value: fmt.Sprint(1_000_000 + 1000*n + a.id)}
	op.Action = []checker.TopicAction{checker.CreateTopic, checker.DeleteTopic, checker.SetConfig}[a.r.IntN(3)]
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	op.Begin = a.hist.Now()
	code, err := a.ask(ctx, a.clients[b.ID], &op)
	op.Finish = a.hist.Now()
	switch {
	case err != nil:
		op.Answer, op.Finish = checker.NoWord, 0
	case code == nil:
		op.Answer = checker.Done
	case errors.Is(code, kerr.TopicAlreadyExists):
		op.Answer = checker.Exists
	case errors.Is(code, kerr.UnknownTopicOrPartition):
		op.Answer = checker.Missing
	case errors.Is(code, kerr.InvalidReplicationFactor), errors.Is(code, kerr.NotController):
		op.Answer = checker.Refused // too few brokers are up, or none leads
	default: // such as REQUEST_TIMED_OUT
		op.Answer, op.Finish = checker.NoWord, 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	*a.ops = append(*a.ops, op)
}

// flushMs is the config that stands for the register.
const flushMs = "flush.ms"

// ask sends one request straight to the client's one broker.
func (a *administrator) ask(ctx context.Context, c *kgo.Client, op *checker.TopicOp) (code, err error) {
	const timeout = 4000 // ms
	seed := c.SeedBrokers()[0]
	switch op.Action {
	case checker.CreateTopic:
		req := kmsg.NewPtrCreateTopicsRequest()
		req.TimeoutMillis = timeout
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = op.Topic, 1, 3
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = flushMs, &op.Value
		topic.Configs = append(topic.Configs, config)
		req.Topics = append(req.Topics, topic)
		resp, err := seed.Request(ctx, req)
		if err != nil {
			return nil, err
		}
		return kerr.ErrorForCode(resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode), nil
	case checker.DeleteTopic:
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TimeoutMillis = timeout
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = &op.Topic
		req.Topics, req.TopicNames = append(req.Topics, topic), []string{op.Topic}
		resp, err := seed.Request(ctx, req)
		if err != nil {
			return nil, err
		}
		return kerr.ErrorForCode(resp.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode), nil
	default:
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		resource := kmsg.NewIncrementalAlterConfigsRequestResource()
		resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, op.Topic
		config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		config.Name, config.Op, config.Value = flushMs, kmsg.IncrementalAlterConfigOpSet, &op.Value
		resource.Configs = append(resource.Configs, config)
		req.Resources = append(req.Resources, resource)
		resp, err := seed.Request(ctx, req)
		if err != nil {
			return nil, err
		}
		return kerr.ErrorForCode(resp.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode), nil
	}
}

// TestMetadataHistory has administrators create, delete and change topics through
// all brokers while controllers are killed and cut off, and asks porcupine for an
// order that explains their answers. Reads come last, when all brokers have
// everything.
func TestMetadataHistory(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c := harness.StartCluster(t, harness.ClusterOptions{Network: true, Set: settings()})
	r := random(t)
	hist := checker.NewHistory(nil)
	var mu sync.Mutex
	var ops []checker.TopicOp
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for id := range 5 {
		a := &administrator{id: id, c: c, r: rand.New(rand.NewPCG(r.Uint64(), 2)), clients: map[int32]*kgo.Client{}, hist: hist, mu: &mu, ops: &ops}
		for _, b := range c.Brokers {
			a.clients[b.ID] = only(t, c, b)
		}
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				a.step(ctx, n)
			}
		})
	}
	await := func(more int) {
		t.Helper()
		mu.Lock()
		want := len(ops) + more
		mu.Unlock()
		harness.Eventually(t, harnessLimit, func() string {
			mu.Lock()
			defer mu.Unlock()
			if len(ops) < want {
				return fmt.Sprintf("%d of %d changes were answered or given up", len(ops), want)
			}
			return ""
		})
	}
	for range rounds(1, 8) {
		await(50)
		b := c.Controller()
		c.KillBroker(b)
		await(50)
		c.StartBroker(b)
		await(30)
		b = c.Controller()
		require.NoError(t, c.Network.Isolate(b.Node, c.Network.Node(fleet.Client)))
		await(50)
		require.NoError(t, c.Network.HealAll())
		await(30)
	}
	stop()
	wg.Wait()
	c.AwaitWhole()
	awaitSameMetadata(t, c)
	for _, b := range c.Brokers {
		client := only(t, c, b)
		for i := range adminTopics {
			ops = append(ops, readTopic(t, client, hist, b.ID, fmt.Sprintf("meta-%d", i)))
		}
	}
	answers := map[checker.TopicAnswer]int{}
	for _, op := range ops {
		answers[op.Answer]++
	}
	t.Logf("%d operations: %v", len(ops), answers)
	require.Positive(t, answers[checker.Done])
	require.NoError(t, checker.CheckMetadata(ops, time.Minute))
}

// awaitSameMetadata waits until every broker has what any of them has by now.
func awaitSameMetadata(t *testing.T, c *harness.Cluster) {
	t.Helper()
	newest := uint64(0)
	for _, look := range []bool{true, false} {
		for _, b := range c.Living() {
			harness.Eventually(t, harnessLimit, func() string {
				var h adminapi.ClusterHealth
				if err := b.GetJSON(t.Context(), adminapi.PathClusterHealth, &h); err != nil {
					return err.Error()
				}
				if look {
					newest = max(newest, h.MetadataIndex)
				} else if h.MetadataIndex < newest {
					return fmt.Sprintf("broker %d is at %d of %d", b.ID, h.MetadataIndex, newest)
				}
				return ""
			})
		}
	}
}

// readTopic asks a broker that has everything for the topic's register.
func readTopic(t *testing.T, c *kgo.Client, hist *checker.History, broker int32, name string) checker.TopicOp {
	t.Helper()
	op := checker.TopicOp{Client: 100 + int(broker), Topic: name, Via: broker, Action: checker.ReadTopic, Begin: hist.Now()}
	req := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName, resource.ConfigNames = kmsg.ConfigResourceTypeTopic, name, []string{flushMs}
	req.Resources = append(req.Resources, resource)
	resp, err := c.SeedBrokers()[0].Request(t.Context(), req)
	require.NoError(t, err)
	op.Finish = hist.Now()
	got := resp.(*kmsg.DescribeConfigsResponse).Resources[0]
	switch err := kerr.ErrorForCode(got.ErrorCode); {
	case err == nil:
		op.Answer, op.Value = checker.Done, *got.Configs[0].Value
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		op.Answer = checker.Missing
	default:
		require.NoError(t, err)
	}
	return op
}
