package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

type consumeOptions struct {
	from, to, group, format string
	partitions              []int32
	count                   int64
	exit, committed         bool
}

func (a *app) consumeCommand() *cobra.Command {
	var o consumeOptions
	cmd := &cobra.Command{
		Use: "consume TOPIC", Short: "Read records to standard output", Args: cobra.ExactArgs(1),
		Long: `Read records to standard output, from now on unless --from says otherwise, until
interrupted, or with -e until the end that the topic had when the command began.

A place in a topic is ` + positionHelp + `.

A format has %t topic, %p partition, %o offset, %T timestamp in ms, %k key, %v (or %s) value,
%h headers, %K and %S the lengths of key and value (-1 for null), %% and \n \t \r \0 \\ \xNN.
With -o json each record is one line of JSON.`,
		Example:           "  firn consume orders --from earliest -e\n  firn consume orders --from 2026-01-31T10:00:00Z --to 2026-01-31T11:00:00Z\n  firn consume orders -p 0 --from -10 -f '%o %k=%v\\n'\n  firn consume orders -g billing",
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.consume(cmd, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "where to begin; by default latest, with a group where it was")
	f.StringVar(&o.to, "to", "", "where to stop, not included; implies -e")
	f.Int32SliceVarP(&o.partitions, "partition", "p", nil, "partitions to read; by default all")
	f.StringVarP(&o.group, "group", "g", "", "read as a member of a consumer group and commit what was written out")
	f.StringVarP(&o.format, "format", "f", `%v\n`, "how to write a record")
	f.Int64VarP(&o.count, "count", "n", 0, "stop after so many records")
	f.BoolVarP(&o.exit, "exit", "e", false, "stop at the end")
	f.BoolVar(&o.committed, "read-committed", false, "leave out records of transactions that are open or aborted")
	return cmd
}

// endTracker knows where each partition is to stop and when all have.
//
// INVARIANT: left counts the partitions with next < end.
type endTracker struct {
	end, next map[int32]int64
	left      int
}

func newEndTracker(from, end map[int32]int64) *endTracker {
	t := &endTracker{end: end, next: from}
	for p := range end {
		if from[p] < end[p] {
			t.left++
		}
	}
	return t
}

// seen says whether a record lies before its partition's end, and counts it.
// Control records count too: a topic may end in them.
func (t *endTracker) seen(partition int32, offset int64) (before bool) {
	end, ok := t.end[partition]
	if !ok {
		return false
	}
	if t.next[partition] < end && offset+1 >= end {
		t.left--
	}
	t.next[partition] = max(t.next[partition], offset+1)
	return offset < end
}

func (a *app) consume(cmd *cobra.Command, topic string, o consumeOptions) error {
	render, err := a.recordWriter(o.format)
	if err != nil {
		return err
	}
	switch {
	case o.count < 0:
		return fmt.Errorf("--count: got %d, want at least 1, or 0 for no limit", o.count)
	case cmd.Flags().Changed("group") && o.group == "":
		return errors.New("--group is empty: name a group, or leave the flag out to read without one")
	}
	if o.group != "" && (o.to != "" || len(o.partitions) > 0) {
		return errors.New("--group shares partitions out and remembers places: it takes neither --to nor --partition")
	}
	var client *kgo.Client
	var ends *endTracker
	if o.group != "" {
		client, ends, err = a.consumeGroup(cmd.Context(), topic, o)
	} else {
		client, ends, err = a.consumeDirect(cmd.Context(), topic, o)
	}
	if err != nil {
		return err
	}
	defer client.Close()
	out := bufio.NewWriterSize(a.out, 64<<10)
	c := &consumption{client: client, ends: ends, render: render, out: out, options: o, flushAlways: a.outIsTerminal,
		notes: a.errOut, unreadable: make(map[int32]bool)}
	err = c.run(cmd.Context())
	if flushErr := out.Flush(); err == nil {
		err = flushErr
	}
	if o.group != "" {
		commitCtx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), a.timeout)
		defer cancel()
		if commitErr := client.CommitMarkedOffsets(commitCtx); err == nil && commitErr != nil {
			err = fmt.Errorf("commit for group %s: %w", o.group, commitErr)
		}
	}
	if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return nil // an interrupt is how following ends
	}
	return err
}

func (o consumeOptions) isolation() kgo.IsolationLevel {
	if o.committed {
		return kgo.ReadCommitted()
	}
	return kgo.ReadUncommitted()
}

// consumeDirect reads partitions from resolved places, without a group.
func (a *app) consumeDirect(ctx context.Context, topic string, o consumeOptions) (*kgo.Client, *endTracker, error) {
	from, to := position{kind: atLatest}, position{kind: atLatest}
	var err error
	if o.from != "" {
		if from, err = parsePosition(o.from, a.now()); err != nil {
			return nil, nil, fmt.Errorf("--from: %w", err)
		}
	}
	if o.to != "" {
		if to, err = parsePosition(o.to, a.now()); err != nil {
			return nil, nil, fmt.Errorf("--to: %w", err)
		}
	}
	// The client that reads must know its partitions from the start, so another asks for them.
	asking, err := a.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer asking.Close()
	admin := kadm.NewClient(asking)
	askCtx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	b, err := readBounds(askCtx, admin, topic, o.committed)
	if err != nil {
		return nil, nil, err
	}
	if err := b.keep(topic, o.partitions); err != nil {
		return nil, nil, err
	}
	starts, err := from.resolve(askCtx, admin, topic, b)
	if err != nil {
		return nil, nil, err
	}
	var ends *endTracker
	if o.exit || o.to != "" {
		stops, err := to.resolve(askCtx, admin, topic, b)
		if err != nil {
			return nil, nil, err
		}
		ends = newEndTracker(starts, stops)
	}
	places := make(map[int32]kgo.Offset, len(starts))
	for p, offset := range starts {
		if ends == nil || offset < ends.end[p] {
			places[p] = kgo.NewOffset().At(offset)
		}
	}
	client, err := a.connect(ctx, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: places}),
		kgo.FetchIsolationLevel(o.isolation()), kgo.KeepControlRecords(), kgo.KeepRetryableFetchErrors())
	return client, ends, err
}

