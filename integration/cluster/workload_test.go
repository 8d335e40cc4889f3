package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/time/rate"

	"github.com/firnlog/firn/integration/checker"
	"github.com/firnlog/firn/integration/harness"
)

const (
	partitions = 4
	producers  = 2 // each writes to all partitions
	members    = 2 // of the consumer group
	groupName  = "g"
	topicName  = "t"
	// recordBytes and perSecond (of each producer in each partition) fill a
	// segment in a few seconds, so that segments are on their way to the bucket
	// at any time.
	recordBytes = 1000
	perSecond   = 120
	// window is how many records of a producer in a partition wait for acks.
	window = 64
)

// tiered are the settings of a topic whose segments soon leave the disk.
var tiered = []string{"remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", "1048576"}

// workload is clients of every kind on one topic, and what they saw:
//
//   - idempotent producers with acks=all that never give a record up;
//   - a consumer group whose members commit every poll;
//   - a reader that follows all partitions, and one that reads the replicas in its
//     rack (KIP-392);
//   - an administrator who asks for ends and for committed offsets.
type workload struct {
	t    *testing.T
	c    *harness.Cluster
	hist *checker.History
	file *bufio.Writer

	stopSend, stopRead context.CancelFunc
	sending, reading   sync.WaitGroup
	acked              [partitions]atomic.Int64
	lastAck            [partitions]atomic.Int64 // history time
	longest            [partitions]atomic.Int64 // ns between two acks
	moved              chan struct{}            // holds a token after an ack

	mu     sync.Mutex
	err    error
	groups map[int32]int64 // next offset by partition that the group has committed
}

// startWorkload makes the topic and begins.
func startWorkload(t *testing.T, c *harness.Cluster, settings ...string) *workload {
	t.Helper()
	c.CreateTopic(topicName, partitions, int16(min(3, len(c.Brokers))), append(slices.Clone(tiered), settings...)...)
	path := filepath.Join(t.TempDir(), "history.jsonl")
	f, err := os.Create(path)
	require.NoError(t, err)
	w := &workload{t: t, c: c, file: bufio.NewWriterSize(f, 1<<20), moved: make(chan struct{}, 1), groups: map[int32]int64{}}
	w.hist = checker.NewHistory(w.file)
	sendCtx, stopSend := context.WithCancel(context.Background())
	readCtx, stopRead := context.WithCancel(context.Background())
	w.stopSend, w.stopRead = stopSend, stopRead
	t.Cleanup(func() {
		stopSend()
		stopRead()
		w.reading.Wait()
		_ = w.file.Flush() // the history's own error tells
		f.Close()
		if t.Failed() {
			w.keep(path)
		}
	})
	for i := range producers {
		name := fmt.Sprintf("p%d", i+1)
		client := c.Client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
			kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.StopProducerOnDataLossDetected(), kgo.UnknownTopicRetries(-1),
			kgo.ProduceRequestTimeout(2*time.Second), kgo.ProducerLinger(2*time.Millisecond))
		for p := range int32(partitions) {
			w.sending.Go(func() { w.produce(sendCtx, client, name, p) })
		}
	}
	for i := range members {
		w.reading.Go(func() { w.member(readCtx, fmt.Sprintf("g%d", i+1)) })
	}
	w.reading.Go(func() { w.follow(readCtx, "reader") })
	w.reading.Go(func() { w.follow(readCtx, "near reader", kgo.Rack(c.Brokers[len(c.Brokers)-1].Rack())) })
	w.reading.Go(func() { w.ask(readCtx) })
	w.progress(200, time.Minute)
	return w
}

// keep saves the history of a failed test, and says what is wrong with it.
func (w *workload) keep(path string) {
	dir, err := os.MkdirTemp("", "firn-history-")
	if err == nil {
		var text []byte
		if text, err = os.ReadFile(path); err == nil {
			err = os.WriteFile(filepath.Join(dir, "history.jsonl"), text, 0o600)
		}
	}
	if err != nil {
		w.t.Errorf("the history is lost: %v", err)
		return
	}
	w.t.Logf("the history is kept in %s", dir)
	if found := checker.Check(w.hist.Ops(), checker.Options{Dense: true}); len(found) > 0 {
		w.t.Logf("its anomalies so far:\n%s", found)
	}
}

