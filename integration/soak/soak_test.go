package soak

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/harness"
)

var (
	length   = flag.Duration("soak", 15*time.Second, "how long the load lasts")
	seedFlag = flag.Uint64("soak.seed", 1, "of all choices; 0 takes one from the clock")
	profiles = flag.String("soak.profiles", "", "a directory for a heap profile of the broker after the load")
	rateFlag = flag.Int("soak.rate", 3<<20, "bytes per second that the producers write together")
)

func TestMain(m *testing.M) { flag.Parse(); harness.Main(m) }

// soak is one run.
type soak struct {
	t    *testing.T
	b    *harness.Broker
	seed uint64

	ctx  context.Context // of the load
	stop context.CancelFunc
	wg   sync.WaitGroup

	topics []*topic
	tags   atomic.Uint64
	down   atomic.Int64 // restarts begun and ended: odd while the broker is down

	mu     sync.Mutex
	errs   []string
	counts map[string]int
}

// fail notes a broken promise; the load ends.
func (s *soak) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.errs) < 20 {
		s.errs = append(s.errs, fmt.Sprintf("[%s] ", time.Now().Format("15:04:05.000"))+fmt.Sprintf(format, args...))
	}
	s.stop()
}

// count notes that something happened, for the report.
func (s *soak) count(what string) {
	s.mu.Lock()
	s.counts[what]++
	s.mu.Unlock()
}

// unexpected sorts an error of the broker: passing ones are counted.
func (s *soak) unexpected(what string, err error) {
	if err == nil || s.ctx.Err() != nil {
		return
	}
	s.count(what + ": " + firstLine(err))
}

func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if len(text) > 100 {
		text = text[:100]
	}
	return text
}

// random is a stream of choices of its own.
func (s *soak) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }

// pause waits, and tells whether the load goes on.
func (s *soak) pause(d time.Duration) bool {
	select {
	case <-s.ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (s *soak) run(f func()) { s.wg.Go(f) }

// client is a franz-go client that outlives restarts.
func (s *soak) client(opts ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.b.Addr), kgo.RetryTimeout(90 * time.Second), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }), kgo.AlwaysRetryEOF(),
	}, opts...)...)
	if err != nil {
		panic(err)
	}
	return c
}

// kinds are the topics of a run.
func kinds() map[string]kind {
	tiered := func(more ...string) []string {
		return append([]string{"remote.storage.enable", "true", "segment.bytes", "1048576"}, more...)
	}
	return map[string]kind{
		"plain":     {parts: 2, settings: []string{"remote.storage.enable", "false", "segment.bytes", "1048576"}},
		"fsync":     {parts: 3, settings: tiered("local.retention.bytes", "1048576")},
		"cached":    {parts: 3, settings: tiered("local.retention.ms", "1000", "segment.ms", "4000", "durability", "replicated")},
		"short":     {parts: 2, trimmed: true, settings: tiered("local.retention.ms", "500", "segment.ms", "1000", "retention.ms", "12000")},
		"small":     {parts: 2, trimmed: true, settings: tiered("local.retention.bytes", "1048576", "retention.bytes", "6291456", "durability", "replicated")},
		"cut":       {parts: 2, trimmed: true, settings: tiered("local.retention.ms", "1000", "segment.ms", "2000")},
		"stamped":   {parts: 2, stamped: true, settings: tiered("local.retention.ms", "1000", "message.timestamp.type", "LogAppendTime", "compression.type", "zstd")},
		"toggle":    {parts: 2, trimmed: true, settings: tiered("local.retention.ms", "500", "segment.ms", "1500", "remote.log.delete.on.disable", "true")},
		"compact":   {parts: 2, keys: 150, tombs: true, compacted: true, settings: compacting("durability", "replicated")},
		"compact-f": {parts: 1, keys: 2000, tombs: true, compacted: true, settings: compacting("compression.type", "lz4")},
		"both":      {parts: 1, keys: 300, tombs: true, compacted: true, trimmed: true, settings: compacting("cleanup.policy", "compact,delete", "retention.ms", "15000")},
		"flip":      {parts: 2, keys: 300, tombs: true, compacted: true, trimmed: true, settings: compacting("remote.log.delete.on.disable", "true", "local.retention.ms", "1000")},
	}
}

