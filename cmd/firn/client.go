package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/metadata/configdef"
)

// connect makes a client and sees that a broker answers, so that a wrong
// address is an error at once and not a time-out later.
func (a *app) connect(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	opts = append([]kgo.Opt{
		kgo.SeedBrokers(a.bootstrap...),
		kgo.WithHooks(strangers{stop}),
		kgo.ClientID("firn-cli"),
		kgo.SoftwareNameAndVersion("firn", softwareVersion()),
		kgo.DialTimeout(5 * time.Second),
		kgo.RetryTimeout(a.timeout),
		// A broker that is stopped, or what does not speak Kafka, may never answer at
		// all. The client tries each twice: two such leave time to ask another.
		kgo.RequestTimeoutOverhead(min(max(a.timeout/5, 100*time.Millisecond), 10*time.Second)),
	}, opts...)
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	pingCtx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if err := a.firstContact(pingCtx, client); err != nil {
		client.Close()
		if errors.Is(context.Cause(ctx), errNotKafka) {
			err = errNotKafka
		}
		return nil, &connectError{addresses: strings.Join(a.bootstrap, ","), flag: "--bootstrap-server", err: err}
	}
	return client, nil
}

// patience is how long one bootstrap server is waited for before the next is asked,
// too. The first may answer still.
const patience = time.Second

// firstContact finds a bootstrap server that answers and learns the brokers from it.
// One that takes connections and says nothing costs patience, and not the time that
// there is for all: Ping alone asks one after the other.
func (a *app) firstContact(ctx context.Context, client *kgo.Client) error {
	if first := firstAnswer(ctx, client.SeedBrokers()); first > 0 {
		addrs := slices.Clone(a.bootstrap)
		addrs[0], addrs[first] = addrs[first], addrs[0] // Ping begins there
		if err := client.UpdateSeedBrokers(addrs...); err != nil {
			return err
		}
	}
	return client.Ping(ctx)
}

// firstAnswer is the index of the server that answers first, 0 if none does. Each is
// asked when the one before has failed or not answered for patience.
func firstAnswer(ctx context.Context, servers []*kgo.Broker) int {
	if len(servers) < 2 {
		return 0
	}
	ctx, cancel := context.WithCancel(ctx)
	type answer struct {
		server int
		err    error
	}
	answers := make(chan answer, len(servers)) // nobody waits for the later ones
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asked, failed := 0, 0
	ask := func() {
		if asked < len(servers) {
			n := asked
			asked++
			asking.Go(func() { answers <- answer{n, probe(ctx, servers[n])} })
		}
	}
	next := time.NewTicker(patience)
	defer next.Stop()
	for ask(); failed < len(servers); {
		select {
		case got := <-answers:
			if got.err == nil {
				return got.server
			}
			failed++
			ask()
		case <-next.C:
			ask()
		case <-ctx.Done():
			return 0
		}
	}
	return 0
}

var errNotKafka = errors.New("it does not speak Kafka (is it the admin address?)")

// strangers ends the first contact with what answers, but not as a broker does: the
// client itself would try again for as long as it may.
type strangers struct{ stop context.CancelCauseFunc }

func (s strangers) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err != nil && strings.Contains(err.Error(), "response size") { // kgo has no type for it
		s.stop(errNotKafka)
	}
}

// withAdmin runs fn with an admin client and a context that ends after --timeout.
func (a *app) withAdmin(cmd *cobra.Command, fn func(ctx context.Context, admin *kadm.Client) error) error {
	client, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	admin := kadm.NewClient(client)
	admin.SetTimeoutMillis(int32(a.timeout.Milliseconds()))
	return fn(ctx, admin)
}

// connectError is a broker or admin server that could not be reached.
type connectError struct {
	addresses, flag string
	err             error
}

func (e *connectError) Unwrap() error { return e.err }

