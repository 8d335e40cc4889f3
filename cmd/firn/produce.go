package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// maxLine bounds one line of input, in bytes; a broker takes less by default.
const maxLine = 64 << 20

const (
	// produceRetries is how often a refused batch is sent again: for about half a
	// minute, by the client's pace. A disk that stays full is an error then.
	produceRetries = 10
	// produceBuffered is how many records may wait for their acks.
	produceBuffered = 10_000
)

type produceOptions struct {
	separator, fixedKey, compression, acks string
	headers                                []string
	partition                              int32
	emptyIsNull                            bool
}

func (a *app) produceCommand() *cobra.Command {
	var o produceOptions
	cmd := &cobra.Command{
		Use: "produce TOPIC", Short: "Write the lines of standard input as records", Args: cobra.ExactArgs(1),
		Example:           "  echo hello | firn produce orders\n  echo 'user-1:bought a book' | firn produce orders -k :\n  firn produce orders -H source=shop -z zstd < lines.txt",
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.produce(cmd, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.separator, "key-separator", "k", "", `split each line into key and value here, \t and the like allowed`)
	f.StringVar(&o.fixedKey, "key", "", "the key of all records")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "a header of all records, NAME=VALUE; repeatable")
	f.Int32VarP(&o.partition, "partition", "p", -1, "the partition of all records; -1 lets the key decide")
	f.StringVarP(&o.compression, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	f.StringVar(&o.acks, "acks", "all", "who must have a record: all (in-sync replicas), 1 (leader) or 0 (nobody)")
	f.BoolVarP(&o.emptyIsNull, "null", "Z", false, "write empty keys and values as null (a null value deletes a key of a compacted topic)")
	a.completeWords(cmd, "compression", "none", "gzip", "snappy", "lz4", "zstd")
	a.completeWords(cmd, "acks", "all", "1", "0")
	return cmd
}

func codecOf(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "none", "":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	}
	return kgo.CompressionCodec{}, fmt.Errorf("--compression %q is not known: it is none, gzip, snappy, lz4 or zstd", name)
}

func acksOf(name string) ([]kgo.Opt, error) {
	switch name {
	case "all", "-1":
		return []kgo.Opt{kgo.RequiredAcks(kgo.AllISRAcks())}, nil
	case "1":
		return []kgo.Opt{kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()}, nil
	case "0":
		return []kgo.Opt{kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite()}, nil
	}
	return nil, fmt.Errorf("--acks %q is not known: it is all, 1 or 0", name)
}

func (o produceOptions) clientOptions() ([]kgo.Opt, error) {
	codec, err := codecOf(o.compression)
	if err != nil {
		return nil, err
	}
	opts, err := acksOf(o.acks)
	if err != nil {
		return nil, err
	}
	opts = append(opts, kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(), kgo.RecordRetries(produceRetries),
		// A topic that never appears must not be waited for, a slow broker may be.
		kgo.UnknownTopicRetries(3), kgo.MaxBufferedRecords(produceBuffered))
	if o.partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	return opts, nil
}

// template is what all records share.
type template struct {
	topic, separator string
	key              []byte
	headers          []kgo.RecordHeader
	partition        int32
	emptyIsNull      bool
}

func (o produceOptions) template(topic string) (template, error) {
	t := template{topic: topic, partition: o.partition, emptyIsNull: o.emptyIsNull}
	if o.fixedKey != "" {
		if o.separator != "" {
			return t, errors.New("--key and --key-separator exclude each other")
		}
		t.key = []byte(o.fixedKey)
	}
	var err error
	if t.separator, err = unescapeText(o.separator); err != nil {
		return t, fmt.Errorf("--key-separator: %w", err)
	}
	for _, h := range o.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			return t, fmt.Errorf("--header %q: write NAME=VALUE", h)
		}
		t.headers = append(t.headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	return t, nil
}

// record makes a record of a line, which it copies.
func (t template) record(line []byte) *kgo.Record {
	value := bytes.Clone(line)
	if value == nil {
		value = []byte{}
	}
	r := &kgo.Record{Topic: t.topic, Key: t.key, Headers: t.headers, Value: value}
	if t.partition >= 0 {
		r.Partition = t.partition
	}
	if t.separator != "" {
		if key, rest, ok := bytes.Cut(value, []byte(t.separator)); ok {
			r.Key, r.Value = key, rest
		}
	}
	if t.emptyIsNull {
		if len(r.Key) == 0 {
			r.Key = nil
		}
		if len(r.Value) == 0 {
			r.Value = nil
		}
	}
	return r
}

type produceResult struct {
	Topic   string `json:"topic"`
	Records int64  `json:"records"`
	Bytes   int64  `json:"bytes"`
}

// tally counts acknowledged records and keeps the first failure, which also
// ends the reading of input. Promises run on the client's goroutines.
type tally struct {
	mu     sync.Mutex
	result produceResult
	err    error
	stop   context.CancelFunc
}

