package partition

import (
	"context"
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
	"github.com/twmb/franz-go/pkg/kerr"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
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
	// LastRemoteState asks the bucket where a partition's history ends; nil without
	// an object store. It may block: no lock is held.
	LastRemoteState RemoteState
	// Lease is this broker's at the controller; nil never ends. Without a valid
	// lease a leader answers clients NOT_LEADER_OR_FOLLOWER. It is asked for each
	// batch and read, so it must not lock.
	Lease interface{ Valid() bool }
	// Now is the time that records are judged and stamped by, and idle producers
	// forgotten; nil is time.Now. It is asked for each batch, so it must not lock.
	Now func() time.Time
	// OnFollow is told, in order, whom a partition follows from now on, or that it
	// follows nobody. It must not block. Optional.
	OnFollow func(p *Partition, f Following)
	// OnLeadership is told, in order, of each leadership gained (with its epoch)
	// or lost. It must not block.
	OnLeadership func(p *Partition, leads bool, epoch record.Epoch)
	// OnFatal is told that the disk failed below a log. The broker stops.
	OnFatal func(error)
	Logger  *slog.Logger
}

// Following says whom a partition follows.
type Following struct {
	// Leader is a broker id, −1 for nobody: the partition leads, has no leader, or is
	// no longer here.
	Leader int32
	Epoch  record.Epoch
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
	// offline says the same to those who do not hold mu.
	offline sync.Map        // record.TopicPartition → struct{}
	image   *metadata.Image // of the last Apply
	gone    Counters        // of the partitions that were removed
	closed  bool
	begun   bool

	// img is the image of the last Apply, for those who do not hold mu.
	img      atomic.Pointer[metadata.Image]
	proposer proposer
	restorer restorer
	news     isrNews

	wg   sync.WaitGroup
	stop chan struct{}
}

// NewSet returns an empty set. Apply fills it.
func NewSet(o SetOptions) *Set {
	if o.Now == nil {
		o.Now = time.Now
	}
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
	s.restorer.init(s)
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

// Lookup is Get with the reason where there is none: kerr.KafkaStorageError for a
// partition that is placed here and whose log could not be opened,
// kerr.NotLeaderForPartition for one that is not.
func (s *Set) Lookup(tp record.TopicPartition) (*Partition, error) {
	if p := s.Get(tp); p != nil {
		return p, nil
	}
	if _, failed := s.offline.Load(tp); failed {
		return nil, kerr.KafkaStorageError
	}
	return nil, kerr.NotLeaderForPartition
}

// Failed returns the partitions that are offline though they are placed here, and
// why: the log could not be opened, or waits for the bucket before it may lead.
func (s *Set) Failed() map[record.TopicPartition]error {
	s.mu.Lock()
	out := maps.Clone(s.failed)
	s.mu.Unlock()
	s.restorer.offline(out)
	return out
}

// setFailedLocked notes why a partition is offline, nil that it is not.
func (s *Set) setFailedLocked(tp record.TopicPartition, err error) {
	if err == nil {
		delete(s.failed, tp)
		s.offline.Delete(tp)
		return
	}
	s.failed[tp] = err
	s.offline.Store(tp, struct{}{})
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

	for _, tp := range d.Partitions {
		if state := img.Partition(tp); state != nil && !state.HasReplica(s.opts.NodeID) {
			s.removeLocked(tp)
		}
	}
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
		s.setFailedLocked(tp, failed[i])
		if failed[i] != nil {
			s.opts.Logger.Error("partition is offline", "topic", topicName(img, tp), "partition", tp.Partition, "err", failed[i])
		}
	}
	// Logs that the log start or the bucket has overtaken are trimmed by reclaim.
	for _, tp := range d.Partitions {
		s.tellRole(tp)
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
		err := s.place(s.image, tp)
		s.setFailedLocked(tp, err)
		if err != nil {
			continue
		}
		s.opts.Logger.Info("partition is online", "topic", topicName(s.image, tp), "partition", tp.Partition)
		s.tellRole(tp)
	}
}

func topicName(img *metadata.Image, tp record.TopicPartition) string {
	if t := img.Topic(tp.Topic); t != nil {
		return t.Name
	}
	return tp.Topic.String()
}

// place makes one partition that is placed here fit the image.
func (s *Set) place(img *metadata.Image, tp record.TopicPartition) error {
	topic, state := img.Topic(tp.Topic), img.Partition(tp)
	if topic == nil || state == nil || !state.HasReplica(s.opts.NodeID) {
		return nil
	}
	p := s.Get(tp)
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
		Replicas: state.Replicas, ISR: state.ISR, RemoteEnd: state.RemoteEnd, RemoteEpoch: state.RemoteEpoch,
		LogStart: state.LogStart, Cold: state.Cold,
	}, s.replicaConfig(img, topic, state, p.Config()))
}

