package harness

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Client is a franz-go client of the broker, closed when the test ends.
func (b *Broker) Client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	all := append([]kgo.Opt{
		kgo.SeedBrokers(b.Addr),
		kgo.RetryTimeout(90 * time.Second),
		// A test that kills its broker does not want to wait out long pauses.
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(50 * time.Millisecond),
		// Without it, a connection that a kill cuts off before its first answer is
		// taken for one to a TLS port, and what it carried is given up.
		kgo.AlwaysRetryEOF(),
	}, opts...)
	c, err := kgo.NewClient(all...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// AdminClient is a franz-go admin client of the broker.
func (b *Broker) AdminClient(t testing.TB) *kadm.Client {
	t.Helper()
	return kadm.NewClient(b.Client(t))
}

// CreateTopic makes a topic with settings as name, value, name, value.
func (b *Broker) CreateTopic(t testing.TB, name string, partitions int32, settings ...string) {
	t.Helper()
	configs := make(map[string]*string)
	for i := 0; i+1 < len(settings); i += 2 {
		configs[settings[i]] = &settings[i+1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	resp, err := b.AdminClient(t).CreateTopics(ctx, partitions, 1, configs, name)
	if err = errors.Join(err, resp.Error()); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

// Ends are a topic's start and end offsets by partition.
func (b *Broker) Ends(t testing.TB, topic string) (starts, ends map[int32]int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	adm := b.AdminClient(t)
	starts, ends = make(map[int32]int64), make(map[int32]int64)
	first, err := adm.ListStartOffsets(ctx, topic)
	if err = errors.Join(err, first.Error()); err != nil {
		t.Fatalf("start offsets of %s: %v", topic, err)
	}
	last, err := adm.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, last.Error()); err != nil {
		t.Fatalf("end offsets of %s: %v", topic, err)
	}
	first.Each(func(o kadm.ListedOffset) { starts[o.Partition] = o.Offset })
	last.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return starts, ends
}