func (t *tally) done(r *kgo.Record, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.result.Records++
		t.result.Bytes += int64(len(r.Key) + len(r.Value))
		return
	}
	if t.err == nil {
		t.err = refused("topic "+r.Topic, err, "")
		t.stop()
	}
}

func (a *app) produce(cmd *cobra.Command, topic string, o produceOptions) error {
	opts, err := o.clientOptions()
	if err != nil {
		return err
	}
	tmpl, err := o.template(topic)
	if err != nil {
		return err
	}
	limit, err := a.batchLimit(cmd.Context(), topic, o.partition)
	if err != nil {
		return err
	}
	if limit > 0 {
		opts = append(opts, kgo.ProducerBatchMaxBytes(limit))
	}
	client, err := a.connect(cmd.Context(), opts...)
	if err != nil {
		return err
	}
	defer client.Close()
	if a.inIsTerminal {
		a.note("writing to %s, one record a line; end with ctrl-d", topic)
	}
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	t := &tally{result: produceResult{Topic: topic}, stop: stop}
	free := make(chan struct{}, produceBuffered)
	readErr := readLines(ctx, a.in, func(line []byte) {
		// To wait here, and not in Produce, lets an interrupt end the wait.
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		// What was read is still sent after an interrupt: the flush decides.
		client.Produce(context.WithoutCancel(ctx), tmpl.record(line), func(r *kgo.Record, err error) {
			<-free
			t.done(r, err)
		})
	})
	flushErr := a.flush(cmd.Context(), client)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := firstError(t.err, flushErr, readErr); err != nil {
		if t.result.Records == 0 {
			return err
		}
		return fmt.Errorf("after %s: %w", plural(int(t.result.Records), "record"), err)
	}
	return a.print(t.result, func(io.Writer) error {
		a.note("wrote %s, %s, to %s", plural(int(t.result.Records), "record"), size(t.result.Bytes), topic)
		return nil
	})
}

// batchLimit is the largest batch that the topic takes, within what the client
// can send, or 0 where that is not known: a topic that does not exist yet may be
// made by the first record. A partition that the topic lacks is an error.
func (a *app) batchLimit(ctx context.Context, topic string, partition int32) (int32, error) {
	const smallest, largest = 1 << 10, 64 << 20
	client, err := a.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	askCtx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopicsWithInternal(askCtx, topic)
	if err != nil {
		return 0, fmt.Errorf("ask for topic %s: %w", topic, err)
	}
	t := topics[topic]
	if t.Err != nil || len(t.Partitions) == 0 {
		return 0, nil
	}
	if partition >= int32(len(t.Partitions)) {
		return 0, noPartition(topic, partition, len(t.Partitions))
	}
	configs, err := admin.DescribeTopicConfigs(askCtx, topic)
	if err != nil {
		return 0, nil // who may write need not be let read settings
	}
	for _, resource := range configs {
		for _, c := range resource.Configs {
			if n, err := strconv.ParseInt(c.MaybeValue(), 10, 32); c.Key == "max.message.bytes" && err == nil {
				return int32(min(max(n, smallest), largest)), nil
			}
		}
	}
	return 0, nil
}

// noPartition is a partition that a topic does not have.
func noPartition(topic string, partition int32, has int) error {
	return fmt.Errorf("topic %s has no partition %d: it has %d, from 0 on", topic, partition, has)
}

// flush waits for the acks of all that was sent; after an interrupt for no longer
// than --timeout.
func (a *app) flush(ctx context.Context, client *kgo.Client) error {
	patience, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(a.timeout):
			giveUp()
		case <-patience.Done():
		}
	})()
	if err := client.Flush(patience); err != nil {
		return fmt.Errorf("interrupted; %s sent without an ack in %s", plural(int(client.BufferedProduceRecords()), "record"), a.timeout)
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// readLines gives each line without its end to fn, until the input ends or the
// context does. A last line without an end counts. fn is not called after
// readLines has returned.
//
// A read from a terminal or a pipe cannot be called back: the goroutine that
// waits in it is left behind and ends with the process.
func readLines(ctx context.Context, in io.Reader, fn func([]byte)) error {
	var mu sync.Mutex
	var ended bool
	scanned := make(chan error, 1)
	go func() {
		scanned <- scanLines(ctx, in, func(line []byte) {
			mu.Lock()
			defer mu.Unlock()
			if !ended {
				fn(line)
			}
		})
	}()
	select {
	case err := <-scanned:
		return err
	case <-ctx.Done():
		mu.Lock()
		defer mu.Unlock()
		ended = true
		return nil
	}
}

func scanLines(ctx context.Context, in io.Reader, fn func([]byte)) error {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	for ctx.Err() == nil && scanner.Scan() {
		fn(scanner.Bytes())
	}
	if errors.Is(scanner.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("a line is longer than %s", size(maxLine))
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	return nil
}
