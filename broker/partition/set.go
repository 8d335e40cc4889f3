package partition

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
)

// leastOpeners is how many logs are opened or closed at the same time, at least:
// most of it is waiting for the disk.
const leastOpeners = 16

// SetOptions say where a Set keeps its logs and whom it tells.
type SetOptions struct {
	NodeID int32
	FS     vfs.FS
	Dir    *commitlog.Dir
	// FlushWorkers is the number of fsyncs under way at one time.
	FlushWorkers int
	// Openers is how many logs are opened at the same time, if more than 16
	// (num.recovery.threads.per.data.dir).
	Openers int
	// ProducerExpiration is how long an idle producer is remembered
	// (producer.id.expiration.ms).
	ProducerExpiration time.Duration
	// MaxFiles bounds the descriptors that logs keep open.
	MaxFiles int
	// LagMax is replica.lag.time.max.ms.
	LagMax time.Duration
	// BrokerConfigs are the broker's own settings by Kafka's names, the defaults
	// of every topic; they are combined with what was altered at run time.
	BrokerConfigs map[string]string
	Meta          metadata.Client
	// OnLeadership is told, in order, of each leadership gained (with its epoch)
	// or lost. It must not block.
	OnLeadership func(p *Partition, leads bool, epoch record.Epoch)
	// OnFatal is told that the disk failed below a log. The broker stops.
	OnFatal func(error)
	Logger  *slog.Logger
}

// Set holds the partitions that this broker hosts and keeps them in step with
// the metadata image.
type Set struct {
	opts    SetOptions
	flusher *commitlog.Flusher
	fds     *segment.FDCache
	space   *space

	parts sync.Map // record.TopicPartition → *Partition
	count atomic.Int64

	mu sync.Mutex // serializes Apply and Close
	// failed are the partitions whose log could not be opened, with the reason.
	failed map[record.TopicPartition]error
	image  *metadata.Image // of the last Apply
	closed bool
	begun  bool

	// img is the image of the last Apply, for those who do not hold mu.
	img      atomic.Pointer[metadata.Image]
	proposer proposer

	wg   sync.WaitGroup
	stop chan struct{}
}

// NewSet returns an empty set. Apply fills it.
func NewSet(o SetOptions) *Set {
	s := &Set{opts: o, failed: make(map[record.TopicPartition]error), stop: make(chan struct{})}
	s.fds = segment.NewFDCache(o.MaxFiles)
	s.space = newSpace(o.FS, o.Dir.Path(), o.Logger)
	s.flusher = commitlog.NewFlusher(commitlog.FlusherOptions{Workers: o.FlushWorkers,
		OnFatal: func(dir string, err error) {
			// What the page cache holds of the tail may never reach the disk: the
			// next start is told not to believe it.
			o.OnFatal(errors.Join(fmt.Errorf("log %s: %w", dir, err), o.Dir.MarkUntrusted()))
		}})
	s.img.Store(metadata.Empty())
	s.proposer.init(s)
	s.wg.Go(s.proposer.run)
	s.wg.Go(s.housekeep)
	s.wg.Go(s.watchSpace)
	return s
}

// Get returns a hosted partition, or nil.
func (s *Set) Get(tp record.TopicPartition) *Partition {
	if v, ok := s.parts.Load(tp); ok {
		return v.(*Partition)
	}
	return nil
}

// All iterates over the hosted partitions in no order.
func (s *Set) All() iter.Seq[*Partition] {
	return func(yield func(*Partition) bool) {
		s.parts.Range(func(_, v any) bool { return yield(v.(*Partition)) })
	}
}

// Len is the number of hosted partitions.
func (s *Set) Len() int { return int(s.count.Load()) }

// Failed returns the partitions whose log could not be opened, and why.
func (s *Set) Failed() map[record.TopicPartition]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.failed)
}

// Dir is the data directory of the logs.
func (s *Set) Dir() *commitlog.Dir { return s.opts.Dir }

// FDs tells how the shared cache of descriptors is used.
func (s *Set) FDs() *segment.FDCache { return s.fds }

// Apply brings the set in step with a new image: it opens, changes and deletes
// logs. It is the metadata's subscriber.
func (s *Set) Apply(_, img *metadata.Image, d metadata.Delta) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.image = img
	s.img.Store(img)
	if !s.begun {
		s.begun = true
		s.setAsideStrays(img)
	}
	for _, t := range d.Deleted {
		for n := range t.Partitions {
			s.removeLocked(record.TopicPartition{Topic: t.ID, Partition: n})
		}
	}
	s.reconfigureLocked(img, d)

	var g errgroup.Group
	g.SetLimit(max(s.opts.Openers, leastOpeners))
	failed := make([]error, len(d.Partitions))
	for i, tp := range d.Partitions {
		g.Go(func() error {
			failed[i] = s.place(img, tp)
			return nil
		})
	}
	_ = g.Wait() // place reports through failed, so that each partition fails alone
	for i, tp := range d.Partitions {
		if err := failed[i]; err != nil {
			s.failed[tp] = err
			s.opts.Logger.Error("partition is offline", "topic", topicName(img, tp), "partition", tp.Partition, "err", err)
		} else {
			delete(s.failed, tp)
		}
	}
	// Logs that the log start or the bucket has overtaken are trimmed by reclaim.
	for _, tp := range d.Partitions {
		s.tellLeadership(img, tp)
	}
}

