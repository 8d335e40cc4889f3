package harness

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/netns"
)

// ClusterOptions say how a cluster runs.
type ClusterOptions struct {
	Brokers int // default 3
	// Network puts each broker, and the clients, into a network namespace of its
	// own. It skips the test where that is not possible.
	Network bool
	// Store is the object store's URL; empty is a directory that all share. MinIO asks
	// for a bucket of the cluster's own on the test process's MinIO instead.
	Store    string
	MinIO    bool
	Env, Set []string
	// Disks are the sizes of file systems of their own for the brokers that have
	// them, by id; see Cluster.Disk.
	Disks map[int32]int64
	// MayPanic is the beginning of a panic's line that the test's faults excuse.
	MayPanic string
}

// Cluster is several brokers of one cluster, and what a test does with them: each
// method fails the test where the fleet's returns an error.
type Cluster struct {
	*fleet.Fleet
	Network *netns.Network // nil on loopback
	Disk    map[int32]*Disk

	t    testing.TB
	opts ClusterOptions
}

// clusterLimit bounds the forming of a cluster, and its becoming whole again
// after a fault.
const clusterLimit = 2 * time.Minute

// StartCluster runs a cluster and waits until it is whole.
func StartCluster(t testing.TB, o ClusterOptions) *Cluster {
	t.Helper()
	c := NewCluster(t, o)
	for _, b := range c.Brokers {
		c.must(b.Launch())
	}
	c.AwaitWhole()
	return c
}

// NewCluster prepares a cluster, not started.
func NewCluster(t testing.TB, o ClusterOptions) *Cluster {
	t.Helper()
	if o.Brokers == 0 {
		o.Brokers = 3
	}
	if o.MinIO {
		bk, s := NewBucket(t)
		o.Store, o.Env = bk.S3(s.Addr), append(slices.Clone(o.Env), bk.Env...)
	}
	c := &Cluster{t: t, opts: o, Disk: make(map[int32]*Disk)}
	fo := fleet.Options{Program: Binary(t), Dir: t.TempDir(), Brokers: o.Brokers, Store: o.Store, Env: o.Env, Set: o.Set}
	if o.Network {
		c.Network = NewNetwork(t, fleet.Client)
		fo.Network = c.Network
	}
	for id, size := range o.Disks {
		c.Disk[id] = NewDisk(t, size)
	}
	f, err := fleet.New(fo)
	c.must(err)
	c.Fleet = f
	for id, d := range c.Disk {
		c.Brokers[id-1].DataDir = filepath.Join(d.Dir, "data")
	}
	t.Cleanup(func() { c.end(o.MayPanic) })
	return c
}

// NewNetwork makes a network of namespaces for a test, or skips the test.
func NewNetwork(t testing.TB, nodes ...string) *netns.Network {
	t.Helper()
	n, err := netns.New(nodes...)
	if errors.Is(err, netns.ErrCannot) {
		t.Skipf("this test needs network namespaces: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// end kills what runs, looks through the logs, and keeps them if the test failed.
func (c *Cluster) end(mayPanic string) {
	if err := c.Kill(); err != nil {
		c.t.Error(err)
	}
	for _, b := range c.Brokers {
		lines, err := b.Panics()
		if err != nil {
			c.t.Error(err)
		}
		for _, line := range lines {
			if mayPanic == "" || !strings.HasPrefix(line, mayPanic) {
				c.t.Errorf("broker %d: %s", b.ID, line)
			}
		}
	}
	if !c.t.Failed() {
		return
	}
	dir, err := os.MkdirTemp("", "firn-failed-")
	if err != nil {
		c.t.Error(err)
		return
	}
	for _, b := range c.Brokers {
		log, err := os.ReadFile(b.LogFile)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(b.LogFile)), log, 0o600)
		}
		if err != nil {
			c.t.Error(err)
		}
	}
	c.t.Logf("the brokers' logs are kept in %s; their ends:\n%s", dir, c.LogTails(logTail/3))
}

// must fails the test, with where it stands, unless err is nil.
func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// AwaitWhole waits until all brokers that run serve and every partition has its
// full ISR.
func (c *Cluster) AwaitWhole() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clusterLimit)
	defer cancel()
	c.must(c.AwaitHealthy(ctx))
}