func (e *connectError) Error() string {
	switch {
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens on %s (connection refused); start a node with `firn dev`, or name a running one with %s", e.addresses, e.flag)
	case errors.Is(e.err, context.DeadlineExceeded), errors.Is(e.err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("no answer from %s in time: what runs there hangs, or is cut off; name another with %s", e.addresses, e.flag)
	}
	return fmt.Sprintf("cannot reach %s: %v; name another address with %s", e.addresses, e.err, e.flag)
}

// subjectError is a broker's refusal with what it was about.
type subjectError struct {
	subject string // "topic orders"
	err     error
	message string // the broker's own words, if any
}

func (e *subjectError) Unwrap() error { return e.err }

func (e *subjectError) Error() string {
	text := e.subject + ": "
	switch {
	case errors.Is(e.err, kerr.UnknownTopicOrPartition), errors.Is(e.err, kerr.UnknownTopicID):
		return text + "it does not exist; `firn topic list` shows what does"
	case errors.Is(e.err, kerr.TopicAlreadyExists):
		return text + "it exists already; `firn topic alter` changes it"
	case errors.Is(e.err, kerr.GroupIDNotFound):
		return text + "it does not exist; `firn group list` shows what does"
	case errors.Is(e.err, kerr.NonEmptyGroup):
		return text + "it has members; stop its consumers first"
	case errors.Is(e.err, kerr.InvalidTopicException) && e.message == "":
		return text + "no topic that one may use: names are 1 to 249 letters, digits, '.', '_' and '-', and topics that begin with __ are the broker's own"
	case errors.Is(e.err, kerr.MessageTooLarge):
		return text + "a record or batch is larger than its max.message.bytes; `firn topic alter TOPIC -c max.message.bytes=N` raises that"
	case errors.Is(e.err, kerr.KafkaStorageError):
		return text + "the broker cannot use the disk, which may be full or failing: its log says more (KAFKA_STORAGE_ERROR)"
	}
	var known *kerr.Error
	if !errors.As(e.err, &known) {
		return text + e.err.Error()
	}
	if e.message != "" {
		return fmt.Sprintf("%s%s (%s)", text, e.message, known.Message)
	}
	words := strings.TrimSuffix(known.Description, ".")
	return fmt.Sprintf("%s%s (%s)", text, strings.ToLower(words[:1])+words[1:], known.Message)
}

// refused wraps a broker's error; nil stays nil.
func refused(subject string, err error, message string) error {
	if err == nil {
		return nil
	}
	return &subjectError{subject: subject, err: err, message: message}
}

// explain finds better words for what reaches the top.
func explain(err error, a *app) error {
	var unreachable *connectError
	var op *net.OpError
	switch {
	case errors.As(err, &unreachable):
		return unreachable
	case errors.Is(err, syscall.ECONNREFUSED):
		// The cluster named a broker that is down: the address is not one of ours.
		if errors.As(err, &op) && op.Addr != nil && !slices.Contains(a.bootstrap, op.Addr.String()) {
			return fmt.Errorf("nothing listens on %s (connection refused), which is a broker's address as the cluster tells it: it is down, or cannot be reached there from here", op.Addr)
		}
		return &connectError{addresses: strings.Join(a.bootstrap, ","), flag: "--bootstrap-server", err: err}
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		what := strings.TrimSuffix(err.Error(), ": "+context.DeadlineExceeded.Error())
		return fmt.Errorf("%s: not done in time (--timeout %s); `firn cluster health` may say why", what, a.timeout)
	}
	return err
}

// patiently repeats a request while the broker says that it will do better soon:
// a coordinator that is still loading, a topic without a leader yet.
func patiently(ctx context.Context, request func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := request()
		var refusal *kerr.Error
		if !errors.As(err, &refusal) || !refusal.Retriable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func isExisting(err error) bool { return errors.Is(err, kerr.TopicAlreadyExists) }

// parseConfigs reads NAME=VALUE pairs.
func parseConfigs(pairs []string) (map[string]string, error) {
	configs := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is no setting: write NAME=VALUE, such as retention.ms=86400000", pair)
		}
		if _, twice := configs[name]; twice {
			return nil, fmt.Errorf("%s is set twice", name)
		}
		configs[name] = value
	}
	return configs, nil
}

// hintConfigs adds the nearest of the known settings to a broker's refusal of one
// that it does not know.
func hintConfigs(err error, names []string, known []*configdef.Key) error {
	// Of its own settings a broker says INVALID_REQUEST, of a topic's INVALID_CONFIG.
	if !errors.Is(err, kerr.InvalidConfig) && !errors.Is(err, kerr.InvalidRequest) {
		return err
	}
	words := make([]string, len(known))
	for i, k := range known {
		words[i] = k.Name
	}
	for _, name := range names {
		if slices.Contains(words, name) {
			continue
		}
		if near := configdef.Nearest(name, words); near != "" {
			return fmt.Errorf("%w; did you mean %s?", err, near)
		}
	}
	return err
}

// completionTimeout is how long a key press may wait for a broker.
const completionTimeout = 2 * time.Second

// completeTopics and completeGroups offer what the broker has. No broker, no
// offers: the shell has no place for an error.
func (a *app) completeTopics(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	_ = a.quickly(cmd, func(ctx context.Context, admin *kadm.Client) error {
		topics, err := admin.ListTopics(ctx)
		names = topics.Names()
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeGroups(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	_ = a.quickly(cmd, func(ctx context.Context, admin *kadm.Client) error {
		groups, err := admin.ListGroups(ctx)
		names = groups.Groups()
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeBrokers offers the ids of the registered brokers with their states.
func (a *app) completeBrokers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	var list adminapi.ClusterBrokers
	_ = a.adminJSON(ctx, adminapi.PathClusterBrokers, nil, &list) // no broker, no offers
	words := make([]string, len(list.Brokers))
	for i, b := range list.Brokers {
		words[i] = fmt.Sprintf("%d\t%s", b.ID, b.State)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) quickly(cmd *cobra.Command, fn func(context.Context, *kadm.Client) error) error {
	if cmd.Context() == nil {
		cmd.SetContext(context.Background())
	}
	a.timeout = completionTimeout
	return a.withAdmin(cmd, fn)
}
