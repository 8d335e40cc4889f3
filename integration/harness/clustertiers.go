package harness

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/location"
)

// Objects are the segment objects in the cluster's bucket, with their sizes in
// bytes, as the bucket lists them: no broker is asked.
func (c *Cluster) Objects() map[string]int64 {
	c.t.Helper()
	store := c.openStore()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	objects := map[string]int64{}
	for o, err := range store.List(ctx, "", "") {
		c.must(err)
		if strings.Contains(o.Key, "/data/") {
			objects[o.Key] = o.Size
		}
	}
	c.must(store.Close())
	return objects
}

// openStore opens the bucket with the brokers' credentials.
func (c *Cluster) openStore() objstore.Store {
	c.t.Helper()
	var o location.Options
	for _, v := range c.opts.Env {
		switch name, value, _ := strings.Cut(v, "="); name {
		case "AWS_ACCESS_KEY_ID":
			o.AccessKey = value
		case "AWS_SECRET_ACCESS_KEY":
			o.SecretKey = value
		}
	}
	l, err := location.Parse(c.Store())
	c.must(err)
	store, err := l.Open(context.Background(), o)
	c.must(err)
	return store
}

// TierMap says where a topic's offsets are, as a broker sees those of its
// replicas.
func (c *Cluster) TierMap(b *fleet.Broker, topic string) adminapi.TierMap {
	c.t.Helper()
	var m adminapi.TierMap
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	c.must(b.GetJSON(ctx, adminapi.PathTierMap+"?topic="+url.QueryEscape(topic), &m))
	return m
}

// Tiers are the partitions of a topic as their leaders see them, in order.
func (c *Cluster) Tiers(topic string) []adminapi.PartitionMap {
	c.t.Helper()
	var all []adminapi.PartitionMap
	maps := map[int32]adminapi.TierMap{}
	for _, p := range c.Partitions(topic).Sorted() {
		m, asked := maps[p.Leader]
		if !asked {
			m = c.TierMap(c.Broker(p.Leader), topic)
			maps[p.Leader] = m
		}
		i := slices.IndexFunc(m.Partitions, func(x adminapi.PartitionMap) bool { return x.Partition == p.Partition })
		if i < 0 {
			c.t.Fatalf("broker %d leads %s-%d and knows nothing of its tiers", p.Leader, topic, p.Partition)
		}
		all = append(all, m.Partitions[i])
	}
	return all
}

// TierVerify has a broker read every object of a topic back, or of all topics
// where it is empty; it returns the problems, and how many objects were looked at.
func (c *Cluster) TierVerify(b *fleet.Broker, topic string) (problems []adminapi.VerifyEvent, objects int) {
	c.t.Helper()
	path := adminapi.PathTierVerify
	if topic != "" {
		path += "?topic=" + url.QueryEscape(topic)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterLimit)
	defer cancel()
	status, body, err := b.Ask(ctx, path)
	c.must(err)
	if status != http.StatusOK {
		c.t.Fatalf("verify by broker %d: status %d: %s", b.ID, status, body)
	}
	problems, objects, err = readVerify(string(body))
	c.must(err)
	return problems, objects
}

// Metric sums a broker's samples of a metric as Broker.Metric does.
func (c *Cluster) Metric(b *fleet.Broker, name string, labels ...string) float64 {
	c.t.Helper()
	var sum float64
	// A broker that is busy may not answer at once.
	Eventually(c.t, 10*time.Second, func() string {
		_, body, err := b.Get(context.Background(), "/metrics")
		if err == nil {
			sum, err = sumMetric(string(body), name, labels)
		}
		return errorText(err)
	})
	return sum
}
