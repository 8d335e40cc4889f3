package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (a *app) benchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure throughput and latency of a broker"}
	cmd.AddCommand(a.benchProduce(), a.benchConsume(), a.benchCatchup())
	return cmd
}

// benchResult is what every bench prints. Bytes count keys and values.
type benchResult struct {
	Kind             string  `json:"kind"`
	Topic            string  `json:"topic"`
	Connections      int     `json:"connections"`
	Partitions       int     `json:"partitions"`
	Records          int64   `json:"records"`
	Bytes            int64   `json:"bytes"`
	Seconds          float64 `json:"seconds"`
	RecordsPerSecond float64 `json:"records_per_second"`
	BytesPerSecond   float64 `json:"bytes_per_second"`
	// FirstRecordMs is the time from the start to the first record read.
	FirstRecordMs float64 `json:"first_record_ms,omitempty"`
	// LatencyMs: produce, from the call to the ack; consume, from the record's
	// timestamp to its arrival, so the clocks must agree.
	LatencyMs *latencies `json:"latency_ms,omitempty"`
	// Settings of the generator, for the record.
	Settings map[string]any `json:"settings"`
}

func (a *app) printBench(r benchResult) error {
	return a.print(r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s %s: %s, %s in %.2f s with %s to %s\n", r.Kind, r.Topic, plural(int(r.Records), "record"), size(r.Bytes), r.Seconds, plural(r.Connections, "connection"), plural(r.Partitions, "partition"))
		fmt.Fprintf(w, "  %.0f records/s   %s/s\n", r.RecordsPerSecond, size(int64(r.BytesPerSecond)))
		if r.FirstRecordMs > 0 {
			fmt.Fprintf(w, "  first record after %.1f ms\n", r.FirstRecordMs)
		}
		if l := r.LatencyMs; l != nil {
			fmt.Fprintf(w, "  latency ms: mean %.2f  p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f\n", l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
		}
		return nil
	})
}

// benchLimits say when a bench ends: whichever comes first, 0 is no limit.
type benchLimits struct {
	records  int64
	duration time.Duration
}

func (l *benchLimits) register(cmd *cobra.Command, duration time.Duration) {
	cmd.Flags().Int64VarP(&l.records, "records", "n", 0, "stop after so many records; 0 is no limit")
	cmd.Flags().DurationVarP(&l.duration, "duration", "d", duration, "stop after so long; 0 is no limit")
}

// meter counts what the connections of a bench do.
type meter struct {
	began          time.Time
	records, bytes atomic.Int64
	firstNs        atomic.Int64 // from began to the first record; 0: none yet
	histogram      histogram

	mu  sync.Mutex
	err error
}

func (m *meter) count(records, bytes int64) {
	m.records.Add(records)
	m.bytes.Add(bytes)
}

// fail keeps the first error.
func (m *meter) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
}

func (m *meter) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *meter) result(r benchResult, took time.Duration) benchResult {
	r.Records, r.Bytes, r.Seconds = m.records.Load(), m.bytes.Load(), took.Seconds()
	if r.Seconds > 0 {
		r.RecordsPerSecond, r.BytesPerSecond = float64(r.Records)/r.Seconds, float64(r.Bytes)/r.Seconds
	}
	r.FirstRecordMs = float64(m.firstNs.Load()) / float64(time.Millisecond)
	r.LatencyMs = m.histogram.latencies()
	return r
}

// watch draws progress until the context ends. The returned function waits for
// the last of it.
func (m *meter) watch(ctx context.Context, p *progress, now func(*meter) int64) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				p.finish()
				return
			case <-tick.C:
				p.set(now(m))
			}
		}
	}()
	return func() { <-done }
}

// connections runs n workers with a client each and waits for all of them. One
// that fails stops the others: figures without it would be wrong.
func (a *app) connections(ctx context.Context, n int, m *meter, stop context.CancelFunc, opts func(i int) []kgo.Opt, work func(i int, client *kgo.Client) error) error {
	clients := make([]*kgo.Client, n)
	defer func() {
		for _, client := range clients {
			if client != nil {
				client.Close()
			}
		}
	}()
	for i := range clients {
		client, err := a.connect(ctx, opts(i)...)
		if err != nil {
			return err
		}
		clients[i] = client
	}
	m.began = time.Now()
	var wg sync.WaitGroup
	for i, client := range clients {
		wg.Go(func() {
			if err := work(i, client); err != nil {
				m.fail(err)
				stop()
			}
		})
	}
	wg.Wait()
	return m.failure()
}

// ensureTopic makes the topic of a bench unless it is there, and returns its
// number of partitions.
func (a *app) ensureTopic(ctx context.Context, topic string, partitions int32, replicas int16, configs map[string]string) (int, error) {
	client, err := a.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	askCtx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	values := make(map[string]*string, len(configs))
	for name, value := range configs {
		values[name] = &value
	}
	if _, err := admin.CreateTopic(askCtx, partitions, replicas, values, topic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return 0, refused("topic "+topic, err, "")
	}
	for {
		topics, err := admin.ListTopics(askCtx, topic)
		if err != nil {
			return 0, fmt.Errorf("describe %s: %w", topic, err)
		}
		t := topics[topic]
		if t.Err == nil && len(t.Partitions) > 0 && allLed(t) {
			return len(t.Partitions), nil
		}
		if t.Err != nil && !kerr.IsRetriable(t.Err) {
			return 0, refused("topic "+topic, t.Err, "")
		}
		select {
		case <-askCtx.Done():
			return 0, fmt.Errorf("topic %s: no leader for every partition in %s", topic, a.timeout)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func allLed(t kadm.TopicDetail) bool {
	for _, p := range t.Partitions {
		if p.Leader < 0 || p.Err != nil {
			return false
		}
	}
	return true
}
