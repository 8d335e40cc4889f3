package fleet

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/netns"
)

// Options say how the brokers run.
type Options struct {
	Program string // path of firn
	Dir     string // existing directory for data and logs
	Brokers int    // that form the cluster; ids are 1 and up
	// Network is where they live: each broker gets a node b1, b2 ..., and clients
	// are the node of the name Client. nil is loopback.
	Network *netns.Network
	// Store is the object store's URL; empty is a directory below Dir.
	Store string
	// Env are variables over those of this process, and Set further settings,
	// each NAME=VALUE. A broker's own come after: see Broker.Set.
	Env, Set []string
}

// Client is the name of the node in Options.Network that clients are on.
const Client = "client"

// Fleet is the brokers of a cluster, running or not.
type Fleet struct {
	Brokers []*Broker

	opts   Options
	client *netns.Node // nil on loopback
	key    string      // of gossip
	base   int         // first port on loopback
}

// Ports of a node in a network, and on loopback how far they lie above the
// fleet's base, less the broker's number.
const (
	kafkaPort, adminPort, clusterPort, gossipPort = 9092, 9644, 9094, 7946
	kafkaStep, adminStep, clusterStep, gossipStep = 0, 10, 20, 30
	portsNeeded                                   = 40
	maxBrokers                                    = 10
)

// New lays out a fleet and starts nothing.
func New(o Options) (*Fleet, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	f := &Fleet{opts: o, key: base64.StdEncoding.EncodeToString(key)}
	if f.opts.Store == "" {
		f.opts.Store = "fs://" + filepath.Join(o.Dir, "objects")
	}
	if o.Network != nil {
		if f.client = o.Network.Node(Client); f.client == nil {
			return nil, fmt.Errorf("fleet: the network has no node %q", Client)
		}
	} else {
		var err error
		if f.base, err = freePorts(portsNeeded); err != nil {
			return nil, err
		}
	}
	for range o.Brokers {
		if _, err := f.Add(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Add lays out another broker, which joins those before it once it is started.
func (f *Fleet) Add() (*Broker, error) {
	i := len(f.Brokers)
	if i == maxBrokers {
		return nil, fmt.Errorf("fleet: %d brokers are the most", maxBrokers)
	}
	b := &Broker{ID: int32(i + 1), fleet: f}
	b.DataDir = filepath.Join(f.opts.Dir, "broker-"+strconv.Itoa(i+1))
	b.LogFile = b.DataDir + ".log"
	host := "127.0.0.1"
	port := func(inside, step int) int { return f.base + step + i }
	if f.opts.Network != nil {
		var err error
		if b.Node, err = f.opts.Network.Add("b" + strconv.Itoa(i+1)); err != nil {
			return nil, err
		}
		host = b.Node.Addr.String()
		port = func(inside, step int) int { return inside }
	}
	b.Kafka = net.JoinHostPort(host, strconv.Itoa(port(kafkaPort, kafkaStep)))
	b.Admin = net.JoinHostPort(host, strconv.Itoa(port(adminPort, adminStep)))
	b.Cluster = net.JoinHostPort(host, strconv.Itoa(port(clusterPort, clusterStep)))
	b.Gossip = net.JoinHostPort(host, strconv.Itoa(port(gossipPort, gossipStep)))
	if i == 0 {
		b.Join = b.Gossip
	} else {
		b.Join = f.Brokers[0].Gossip // each is told one peer's address
	}
	f.Brokers = append(f.Brokers, b)
	return b, nil
}

// Store is the URL of the brokers' object store.
func (f *Fleet) Store() string { return f.opts.Store }

// lowest and highest bound the ports handed out: below the range that Linux takes
// outgoing connections' ports from.
const lowest, highest = 12000, 32000

// freePorts finds n consecutive ports that nobody on loopback listened at a
// moment ago.
func freePorts(n int) (base int, err error) {
	var bad error
	for range 100 {
		draw, err := rand.Int(rand.Reader, big.NewInt(highest-lowest-int64(n)))
		if err != nil {
			return 0, fmt.Errorf("fleet: %w", err)
		}
		base = lowest + int(draw.Int64())
		if bad = tryPorts(base, n); bad == nil {
			return base, nil
		}
	}
	return 0, fmt.Errorf("fleet: no %d free ports: %w", n, bad)
}

func tryPorts(base, n int) error {
	for port := base; port < base+n; port++ {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return err
		}
		l.Close()
	}
	return nil
}

// Start starts all brokers at once and waits until they are a whole cluster.
func (f *Fleet) Start(ctx context.Context) error {
	for _, b := range f.Brokers {
		if err := b.Launch(); err != nil {
			return err
		}
	}
	return f.AwaitHealthy(ctx)
}

// Kill ends all brokers as kill -9 does.
func (f *Fleet) Kill() error {
	var errs []error
	for _, b := range f.Brokers {
		errs = append(errs, b.Kill())
	}
	return errors.Join(errs...)
}

// Seeds are the addresses that clients begin with.
func (f *Fleet) Seeds() []string {
	var seeds []string
	for _, b := range f.Brokers {
		if !b.Stranger {
			seeds = append(seeds, b.Kafka)
		}
	}
	return seeds
}

// DialContext connects to an address from where the clients are.
func (f *Fleet) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if f.client != nil {
		return f.client.Dial(ctx, network, addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// dialLimit is less than the seconds that an address takes whose packets vanish.
const dialLimit = 2 * time.Second

// ClientOptions reach the fleet from a franz-go client that is patient with
// brokers and impatient with connections.
func (f *Fleet) ClientOptions() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(f.Seeds()...),
		kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialLimit)
			defer cancel()
			return f.DialContext(ctx, network, addr)
		}),
		kgo.RetryTimeout(90 * time.Second),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(50 * time.Millisecond),
		// A connection that a kill cuts off before its first answer is no TLS port.
		kgo.AlwaysRetryEOF(),
		// What a cut swallows is asked again soon.
		kgo.RequestTimeoutOverhead(2 * time.Second),
	}
}

// Living are the brokers whose processes run.
func (f *Fleet) Living() []*Broker {
	var living []*Broker
	for _, b := range f.Brokers {
		if b.Running() {
			living = append(living, b)
		}
	}
	return living
}

// Broker finds a broker by id; nil if there is none.
func (f *Fleet) Broker(id int32) *Broker {
	if id < 1 || int(id) > len(f.Brokers) {
		return nil
	}
	return f.Brokers[id-1]
}

// LogTails are the ends of the brokers' logs, of the given number of lines.
func (f *Fleet) LogTails(lines int) string {
	var b strings.Builder
	for _, broker := range f.Brokers {
		text, err := os.ReadFile(broker.LogFile)
		if err != nil {
			text = []byte(err.Error())
		}
		all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		fmt.Fprintf(&b, "--- broker %d (%s):\n%s\n", broker.ID, broker.Kafka, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return b.String()
}