// keep drops partitions that were not asked for.
func (b bounds) keep(topic string, partitions []int32) error {
	if len(partitions) == 0 {
		return nil
	}
	wanted := map[int32]bool{}
	for _, p := range partitions {
		if _, ok := b.start[p]; !ok {
			return noPartition(topic, p, len(b.start))
		}
		wanted[p] = true
	}
	for p := range b.start {
		if !wanted[p] {
			delete(b.start, p)
			delete(b.end, p)
		}
	}
	return nil
}

// consumeGroup joins a group. With -e it stops once this member has reached
// every partition's end, or the group had before.
func (a *app) consumeGroup(ctx context.Context, topic string, o consumeOptions) (*kgo.Client, *endTracker, error) {
	reset := kgo.NewOffset().AtEnd()
	switch o.from {
	case "", "latest":
	case "earliest":
		reset = kgo.NewOffset().AtStart()
	default:
		return nil, nil, fmt.Errorf("--from %s: a group begins where it was, or for new partitions at earliest or latest; `firn group seek` moves it elsewhere", o.from)
	}
	client, err := a.connect(ctx, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(o.group), kgo.ConsumeResetOffset(reset),
		kgo.AutoCommitMarks(), kgo.FetchIsolationLevel(o.isolation()), kgo.KeepControlRecords(), kgo.KeepRetryableFetchErrors())
	if err != nil {
		return nil, nil, err
	}
	askCtx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	ends, err := groupEnds(askCtx, kadm.NewClient(client), topic, o)
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	return client, ends, nil
}

func groupEnds(ctx context.Context, admin *kadm.Client, topic string, o consumeOptions) (*endTracker, error) {
	b, err := readBounds(ctx, admin, topic, o.committed)
	if err != nil || !o.exit {
		return nil, err
	}
	committed, err := fetchOffsets(ctx, admin, o.group)
	if err != nil {
		return nil, err
	}
	from := make(map[int32]int64, len(b.start))
	for p := range b.start {
		from[p] = b.end[p]
		if at, ok := committed.Lookup(topic, p); ok && at.At >= 0 {
			from[p] = at.At
		} else if o.from == "earliest" {
			from[p] = b.start[p]
		}
	}
	return newEndTracker(from, b.end), nil
}

// consumption is the loop from fetches to standard output.
type consumption struct {
	client      *kgo.Client
	ends        *endTracker // nil: follow
	render      func([]byte, *kgo.Record) ([]byte, error)
	out         *bufio.Writer
	options     consumeOptions
	flushAlways bool
	notes       io.Writer
	unreadable  map[int32]bool // partitions of which was said that they cannot be read
	written     int64
	scratch     []byte
}

func (c *consumption) run(ctx context.Context) error {
	for c.ends == nil || c.ends.left > 0 {
		fetches := c.client.PollFetches(ctx)
		if err := fetchError(ctx, fetches); err != nil {
			return err
		}
		c.tellUnreadable(fetches)
		for it := fetches.RecordIter(); !it.Done(); {
			done, err := c.take(it.Next())
			if err != nil || done {
				return err
			}
		}
		// What follows may be long in coming; a reader of a pipe wants what is there.
		if c.flushAlways || c.client.BufferedFetchRecords() == 0 {
			if err := c.out.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// take writes one record and says whether it was the last that is wanted.
func (c *consumption) take(r *kgo.Record) (done bool, err error) {
	wanted := true
	if c.ends != nil {
		wanted = c.ends.seen(r.Partition, r.Offset)
	}
	if wanted && !r.Attrs.IsControl() {
		if c.scratch, err = c.render(c.scratch[:0], r); err != nil {
			return false, fmt.Errorf("write record %d of partition %d: %w", r.Offset, r.Partition, err)
		}
		if _, err := c.out.Write(c.scratch); err != nil {
			return false, err
		}
		c.written++
	}
	if wanted && c.options.group != "" {
		c.client.MarkCommitRecords(r)
	}
	return c.options.count > 0 && c.written >= c.options.count, nil
}

// fetchError is the first error of a poll that no retry will mend, with its
// partition. The client retries the others by itself: leaders move.
func fetchError(ctx context.Context, fetches kgo.Fetches) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, e := range fetches.Errors() {
		if !kerr.IsRetriable(e.Err) {
			return refused(readingOf(e), e.Err, "")
		}
	}
	return nil
}

// tellUnreadable says once of each partition that its broker cannot read its disk
// or its bucket, which may last.
func (c *consumption) tellUnreadable(fetches kgo.Fetches) {
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, kerr.KafkaStorageError) && !c.unreadable[e.Partition] {
			c.unreadable[e.Partition] = true
			fmt.Fprintf(c.notes, "firn: %s: the broker cannot read what is asked for (KAFKA_STORAGE_ERROR); its log says why, and it is asked again\n", readingOf(e))
		}
	}
}

func readingOf(e kgo.FetchError) string {
	if e.Topic == "" {
		return "reading"
	}
	return "reading " + subjectOf(e.Topic, e.Partition)
}
