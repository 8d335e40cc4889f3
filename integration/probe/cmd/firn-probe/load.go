package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/integration/probe/load"
	"github.com/firnlog/firn/record"
)

// sizeFlag is a number of bytes: 1000, 4e9, 16KiB, 1GB.
type sizeFlag int64

// units are tried in this order, so that B comes last.
var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

// String returns the number.
func (s *sizeFlag) String() string { return strconv.FormatInt(int64(*s), 10) }

// Type names the flag's type in the help.
func (s *sizeFlag) Type() string { return "bytes" }

// Set reads the flag.
func (s *sizeFlag) Set(text string) error {
	number, unit := text, 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, unit = rest, u.bytes
			break
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if v *= unit; err != nil || !(v >= 0 && v < math.MaxInt64) {
		return fmt.Errorf("%q is no size: want a number with B, kB, MB, GB, KiB, MiB, GiB or nothing behind it", text)
	}
	*s = sizeFlag(v)
	return nil
}

// topicFlags name the topic and, where asked, create it or look up its id.
type topicFlags struct {
	addr, topic string
	id          string
	partitions  int32
	create      bool
	configs     []string
}

func (t *topicFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.addr, "addr", "127.0.0.1:9092", "broker, which leads all partitions")
	f.StringVar(&t.topic, "topic", "probe", "topic")
	f.StringVar(&t.id, "topic-id", "", "id of the topic for versions that want one; looked up if empty")
	f.Int32Var(&t.partitions, "partitions", 12, "partitions to use, from 0 on")
}

// topicID returns the id where version needs one.
func (t *topicFlags) topicID(ctx context.Context, needed bool) (record.TopicID, error) {
	if !needed {
		return record.TopicID{}, nil
	}
	if t.id != "" {
		return record.ParseTopicID(t.id)
	}
	id, _, err := load.LookupTopic(ctx, t.addr, t.topic)
	return id, err
}

// createTopic creates the topic if --create says so.
func (t *topicFlags) createTopic(ctx context.Context) error {
	if !t.create {
		return nil
	}
	configs := map[string]string{}
	for _, c := range t.configs {
		k, v, ok := strings.Cut(c, "=")
		if !ok {
			return fmt.Errorf("--config %q: want name=value", c)
		}
		configs[k] = v
	}
	return load.CreateTopic(ctx, t.addr, t.topic, t.partitions, configs)
}

// produce loads a broker or serve-produce.
func produce(out *output) *cobra.Command {
	var (
		t             topicFlags
		o             load.ProduceOptions
		bytes, warmup sizeFlag
		recordSize    sizeFlag = 1024
		batchSize     sizeFlag = 16 << 10
		codec         string
	)
	cmd := &cobra.Command{
		Use:   "produce",
		Short: "Send pre-encoded Produce requests and time the answers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			var err error
			if o.Codec, err = record.ParseCodec(codec); err != nil {
				return err
			}
			if err := t.createTopic(ctx); err != nil {
				return err
			}
			if o.TopicID, err = t.topicID(ctx, o.Version >= 13); err != nil {
				return err
			}
			o.Addr, o.Topic, o.Partitions = t.addr, t.topic, t.partitions
			o.RecordBytes, o.BatchBytes = int(recordSize), int(batchSize)
			if warmup > 0 {
				first := o
				first.Bytes, first.Duration = int64(warmup), 0
				if _, err := load.Produce(ctx, first); err != nil {
					return err
				}
			}
			o.Bytes = int64(bytes)
			res, err := load.Produce(ctx, o)
			if err != nil {
				return err
			}
			return out.report(cmd.OutOrStdout(), res.Report(o))
		},
	}
	t.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&t.create, "create", false, "create the topic unless it exists")
	f.StringArrayVar(&t.configs, "config", nil, "config of the topic to create, name=value; may be repeated")
	f.Int16Var(&o.Version, "version", 9, "version of Produce, 9 to 13; 13 names topics by id")
	f.Int16Var(&o.Acks, "acks", -1, "-1 all, 1 leader, 0 none")
	f.IntVar(&o.Connections, "connections", 12, "connections")
	f.IntVar(&o.Depth, "depth", 4, "requests in flight on a connection")
	f.IntVar(&o.Batches, "batches", 1, "batches in a request, each of another partition")
	f.Var(&recordSize, "record-bytes", "bytes of a record's value")
	f.Var(&batchSize, "batch-bytes", "bytes of a batch, about, before compression")
	f.StringVar(&codec, "codec", "none", "none, gzip, snappy, lz4 or zstd")
	f.Var(&bytes, "bytes", "end after so many bytes of batches")
	f.DurationVar(&o.Duration, "duration", 0, "end after this time")
	f.Var(&warmup, "warmup", "bytes to send before the clock starts")
	f.IntVar(&o.Pid, "pid", 0, "process whose CPU time to report: the server's")
	return cmd
}

// fetch drains a broker.
func fetch(out *output) *cobra.Command {
	var (
		t                      topicFlags
		o                      load.FetchOptions
		bytes                  sizeFlag
		maxBytes, perPartition sizeFlag = 8 << 20, 1 << 20
		from                   int64
	)
	cmd := &cobra.Command{
		Use:   "fetch",
		Short: "Drain partitions by Fetch without a session and count the bytes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			var err error
			if o.TopicID, err = t.topicID(ctx, o.Version >= 13); err != nil {
				return err
			}
			if maxBytes > math.MaxInt32 || perPartition > math.MaxInt32 {
				return fmt.Errorf("--max-bytes and --partition-bytes are at most %d", math.MaxInt32)
			}
			o.Addr, o.Topic, o.Partitions = t.addr, t.topic, t.partitions
			o.Bytes, o.From = int64(bytes), record.Offset(from)
			o.MaxBytes, o.PartitionBytes = int32(maxBytes), int32(perPartition)
			res, err := load.Fetch(ctx, o)
			if err != nil {
				return err
			}
			return out.report(cmd.OutOrStdout(), res.Report(o))
		},
	}
	t.add(cmd)
	f := cmd.Flags()
	f.Int16Var(&o.Version, "version", 12, "version of Fetch, 11 to 13; 13 names topics by id")
	f.IntVar(&o.Connections, "connections", 1, "connections; more than partitions read them again")
	f.Var(&maxBytes, "max-bytes", "bytes of an answer")
	f.Var(&perPartition, "partition-bytes", "bytes of a partition in an answer")
	f.DurationVar(&o.MaxWait, "max-wait", 0, "time that the broker may wait for data (default 500ms)")
	f.Int64Var(&from, "from", -1, "offset to begin with; below 0 the log start")
	f.Var(&bytes, "bytes", "end after so many bytes; 0 reads up to the high watermarks")
	f.BoolVar(&o.VerifyCRC, "verify", false, "check each batch's CRC")
	f.IntVar(&o.Pid, "pid", 0, "process whose CPU time to report: the server's")
	return cmd
}
