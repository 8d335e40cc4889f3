package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type benchReadOptions struct {
	benchLimits
	connections                int
	fetchBytes, partitionBytes int32
	committed                  bool
	from                       string
}

func (o *benchReadOptions) register(cmd *cobra.Command, duration time.Duration) {
	f := cmd.Flags()
	o.benchLimits.register(cmd, duration)
	f.IntVar(&o.connections, "connections", 1, "clients, each with a connection and a share of the partitions")
	f.Int32Var(&o.fetchBytes, "fetch-bytes", 50<<20, "most bytes in one fetch")
	f.Int32Var(&o.partitionBytes, "partition-bytes", 1<<20, "most bytes of a partition in one fetch")
	f.BoolVar(&o.committed, "read-committed", false, "leave out records of transactions that are open or aborted")
}

func (a *app) benchConsume() *cobra.Command {
	var o benchReadOptions
	cmd := &cobra.Command{
		Use: "consume TOPIC", Short: "Read new records as they come and time their way", Args: cobra.ExactArgs(1),
		Long:              "Read new records as they come and time their way: from the record's timestamp, which the\nproducer's clock made, to its arrival here. Run `firn bench produce` beside it.",
		Example:           "  firn bench consume bench --connections 4 -d 30s",
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.from = "latest"
			return a.runBenchRead(cmd.Context(), "consume", args[0], o)
		},
	}
	o.register(cmd, 10*time.Second)
	return cmd
}

func (a *app) benchCatchup() *cobra.Command {
	var o benchReadOptions
	cmd := &cobra.Command{
		Use: "catchup TOPIC", Short: "Read a topic's history as fast as it comes", Args: cobra.ExactArgs(1),
		Long:              "Read from --from to the end that the topic has at the start, as fast as it comes. Beside a\ntiered topic this measures the object store, the second time the cache.",
		Example:           "  firn bench catchup bench --connections 4 -o json",
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runBenchRead(cmd.Context(), "catchup", args[0], o)
		},
	}
	o.register(cmd, 0)
	cmd.Flags().StringVar(&o.from, "from", "earliest", "where to begin: "+positionHelp)
	return cmd
}

// readPlan is what each connection reads.
type readPlan struct {
	starts  []map[int32]int64 // by connection
	ends    map[int32]int64   // nil: follow
	offsets int64             // between starts and ends
}

// planRead shares the partitions out in turn. More connections than partitions
// are of no use and are left out.
func (a *app) planRead(ctx context.Context, topic string, o benchReadOptions, follow bool) (readPlan, error) {
	from, err := parsePosition(o.from, a.now())
	if err != nil {
		return readPlan{}, fmt.Errorf("--from: %w", err)
	}
	client, err := a.connect(ctx)
	if err != nil {
		return readPlan{}, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	askCtx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	b, err := readBounds(askCtx, admin, topic, o.committed)
	if err != nil {
		return readPlan{}, err
	}
	starts, err := from.resolve(askCtx, admin, topic, b)
	if err != nil {
		return readPlan{}, err
	}
	plan := readPlan{starts: make([]map[int32]int64, min(o.connections, len(starts)))}
	for p := range int32(len(starts)) {
		share := &plan.starts[int(p)%len(plan.starts)]
		if *share == nil {
			*share = map[int32]int64{}
		}
		(*share)[p] = starts[p]
		plan.offsets += b.end[p] - starts[p]
	}
	if !follow {
		plan.ends = b.end
	}
	return plan, nil
}

func (a *app) runBenchRead(ctx context.Context, kind, topic string, o benchReadOptions) error {
	if o.connections < 1 || o.fetchBytes < 1 || o.partitionBytes < 1 {
		return errors.New("--connections, --fetch-bytes and --partition-bytes: at least 1")
	}
	follow := kind == "consume"
	plan, err := a.planRead(ctx, topic, o, follow)
	if err != nil {
		return err
	}
	partitions := 0
	for _, share := range plan.starts {
		partitions += len(share)
	}
	m := &meter{}
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.duration > 0 {
		runCtx, cancel = context.WithTimeout(runCtx, o.duration)
		defer cancel()
	}
	total := o.records
	if !follow && (total == 0 || plan.offsets < total) {
		total = plan.offsets
	}
	watchCtx, stopWatching := context.WithCancel(ctx)
	wait := m.watch(watchCtx, a.newProgress(kind, total, func(n int64) string { return fmt.Sprintf("%d records", n) }),
		func(m *meter) int64 { return m.records.Load() })
	isolation := consumeOptions{committed: o.committed}.isolation()
	err = a.connections(ctx, len(plan.starts), m, cancel, func(i int) []kgo.Opt {
		places := make(map[int32]kgo.Offset, len(plan.starts[i]))
		for p, offset := range plan.starts[i] {
			if follow || offset < plan.ends[p] {
				places[p] = kgo.NewOffset().At(offset)
			}
		}
		return []kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: places}), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords(),
			kgo.FetchMaxBytes(o.fetchBytes), kgo.FetchMaxPartitionBytes(o.partitionBytes), kgo.BrokerMaxReadBytes(max(100<<20, 2*o.fetchBytes))}
	}, func(i int, client *kgo.Client) error {
		return m.read(runCtx, client, plan.tracker(i), o.records, cancel)
	})
	took := time.Since(m.began)
	stopWatching()
	wait()
	if err != nil {
		return err
	}
	if follow && m.records.Load() == 0 {
		a.note("no record came: consume times what is written while it runs; `firn bench catchup %s` reads what is there", topic)
	}
	return a.printBench(m.result(benchResult{Kind: kind, Topic: topic, Connections: len(plan.starts), Partitions: partitions, Settings: map[string]any{
		"fetch_bytes": o.fetchBytes, "partition_bytes": o.partitionBytes, "from": o.from, "read_committed": o.committed,
	}}, took))
}

// tracker is the end tracker of one connection; nil to follow.
func (p readPlan) tracker(i int) *endTracker {
	if p.ends == nil {
		return nil
	}
	ends := make(map[int32]int64, len(p.starts[i]))
	for partition := range p.starts[i] {
		ends[partition] = p.ends[partition]
	}
	return newEndTracker(p.starts[i], ends)
}

// read counts records until the ends, the limit or the context. Followed
// records are timed; stop ends the other connections once the limit is reached.
func (m *meter) read(ctx context.Context, client *kgo.Client, ends *endTracker, limit int64, stop context.CancelFunc) error {
	for ends == nil || ends.left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetchError(ctx, fetches); errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			break // time is up
		} else if err != nil {
			return err
		}
		now := time.Now()
		var records, bytes int64
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			wanted := ends == nil || ends.seen(r.Partition, r.Offset)
			if !wanted || r.Attrs.IsControl() {
				continue
			}
			records++
			bytes += int64(len(r.Key) + len(r.Value))
			if ends == nil {
				m.histogram.record(now.Sub(r.Timestamp))
			}
		}
		if records > 0 {
			m.firstNs.CompareAndSwap(0, max(1, int64(now.Sub(m.began))))
		}
		m.count(records, bytes)
		if limit > 0 && m.records.Load() >= limit {
			stop()
			return nil
		}
	}
	return nil
}