// StartBroker starts a broker and waits until it serves.
func (c *Cluster) StartBroker(b *fleet.Broker) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	c.must(b.Start(ctx))
}

// KillBroker ends a broker as kill -9 does.
func (c *Cluster) KillBroker(b *fleet.Broker) { c.t.Helper(); c.must(b.Kill()) }

// StopBroker stops a broker in order.
func (c *Cluster) StopBroker(b *fleet.Broker) { c.t.Helper(); c.must(b.Stop()) }

// AddBroker starts another broker, and waits until the cluster is whole with it.
func (c *Cluster) AddBroker() *fleet.Broker {
	c.t.Helper()
	b, err := c.Add()
	c.must(err)
	c.must(b.Launch())
	c.AwaitWhole()
	return b
}

// Client is a franz-go client of the cluster, closed when the test ends.
func (c *Cluster) Client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	client := c.OwnClient(opts...)
	c.t.Cleanup(client.Close)
	return client
}

// OwnClient is one that the caller closes.
func (c *Cluster) OwnClient(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	client, err := kgo.NewClient(append(c.ClientOptions(), opts...)...)
	c.must(err)
	return client
}

// CreateTopic makes a topic with settings as name, value, name, value.
func (c *Cluster) CreateTopic(name string, partitions int32, factor int16, settings ...string) {
	c.t.Helper()
	configs := make(map[string]*string)
	for i := 0; i+1 < len(settings); i += 2 {
		configs[settings[i]] = &settings[i+1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	client := c.Client()
	defer client.Close()
	resp, err := kadm.NewClient(client).CreateTopics(ctx, partitions, factor, configs, name)
	if err = errors.Join(err, resp.Error()); err != nil {
		c.t.Fatalf("create topic %s: %v", name, err)
	}
}

// Partitions are a topic's partitions as the cluster's metadata has them.
func (c *Cluster) Partitions(topic string) kadm.PartitionDetails {
	c.t.Helper()
	var parts kadm.PartitionDetails
	client := c.Client()
	defer client.Close()
	adm := kadm.NewClient(client)
	Eventually(c.t, startLimit, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		all, err := adm.Metadata(ctx, topic)
		if err != nil {
			return err.Error()
		}
		parts = all.Topics[topic].Partitions
		if err := errors.Join(all.Topics[topic].Err, partitionErrors(parts)); err != nil || len(parts) == 0 {
			return "no partitions yet: " + errorText(err)
		}
		return ""
	})
	return parts
}

func partitionErrors(parts kadm.PartitionDetails) error {
	var errs []error
	for _, p := range parts {
		errs = append(errs, p.Err)
	}
	return errors.Join(errs...)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Leader is the broker that leads a partition.
func (c *Cluster) Leader(topic string, partition int32) *fleet.Broker {
	c.t.Helper()
	return c.Broker(c.Partitions(topic)[partition].Leader)
}

// AwaitLeader waits until a partition has a leader that is none of those given.
func (c *Cluster) AwaitLeader(topic string, partition int32, limit time.Duration, but ...*fleet.Broker) *fleet.Broker {
	c.t.Helper()
	var leader *fleet.Broker
	client := c.Client()
	defer client.Close()
	adm := kadm.NewClient(client)
	Eventually(c.t, limit, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		all, err := adm.Metadata(ctx, topic)
		if err != nil {
			return err.Error()
		}
		leader = c.Broker(all.Topics[topic].Partitions[partition].Leader)
		if leader == nil {
			return "there is no leader"
		}
		for _, x := range but {
			if leader == x {
				return "the old broker leads"
			}
		}
		return ""
	})
	return leader
}

// Controller is the broker that leads the metadata.
func (c *Cluster) Controller() *fleet.Broker {
	c.t.Helper()
	var leader *fleet.Broker
	Eventually(c.t, startLimit, func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		leader, err = c.Fleet.Controller(ctx)
		if err != nil {
			return err.Error()
		}
		if leader == nil {
			return "there is no controller"
		}
		return ""
	})
	return leader
}