// retryFailed tries once more to open what could not be opened: a full disk may
// have room again. What is beyond repair stays failed.
func (s *Set) retryFailed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for tp := range s.failed {
		if err := s.place(s.image, tp); err != nil {
			s.failed[tp] = err
			continue
		}
		delete(s.failed, tp)
		s.opts.Logger.Info("partition is online", "topic", topicName(s.image, tp), "partition", tp.Partition)
		s.tellLeadership(s.image, tp)
	}
}

func topicName(img *metadata.Image, tp record.TopicPartition) string {
	if t := img.Topic(tp.Topic); t != nil {
		return t.Name
	}
	return tp.Topic.String()
}

// place makes one partition fit the image: here or not here, leader or follower.
func (s *Set) place(img *metadata.Image, tp record.TopicPartition) error {
	topic, state := img.Topic(tp.Topic), img.Partition(tp)
	if topic == nil || state == nil {
		return nil
	}
	p := s.Get(tp)
	if !state.HasReplica(s.opts.NodeID) {
		if p != nil {
			s.parts.Delete(tp)
			s.count.Add(-1)
			return p.close(true)
		}
		return nil
	}
	if p == nil {
		var err error
		if p, err = s.open(img, topic, tp, state); err != nil {
			return err
		}
		s.parts.Store(tp, p)
		s.count.Add(1)
	}
	return p.assign(replica.Assignment{
		Leader: state.Leader, LeaderEpoch: state.LeaderEpoch, PartitionEpoch: state.PartitionEpoch,
		Replicas: state.Replicas, ISR: state.ISR, RemoteEnd: state.RemoteEnd, LogStart: state.LogStart,
	})
}