// open opens or makes a partition's log.
func (s *Set) open(img *metadata.Image, topic *metadata.Topic, tp record.TopicPartition, state *metadata.Partition) (*Partition, error) {
	cfg, err := configdef.ParseTopic(topic.Configs, s.topicDefaults(img))
	if err != nil {
		// The settings at fault have their inherited values.
		s.opts.Logger.Error("topic has a bad configuration", "topic", topic.Name, "err", err)
	}
	p := &Partition{tp: tp, topic: topic.Name, slog: s.opts.Logger, space: s.space, set: s,
		logStart: state.LogStart, remoteEnd: state.RemoteEnd, followed: Following{Leader: -1, Epoch: -1}}
	p.settings.Store(newSettings(cfg))
	log, err := commitlog.Open(commitlog.Options{
		FS: s.opts.FS, Dir: s.opts.Dir.PathOf(tp), Flusher: s.flusher, FDs: s.fds,
		Config: logConfig(cfg, s.opts.ProducerExpiration), InitialOffset: max(state.LogStart, state.RemoteEnd),
		OnFlushed: p.flushed, Untrusted: s.opts.Dir.Untrusted(), Logger: s.opts.Logger,
	})
	if err == nil && cfg.Fsync {
		// What kill -9 left in the page cache was perhaps acknowledged. It must be
		// durable before it counts again; to serve before that would show a watermark
		// below what a client has seen.
		if err = log.Flush(context.Background()); err != nil {
			err = errors.Join(err, log.Close(false))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open log %s-%d: %w", topic.Name, tp.Partition, err)
	}
	p.mu.Lock()
	p.log = log
	p.rep = replica.New(s.opts.NodeID, s.replicaConfig(img, topic, state, cfg), state.LogStart,
		replica.Progress{LogEnd: log.End(), FlushedEnd: log.FlushedEnd()})
	p.mu.Unlock()
	return p, nil
}

func (s *Set) replicaConfig(img *metadata.Image, topic *metadata.Topic, state *metadata.Partition, c *configdef.TopicConfig) replica.Config {
	return replica.Config{Fsync: c.Fsync, MinISR: metadata.MinISR(img, topic, state.Factor()), LagMax: s.opts.LagMax,
		Warmth: img.Level() >= command.Level2}
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
	if d.Features || slices.ContainsFunc(d.Configs, func(c metadata.ConfigResource) bool { return c.Kind == metadata.ResourceBroker }) {
		topics = topics[:0]
		for t := range img.Topics() {
			topics = append(topics, t.ID)
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
			tp := record.TopicPartition{Topic: id, Partition: n}
			if p, state := s.Get(tp), img.Partition(tp); p != nil && state != nil {
				p.configure(cfg, logConfig(cfg, s.opts.ProducerExpiration), s.replicaConfig(img, topic, state, cfg))
			}
		}
	}
}

// tellRole passes on a change of role since the last time.
func (s *Set) tellRole(tp record.TopicPartition) {
	p := s.Get(tp)
	if p == nil {
		return
	}
	role, leader, epoch := p.role()
	leads := role == replica.Leader
	follows := Following{Leader: -1, Epoch: epoch}
	if role == replica.Follower {
		follows.Leader = leader
	}
	// Who followed leads only after it was told to stop, and the other way round.
	if leads {
		s.tellFollowing(p, follows)
	}
	if s.opts.OnLeadership != nil && (leads != p.led || leads && epoch != p.ledEpoch) {
		p.led, p.ledEpoch = leads, epoch
		s.opts.OnLeadership(p, leads, epoch)
	}
	if !leads {
		s.tellFollowing(p, follows)
	}
}

func (s *Set) tellFollowing(p *Partition, f Following) {
	if s.opts.OnFollow == nil || f == p.followed || f.Leader < 0 && p.followed.Leader < 0 {
		return
	}
	p.followed = f
	s.opts.OnFollow(p, f)
}

// tellRestored passes on the role that a partition has now that its log fits.
func (s *Set) tellRestored(p *Partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.tellRole(p.tp)
	}
}

// removeLocked deletes a partition that is not placed here any more, with its data:
// its topic was deleted, or it was reassigned.
func (s *Set) removeLocked(tp record.TopicPartition) {
	p := s.Get(tp)
	if _, failed := s.failed[tp]; p == nil && !failed {
		return
	}
	s.setFailedLocked(tp, nil)
	if p != nil {
		s.parts.Delete(tp)
		s.count.Add(-1)
		if p.led && s.opts.OnLeadership != nil {
			s.opts.OnLeadership(p, false, p.ledEpoch)
		}
		s.tellFollowing(p, Following{Leader: -1, Epoch: p.followed.Epoch})
		if err := p.close(true); err != nil {
			s.opts.Logger.Warn("close log of a partition that goes", "topic", p.topic, "partition", tp.Partition, "err", err)
		}
		s.gone.add(p.Counters())
	}
	if err := s.opts.Dir.RemovePartition(tp); err != nil {
		s.opts.Logger.Error("remove log of a partition that is not here any more", "partition", tp, "err", err)
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

// Full reports whether others should take over what this broker leads, for want of
// space on its disk. It ends only once there is as much room again as is kept free:
// who came back at the first free byte would be full again at once.
func (s *Set) Full() bool { return s.space.lacking.Load() }

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
			s.news.tell(s.opts.Logger)
			s.restorer.retry(now)
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
	p.log.ExpireProducers(p.set.opts.Now())
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
	s.restorer.stop()
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