// deleteRetention is how long tombstones of the compacted topics stay.
const deleteRetention = 4 * time.Second

func compacting(more ...string) []string {
	return append([]string{"cleanup.policy", "compact", "segment.bytes", "1048576", "segment.ms", "1500",
		"min.cleanable.dirty.ratio", "0", "delete.retention.ms", fmt.Sprint(deleteRetention.Milliseconds())}, more...)
}

func (s *soak) newTopic(name string, k kind) *topic {
	t := &topic{name: name, kind: k, tag: s.seed<<32 | s.tags.Add(1)}
	t.grow(k.parts)
	return t
}

func configs(settings []string) map[string]*string {
	out := make(map[string]*string)
	for i := 0; i+1 < len(settings); i += 2 {
		out[settings[i]] = &settings[i+1]
	}
	return out
}

func TestSoak(t *testing.T) {
	if *seedFlag == 0 {
		*seedFlag = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d, %v", *seedFlag, *length)
	dir := t.TempDir()
	s := &soak{t: t, seed: *seedFlag, counts: map[string]int{}}
	s.b = harness.New(t, harness.Options{DataDir: filepath.Join(dir, "data"), Store: "fs://" + filepath.Join(dir, "bucket"),
		Set: []string{"offsets.topic.num.partitions=4", "log.retention.check.interval.ms=300", "remote.log.manager.task.interval.ms=300",
			"log.cleaner.backoff.ms=200", "tier.delete.grace.ms=3000", "group.min.session.timeout.ms=1000", "auto.create.topics.enable=false"}})
	s.b.Start()
	s.ctx, s.stop = context.WithCancel(t.Context())
	defer s.stop()

	all := kinds()
	adm := s.adm()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		k := all[name]
		_, err := adm.CreateTopic(t.Context(), k.parts, 1, configs(k.settings), name)
		require.NoError(t, err)
		s.topics = append(s.topics, s.newTopic(name, k))
	}
	adm.Close()
	before := s.usage()
	t.Logf("idle: %v", before)

	producers := s.produce()
	s.read()
	s.compactions()
	s.groups()
	s.admin()
	s.scrape()
	s.restarts()
	s.pause(*length)
	s.stop()
	s.wg.Wait()
	s.report()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	s.ctx, s.stop = context.WithCancel(ctx)
	producers.close(s)
	s.finish()
	s.settled(before)
	if n := s.b.Metric("kafka_log_logcleaner_failures_total"); n > 0 {
		s.fail("%v passes of compaction failed", n)
	}
	t.Logf("in the last life of the load: %v passes of compaction, %v records removed", s.b.Metric("kafka_log_logcleaner_cleanings_total"), s.b.Metric("kafka_log_logcleaner_records_removed_total"))
	s.b.Restart()
	s.finish()
	t.Logf("after a restart: %v", s.usage())
	s.report()
	s.b.Stop()
}

// report shows what went on, and fails for broken promises.
func (s *soak) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		s.t.Logf("%8d %s", s.counts[what], what)
	}
	if len(s.errs) > 0 {
		s.t.Fatalf("%d broken promises:\n%s", len(s.errs), strings.Join(s.errs, "\n"))
	}
}

// restarts stops or kills the broker now and then.
func (s *soak) restarts() {
	s.run(func() {
		random := s.random(99)
		for {
			if !s.pause(time.Duration(3000+random.IntN(9000)) * time.Millisecond) {
				return
			}
			s.down.Add(1)
			if random.IntN(2) == 0 {
				s.count("kill -9")
				s.b.Kill()
			} else {
				s.count("SIGTERM")
				s.b.Stop()
			}
			s.b.Launch()
			if err := s.b.AwaitReady(time.Minute); err != nil {
				s.fail("restart: %v", err)
				return
			}
			s.down.Add(1)
		}
	})
}

// finish reads every topic whole and holds it against the journal.
func (s *soak) finish() {
	r := s.newReader(1000)
	defer r.close()
	for _, tp := range s.topics {
		for p := range tp.count() {
			if tp.kind.keys > 0 {
				r.scan(tp.part(p))
			} else {
				r.whole(tp.part(p))
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(s.t, s.errs)
}

func (s *soak) adm() *kadm.Client { return kadm.NewClient(s.client()) }