// open opens or makes a partition's log.
func (s *Set) open(img *metadata.Image, topic *metadata.Topic, tp record.TopicPartition, state *metadata.Partition) (*Partition, error) {
	cfg, err := configdef.ParseTopic(topic.Configs, s.topicDefaults(img))
	if err != nil {
		// The settings at fault have their inherited values.
		s.opts.Logger.Error("topic has a bad configuration", "topic", topic.Name, "err", err)
	}
	p := &Partition{tp: tp, topic: topic.Name, slog: s.opts.Logger, space: s.space, prop: s.proposer.add,
		logStart: state.LogStart, remoteEnd: state.RemoteEnd}
	p.settings.Store(newSettings(cfg))
	log, err := commitlog.Open(commitlog.Options{
		FS: s.opts.FS, Dir: s.opts.Dir.PathOf(tp), Flusher: s.flusher, FDs: s.fds,
		Config: logConfig(cfg, s.opts.ProducerExpiration), InitialOffset: max(state.LogStart, state.RemoteEnd),
		OnFlushed: p.flushed, Untrusted: s.opts.Dir.Untrusted(), Logger: s.opts.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open log %s-%d: %w", topic.Name, tp.Partition, err)
	}
	if err := s.bucketWins(log, tp, state); err != nil {
		return nil, errors.Join(fmt.Errorf("begin log %s-%d anew: %w", topic.Name, tp.Partition, err), log.Close(false))
	}
	p.mu.Lock()
	p.log = log
	p.rep = replica.New(s.opts.NodeID, s.replicaConfig(cfg), state.LogStart,
		replica.Progress{LogEnd: log.End(), FlushedEnd: log.FlushedEnd()})
	p.mu.Unlock()
	return p, nil
}

func (s *Set) replicaConfig(c *configdef.TopicConfig) replica.Config {
	return replica.Config{Fsync: c.Fsync, MinISR: c.MinInsyncReplicas, LagMax: s.opts.LagMax}
}

// topicDefaults are the broker's settings as they hold now.
func (s *Set) topicDefaults(img *metadata.Image) map[string]string {
	return Layers(img, s.opts.NodeID, s.opts.BrokerConfigs).Flat()
}

// Layers are a broker's settings: static ones, and what was altered at run time
// for all brokers and for this one.
func Layers(img *metadata.Image, node int32, static map[string]string) configdef.Layers {
	return configdef.Layers{
		Broker:         img.Configs(metadata.ResourceBroker, strconv.Itoa(int(node))),
		ClusterDefault: img.Configs(metadata.ResourceBroker, ""),
		Static:         static,
	}
}

// reconfigureLocked carries changed topic and broker settings to the partitions.
func (s *Set) reconfigureLocked(img *metadata.Image, d metadata.Delta) {
	topics := slices.Clone(d.Topics)
	for _, c := range d.Configs {
		if c.Kind == metadata.ResourceBroker {
			topics = topics[:0]
			for t := range img.Topics() {
				topics = append(topics, t.ID)
			}
			break
		}
	}
	var defaults map[string]string
	for _, id := range topics {
		topic := img.Topic(id)
		if topic == nil {
			continue
		}
		if defaults == nil {
			defaults = s.topicDefaults(img)
		}
		cfg, err := configdef.ParseTopic(topic.Configs, defaults)
		if err != nil {
			s.opts.Logger.Error("topic has a bad configuration", "topic", topic.Name, "err", err)
		}
		for n := range topic.Partitions {
			if p := s.Get(record.TopicPartition{Topic: id, Partition: n}); p != nil {
				p.configure(cfg, logConfig(cfg, s.opts.ProducerExpiration), s.replicaConfig(cfg))
			}
		}
	}
}

// tellLeadership passes on a change of role since the last time.
func (s *Set) tellLeadership(img *metadata.Image, tp record.TopicPartition) {
	p, state := s.Get(tp), img.Partition(tp)
	if p == nil || state == nil || s.opts.OnLeadership == nil {
		return
	}
	leads := state.Leader == s.opts.NodeID
	if leads == p.led && (!leads || state.LeaderEpoch == p.ledEpoch) {
		return
	}
	p.led, p.ledEpoch = leads, state.LeaderEpoch
	s.opts.OnLeadership(p, leads, state.LeaderEpoch)
}

// removeLocked deletes a partition of a deleted topic with its data.
func (s *Set) removeLocked(tp record.TopicPartition) {
	delete(s.failed, tp)
	p := s.Get(tp)
	if p == nil {
		return
	}
	s.parts.Delete(tp)
	s.count.Add(-1)
	if p.led && s.opts.OnLeadership != nil {
		s.opts.OnLeadership(p, false, p.ledEpoch)
	}
	if err := p.close(true); err != nil {
		s.opts.Logger.Warn("close log of deleted topic", "topic", p.topic, "partition", tp.Partition, "err", err)
	}
	if err := s.opts.Dir.RemovePartition(tp); err != nil {
		s.opts.Logger.Error("remove log of deleted topic", "topic", p.topic, "partition", tp.Partition, "err", err)
	}
}

// strayGrace is how long a directory that the metadata does not know is kept.
const strayGrace = 7 * 24 * time.Hour

// setAsideStrays puts away the logs that the metadata does not place here.
func (s *Set) setAsideStrays(img *metadata.Image) {
	have, err := s.opts.Dir.ListPartitions()
	if err != nil {
		s.opts.Logger.Error("list partitions on disk", "err", err)
		return
	}
	now := time.Now()
	for _, tp := range have {
		if state := img.Partition(tp); state != nil && state.HasReplica(s.opts.NodeID) {
			continue
		}
		to, err := s.opts.Dir.SetAsideStray(tp, now)
		if err != nil {
			s.opts.Logger.Error("set aside unknown log", "partition", tp, "err", err)
			continue
		}
		s.opts.Logger.Warn("log is not in the metadata; set aside", "partition", tp, "to", filepath.Base(to), "kept", strayGrace)
	}
	if _, err := s.opts.Dir.RemoveStrays(now.Add(-strayGrace)); err != nil {
		s.opts.Logger.Error("remove old strays", "err", err)
	}
}

const (
	// housekeepEvery is the pace of ticks, by which lagging followers are found.
	housekeepEvery = time.Second
	// ageEvery is how many ticks pass between looks for segments to seal by age.
	ageEvery = 3
	// retryEvery is how many ticks pass between attempts at logs that did not open.
	retryEvery = 5
)

// spaceEvery is how often the disk is asked what is free.
const spaceEvery = 250 * time.Millisecond

func (s *Set) watchSpace() {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			s.space.measure()
		}
	}
}

// Space tells what is free on the data disk, in bytes, and whether writes are
// refused for want of it.
func (s *Set) Space() (free int64, full bool) { return s.space.free.Load(), s.space.full.Load() }

func (s *Set) housekeep() {
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-s.stop:
			return
		case now := <-tick.C:
			if n%retryEvery == 0 {
				s.retryFailed()
			}
			eligible := s.eligible()
			for p := range s.All() {
				p.tick(now, eligible)
				if n%ageEvery == 0 {
					p.age(now)
				}
			}
		}
	}
}

// age seals an idle segment that is old enough and forgets idle producers.
func (p *Partition) age(now time.Time) {
	if _, err := p.log.MaybeRoll(now); err != nil && !errors.Is(err, commitlog.ErrClosed) {
		p.slog.Error("seal by age", "topic", p.topic, "partition", p.tp.Partition, "err", err)
	}
	p.log.ExpireProducers(now)
}

// Close stops all partitions and closes their logs. clean leaves the mark of a
// clean shutdown on each.
func (s *Set) Close(clean bool) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.stop)
	s.wg.Wait()
	var g errgroup.Group
	g.SetLimit(max(s.opts.Openers, leastOpeners))
	for p := range s.All() {
		g.Go(func() error { return p.close(clean) })
	}
	err := g.Wait()
	s.flusher.Close()
	return err
}