func (w *workload) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

func (w *workload) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func logName(p int32) string { return fmt.Sprintf("%s-%d", topicName, p) }

// pad makes the bytes of a record from its value, so that damage shows.
func pad(value string) []byte {
	b := make([]byte, 0, recordBytes+len(value)+1)
	b = append(append(b, value...), ' ')
	for len(b) < recordBytes {
		b = append(b, value...)
	}
	return b
}

// unpad is the reverse; damaged bytes come back as a value that nobody sent.
func unpad(b []byte) string {
	i := slices.Index(b, ' ')
	if i < 0 || string(pad(string(b[:i]))) != string(b) {
		return fmt.Sprintf("damaged: %.40q", b)
	}
	return string(b[:i])
}

// produce keeps a window of one producer's records of one partition under way.
func (w *workload) produce(ctx context.Context, c *kgo.Client, name string, p int32) {
	free := make(chan struct{}, window)
	var pending sync.WaitGroup
	defer pending.Wait()
	pace := rate.NewLimiter(perSecond, window)
	for n := 0; ; n++ {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if err := pace.Wait(ctx); err != nil {
			return // the end
		}
		o := checker.Op{Client: name, Kind: checker.Send, Log: logName(p), Begin: w.hist.Now(), Value: fmt.Sprintf("%s-%d-%d", name, p, n)}
		pending.Add(1)
		// A context that never ends: nothing is given up.
		c.Produce(context.Background(), &kgo.Record{Topic: topicName, Partition: p, Value: pad(o.Value)}, func(r *kgo.Record, err error) {
			defer pending.Done()
			<-free
			o.Finish = w.hist.Now()
			o.Offset = r.Offset
			if err != nil {
				o.Outcome, o.Offset, o.Finish = checker.Unknown, checker.None, 0
				if ctx.Err() == nil {
					w.fail(fmt.Errorf("send %s: %w", o.Value, err))
				}
			}
			w.hist.Add(o)
			if err == nil {
				w.ack(p, o.Finish)
			}
		})
	}
}

// ack notes the pace of acks.
func (w *workload) ack(p int32, now int64) {
	w.acked[p].Add(1)
	if last := w.lastAck[p].Swap(now); last != 0 && now-last > w.longest[p].Load() {
		w.longest[p].Store(now - last)
	}
	select {
	case w.moved <- struct{}{}:
	default:
	}
}

// note writes what a poll returned, an operation for each partition.
func (w *workload) note(client string, begin int64, fetches kgo.Fetches) {
	now := w.hist.Now()
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		if len(p.Records) == 0 {
			return
		}
		o := checker.Op{Client: client, Kind: checker.Poll, Log: logName(p.Partition), Begin: begin, Finish: now}
		for _, r := range p.Records {
			o.Records = append(o.Records, checker.Record{Offset: r.Offset, Value: unpad(r.Value)})
		}
		w.hist.Add(o)
	})
}

// member reads and commits as a member of the group. Rebalances wait for its
// commits, so that their notes are in order.
func (w *workload) member(ctx context.Context, name string) {
	assigned := func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
		for _, p := range parts[topicName] {
			now := w.hist.Now()
			w.hist.Add(checker.Op{Client: name, Kind: checker.Assign, Log: logName(p), Begin: now, Finish: now, Offset: checker.None})
		}
	}
	var attempts commitWrites
	c := w.c.OwnClient(kgo.WithHooks(&attempts), kgo.ConsumerGroup(groupName), kgo.ConsumeTopics(topicName), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(10*time.Second), kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.FetchMaxWait(200*time.Millisecond), kgo.OnPartitionsAssigned(assigned))
	defer leave(c)
	for ctx.Err() == nil {
		begin := w.hist.Now()
		fetches := c.PollFetches(ctx)
		w.note(name, begin, fetches)
		w.commit(ctx, c, name, fetches, &attempts)
		c.AllowRebalance()
	}
}

// commitWrites counts the OffsetCommits that a client wrote to connections.
type commitWrites struct{ n atomic.Int64 }

// OnBrokerWrite implements kgo.HookBrokerWrite.
func (w *commitWrites) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, bytes int, _, _ time.Duration, _ error) {
	if key == int16(kmsg.OffsetCommit) && bytes > 0 {
		w.n.Add(1)
	}
}

// leave closes a member's client. The client tries to leave its group for as long
// as it would try anything; a cluster that a test has broken is not waited for.
func leave(c *kgo.Client) {
	closed := make(chan struct{})
	go func() { defer close(closed); c.CloseAllowingRebalance() }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
	}
}

// commit stores what a poll reached. Errors are the faults' work. Where the client wrote
// more than one request, those that it gave up may still be on their way, in a
// connection that it has closed: that is noted as a commit of unknown outcome.
func (w *workload) commit(ctx context.Context, c *kgo.Client, name string, fetches kgo.Fetches, attempts *commitWrites) {
	at := map[int32]kgo.EpochOffset{}
	fetches.EachRecord(func(r *kgo.Record) { at[r.Partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1} })
	if len(at) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	begin, before := w.hist.Now(), attempts.n.Load()
	outcome := map[int32]checker.Outcome{}
	c.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{topicName: at}, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		for p := range at {
			outcome[p] = checker.Unknown
		}
		if err != nil || resp == nil {
			return
		}
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				if p.ErrorCode == 0 {
					outcome[p.Partition] = checker.OK
				}
			}
		}
	})
	now := w.hist.Now()
	tried := attempts.n.Load()-before > 1
	for p, o := range at {
		op := checker.Op{Client: name, Kind: checker.Commit, Log: logName(p), Group: groupName, Begin: begin, Finish: now, Offset: o.Offset, Outcome: outcome[p]}
		w.hist.Add(op)
		if tried {
			op.Outcome = checker.Unknown
			w.hist.Add(op)
		}
	}
}

// direct are the options of a client that reads partitions from an offset.
func direct(at map[int32]int64) []kgo.Opt {
	offsets := map[int32]kgo.Offset{}
	for p, o := range at {
		offsets[p] = kgo.NewOffset().At(o)
	}
	return []kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topicName: offsets}), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxWait(200 * time.Millisecond)}
}

// assign notes where a client begins.
func (w *workload) assign(name string, at map[int32]int64) {
	for p, o := range at {
		now := w.hist.Now()
		w.hist.Add(checker.Op{Client: name, Kind: checker.Assign, Log: logName(p), Begin: now, Finish: now, Offset: o})
	}
}

// starts are the offsets that the topic begins at: it is never shortened.
func starts() map[int32]int64 {
	at := map[int32]int64{}
	for p := range int32(partitions) {
		at[p] = 0
	}
	return at
}

// follow reads all partitions from their start, and then as they grow.
func (w *workload) follow(ctx context.Context, name string, opts ...kgo.Opt) {
	w.assign(name, starts())
	c := w.c.OwnClient(append(direct(starts()), opts...)...)
	defer c.Close()
	for ctx.Err() == nil {
		begin := w.hist.Now()
		fetches := c.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			var lost *kgo.ErrDataLoss
			if errors.As(e.Err, &lost) {
				w.fail(fmt.Errorf("the %s of %s-%d: %w", name, e.Topic, e.Partition, e.Err))
			}
		}
		w.note(name, begin, fetches)
	}
}

// askEvery is the administrator's pace.
const askEvery = 250 * time.Millisecond

// ask looks at ends and committed offsets.
func (w *workload) ask(ctx context.Context) {
	const name = "admin"
	client := w.c.OwnClient()
	defer client.Close()
	adm := kadm.NewClient(client)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		w.askOnce(ctx, adm, name)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (w *workload) askOnce(ctx context.Context, adm *kadm.Client, name string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	begin := w.hist.Now()
	ends, err := adm.ListEndOffsets(ctx, topicName)
	now := w.hist.Now()
	if err == nil {
		ends.Each(func(o kadm.ListedOffset) {
			if o.Err == nil {
				w.hist.Add(checker.Op{Client: name, Kind: checker.End, Log: logName(o.Partition), Begin: begin, Finish: now, Offset: o.Offset})
			}
		})
	}
	begin = w.hist.Now()
	at, err := adm.FetchOffsets(ctx, groupName)
	now = w.hist.Now()
	if err != nil {
		return
	}
	at.Each(func(o kadm.OffsetResponse) {
		if o.Err == nil && o.Topic == topicName {
			w.hist.Add(checker.Op{Client: name, Kind: checker.Committed, Log: logName(o.Partition), Group: groupName, Begin: begin, Finish: now, Offset: o.At})
			w.mu.Lock()
			w.groups[o.Partition] = o.At
			w.mu.Unlock()
		}
	})
}

// progress waits until each partition has so many more acks.
func (w *workload) progress(more int64, limit time.Duration) {
	w.t.Helper()
	var want [partitions]int64
	for p := range want {
		want[p] = w.acked[p].Load() + more
	}
	end := time.NewTimer(limit)
	defer end.Stop()
	for {
		missing := ""
		for p := range want {
			if have := w.acked[p].Load(); have < want[p] {
				missing = fmt.Sprintf("partition %d has %d of %d further acks", p, have-want[p]+more, more)
			}
		}
		if missing == "" {
			return
		}
		require.NoError(w.t, w.failure())
		select {
		case <-w.moved:
		case <-end.C:
			w.t.Fatalf("not within %v: %s; the partitions: %v", limit, missing, w.c.Partitions(topicName))
		}
	}
}

// pauses returns the longest time without an ack by any partition since the last
// call, and begins anew.
func (w *workload) pauses() time.Duration {
	longest := int64(0)
	now := w.hist.Now()
	for p := range w.longest {
		longest = max(longest, w.longest[p].Swap(0), now-w.lastAck[p].Load())
	}
	return time.Duration(longest)
}

// finish ends the workload: all that was sent is acked, the group reads and
// commits it all, one more reader reads it all, and the history has no anomaly.
func (w *workload) finish() {
	w.t.Helper()
	w.stopSend()
	done := make(chan struct{})
	go func() { defer close(done); w.sending.Wait() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		w.t.Fatalf("what was sent is not acked within a minute; the partitions: %v", w.c.Partitions(topicName))
	}
	require.NoError(w.t, w.failure())
	ends := w.ends()
	begin := time.Now()
	harness.Eventually(w.t, 2*time.Minute, func() string {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !maps.Equal(ends, w.groups) {
			return fmt.Sprintf("the group has committed %v of %v", w.groups, ends)
		}
		return ""
	})
	w.t.Logf("the group had everything %v after the end", time.Since(begin).Round(time.Millisecond))
	w.drain("last", ends)
	w.stopRead()
	w.reading.Wait()
	require.NoError(w.t, w.failure())
	w.check()
}

// check judges the history.
func (w *workload) check() {
	w.t.Helper()
	require.NoError(w.t, w.hist.Err())
	if found := checker.Check(w.hist.Ops(), checker.Options{Dense: true}); len(found) > 0 {
		w.t.Fatalf("the history has anomalies:\n%s", found)
	}
}

// ends are the ends of the topic's partitions.
func (w *workload) ends() map[int32]int64 {
	w.t.Helper()
	adm := kadm.NewClient(w.c.Client())
	ends := map[int32]int64{}
	harness.Eventually(w.t, time.Minute, func() string {
		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
		defer cancel()
		listed, err := adm.ListEndOffsets(ctx, topicName)
		if err == nil {
			err = listed.Error()
		}
		if err != nil {
			return err.Error()
		}
		listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
		return ""
	})
	return ends
}

// drain reads the whole topic.
func (w *workload) drain(name string, ends map[int32]int64) {
	w.t.Helper()
	begin := w.hist.Now()
	w.assign(name, starts())
	c := w.c.Client(direct(starts())...)
	defer c.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	next := map[int32]int64{}
	for !maps.Equal(next, ends) {
		polled := w.hist.Now()
		fetches := c.PollFetches(ctx)
		require.NoError(w.t, ctx.Err(), "reading everything again: at %v of %v", next, ends)
		w.note(name, polled, fetches)
		fetches.EachRecord(func(r *kgo.Record) { next[r.Partition] = r.Offset + 1 })
	}
	for p, end := range ends {
		w.hist.Add(checker.Op{Client: name, Kind: checker.Drain, Log: logName(p), Begin: begin, Finish: w.hist.Now(), Offset: 0, Until: end})
	}
}
