// Package fsm applies the metadata log: deterministic, idempotent, on Pebble.
//
// FSM owns the Pebble database of the replicated state and the newest
// metadata.Image. One goroutine applies (ApplyBatch, Restore); readers load the
// image or read Pebble at any time. The package starts no goroutine; Pebble runs
// its own.
//
// Always:
//
//   - the state after index N is a function of the commands 1…N alone: apply
//     reads no clock, draws no random number and does no I/O but Pebble, and how
//     the log was cut into batches does not matter;
//   - the applied index is committed in the same Pebble batch as what it applied,
//     so a crash leaves the state of some earlier index, from where the log is
//     applied again; a command at or below the applied index changes nothing;
//   - a command, or an item of a batch command, either applies whole or changes
//     nothing;
//   - the image has exactly what Pebble has, at the same index.
//
// Writes need no sync: the log is synced before it is applied. Flush is called
// before the log is cut.
//
// An entry that this build cannot read, or an error of Pebble, fails the FSM for
// good: it applies nothing more, and OnFatal is called once.
package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
	"github.com/firnlog/firn/record"
)

// formatVersion is the version of the key layout, in meta/format.
const formatVersion = 1

// requestsKept is how many results of requests are remembered. It is part of the
// replicated behaviour: changing it needs a new command version.
const requestsKept = 4096

// Options configure an FSM.
type Options struct {
	// FS and Dir say where the database is. FS nil is the operating system's.
	FS  vfs.FS
	Dir string
	// Cache is shared with other databases; nil makes a private one of 1 MiB.
	Cache *pebble.Cache
	// OnApplied is called for each new image in order, once it is published: after
	// a batch that moved the index, a restore, or a change of the leader. A lock is
	// held: it must not block, nor call the FSM.
	OnApplied func(img *metadata.Image, delta metadata.Delta)
	// OnFatal is called once if the FSM fails for good.
	OnFatal func(error)
	Logger  *slog.Logger
}

// Entry is one command of the log.
type Entry struct {
	Index uint64
	Data  []byte
}

// Outcome is what became of one command: a result, or a refusal (*command.Error).
type Outcome struct {
	Result command.Result
	Err    error
}

// FSM is the replicated metadata state of one node.
type FSM struct {
	opts  Options
	db    *pebble.DB
	image atomic.Pointer[metadata.Image]

	manifests manifests

	// The applying goroutine's own, besides Pebble and the image.
	cluster  clusterState
	requests requestTable

	mu struct {
		sync.Mutex
		failed error
	}

	// pub orders the images that the applying goroutine and SetLeader publish.
	// OnApplied is called under it.
	pub struct {
		sync.Mutex
		leader uuid.UUID
	}
}

// clusterState is the part of meta/cluster that the image does not show.
type clusterState struct {
	nextProducerID int64
}

// Open opens or creates the state. The error wraps command.ErrUnknownVersion if a
// newer build wrote it. A state whose restore was cut short comes up empty at
// index 0: the caller restores again from its snapshot.
func Open(opts Options) (*FSM, error) {
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	f := &FSM{opts: opts}
	db, err := pebble.Open(opts.Dir, f.pebbleOptions())
	if err != nil {
		return nil, fmt.Errorf("open metadata state %s: %w", opts.Dir, err)
	}
	f.db = db
	img, err := f.load()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load metadata state %s: %w", opts.Dir, err), db.Close())
	}
	f.image.Store(img)
	return f, nil
}

func (f *FSM) pebbleOptions() *pebble.Options {
	log := PebbleLog{f.opts.Logger, f.opts.Dir}
	o := &pebble.Options{
		FS:                 log.FS(f.opts.FS),
		Cache:              f.opts.Cache,
		CacheSize:          1 << 20,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       4 << 20,
		MaxOpenFiles:       64,
		Logger:             log,
		EventListener: &pebble.EventListener{
			BackgroundError: log.BackgroundError,
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				f.fail(fmt.Errorf("%w: metadata state: %s: %w", command.ErrCorrupt, info.Path, info.Details))
			},
		},
	}
	return o
}

// load reads the small state into an image, which the caller publishes.
func (f *FSM) load() (*metadata.Image, error) {
	restoring, err := f.has(keyRestoring)
	if err != nil {
		return nil, err
	}
	if restoring {
		f.opts.Logger.Warn("metadata state: a restore was cut short; starting empty")
		if err := f.wipe(); err != nil {
			return nil, err
		}
	}
	format, ok, err := getUint(f.db, keyFormat)
	if err != nil {
		return nil, err
	}
	if ok && format != formatVersion {
		return nil, fmt.Errorf("%w: metadata state format %d, this build knows %d", command.ErrUnknownVersion, format, formatVersion)
	}
	if !ok {
		if err := f.db.Set([]byte(keyFormat), putUint(formatVersion), pebble.Sync); err != nil {
			return nil, err
		}
	}
	applied, _, err := getUint(f.db, keyApplied)
	if err != nil {
		return nil, err
	}
	ed := metadata.Empty().Edit()
	var cluster clusterState
	if err := loadSmall(f.db, ed, &cluster); err != nil {
		return nil, err
	}
	requests, err := loadRequests(f.db)
	if err != nil {
		return nil, err
	}
	img, _ := ed.Commit(applied)
	f.cluster, f.requests = cluster, requests
	return img, nil
}

// loadSmall reads everything that the image holds.
func loadSmall(r pebble.Reader, ed *metadata.Editor, cluster *clusterState) error {
	var cm statepb.Cluster
	if ok, err := getValue(r, []byte(keyCluster), &cm); err != nil {
		return err
	} else if ok {
		ed.SetClusterID(cm.GetClusterId())
		for name, level := range cm.GetFeatures() {
			l, err := toInt16(level)
			if err != nil {
				return err
			}
			ed.SetFeature(name, l, cm.GetFeaturesEpoch())
		}
		if err := checkLevel(command.LevelOf(ed.Features())); err != nil {
			return err
		}
		ed.SetFeaturesEpoch(cm.GetFeaturesEpoch())
		cluster.nextProducerID = cm.GetNextProducerId()
	}
	err := scan(r, []byte(prefixBroker), func(key, value []byte) error {
		k, err := keyTail(key, prefixBroker, 4)
		if err != nil {
			return err
		}
		var m statepb.Broker
		if err := decodeValue(value, &m); err != nil {
			return err
		}
		b, err := brokerFromProto(int32(binary.BigEndian.Uint32(k)), &m)
		if err != nil {
			return err
		}
		ed.PutBroker(b)
		return nil
	})
	if err != nil {
		return err
	}
	err = scan(r, []byte(prefixTopic), func(key, value []byte) error {
		k, err := keyTail(key, prefixTopic, 16)
		if err != nil {
			return err
		}
		var m statepb.Topic
		if err := decodeValue(value, &m); err != nil {
			return err
		}
		t, err := topicFromProto(record.TopicID(k), &m)
		if err != nil {
			return err
		}
		ed.PutTopic(t)
		return nil
	})
	if err != nil {
		return err
	}
	if err := loadPartitions(r, ed); err != nil {
		return err
	}
	return scan(r, []byte(prefixConfig), func(key, value []byte) error {
		if len(key) < len(prefixConfig)+1 {
			return fmt.Errorf("%w: key %q", command.ErrCorrupt, key)
		}
		var m statepb.Configs
		if err := decodeValue(value, &m); err != nil {
			return err
		}
		kind := metadata.ResourceKind(key[len(prefixConfig)])
		if kind == metadata.ResourceTopic {
			return fmt.Errorf("%w: key %q: a topic's configs are stored with the topic", command.ErrCorrupt, key)
		}
		ed.SetConfigs(metadata.ConfigResource{Kind: kind, Name: string(key[len(prefixConfig)+1:])}, m.GetConfigs())
		return nil
	})
}

// loadPartitions reads the partitions and checks that each topic has all of its.
func loadPartitions(r pebble.Reader, ed *metadata.Editor) error {
	var topic *metadata.Topic
	next := int32(0)
	err := scan(r, []byte(prefixPartition), func(key, value []byte) error {
		tp, err := parsePartitionKey(key)
		if err != nil {
			return err
		}
		if topic == nil || topic.ID != tp.Topic {
			if topic, next = ed.Topic(tp.Topic), 0; topic == nil {
				return fmt.Errorf("%w: partition %s of an unknown topic", command.ErrCorrupt, tp)
			}
		}
		if tp.Partition != next || tp.Partition >= topic.Partitions {
			return fmt.Errorf("%w: partition %s where %d of %d was due", command.ErrCorrupt, tp, next, topic.Partitions)
		}
		next++
		var m statepb.Partition
		if err := decodeValue(value, &m); err != nil {
			return err
		}
		ed.PutPartition(tp, partitionFromProto(&m))
		return nil
	})
	if err != nil {
		return err
	}
	return ed.CheckPartitions()
}

// checkLevel stops a build that does not know the cluster's level. It might apply the
// next command otherwise than the others do.
func checkLevel(level command.Level) error {
	if level <= command.MaxLevel {
		return nil
	}
	return fmt.Errorf("%w: older version than the cluster, which is at level %d of %s: this program knows %d to %d; install the version of the other brokers",
		command.ErrUnknownVersion, level, command.Feature, command.Level1, command.MaxLevel)
}

// Image returns the newest image.
func (f *FSM) Image() *metadata.Image { return f.image.Load() }

// Applied is the index of the last applied command.
func (f *FSM) Applied() uint64 { return f.Image().Index() }

// Failed returns why the FSM stopped applying, or nil.
func (f *FSM) Failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.failed
}

// SetLeader says which node leads the metadata, by its directory id; uuid.Nil for
// none. It becomes the image's ControllerID.
func (f *FSM) SetLeader(directory uuid.UUID) {
	f.pub.Lock()
	defer f.pub.Unlock()
	f.pub.leader = directory
	f.publishLocked(f.Image(), metadata.Delta{})
}

// publish makes img the newest image.
func (f *FSM) publish(img *metadata.Image, delta metadata.Delta) {
	f.manifests.forget(&delta)
	f.pub.Lock()
	defer f.pub.Unlock()
	f.publishLocked(img, delta)
}

func (f *FSM) publishLocked(img *metadata.Image, delta metadata.Delta) {
	old := f.Image()
	img = img.WithController(controllerOf(img, f.pub.leader))
	delta.Controller = img.ControllerID() != old.ControllerID()
	if img == old {
		return
	}
	f.image.Store(img)
	if f.opts.OnApplied != nil {
		f.opts.OnApplied(img, delta)
	}
}

// controllerOf is the broker that lives in the leader's directory, or -1.
func controllerOf(img *metadata.Image, leader uuid.UUID) int32 {
	if leader != uuid.Nil {
		for b := range img.Brokers() {
			if b.DirectoryID == leader {
				return b.ID
			}
		}
	}
	return -1
}

func (f *FSM) fail(err error) {
	f.mu.Lock()
	first := f.mu.failed == nil
	if first {
		f.mu.failed = err
	}
	f.mu.Unlock()
	if first && f.opts.OnFatal != nil {
		f.opts.OnFatal(err)
	}
}

// Flush makes everything applied so far durable.
func (f *FSM) Flush() error {
	if err := f.db.Flush(); err != nil {
		return fmt.Errorf("flush metadata state: %w", err)
	}
	return nil
}

// Close flushes and closes the database. No other call may be under way.
func (f *FSM) Close() error {
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("close metadata state: %w", err)
	}
	return nil
}

// has reports whether a key exists.
func (f *FSM) has(key string) (bool, error) { return hasKey(f.db, []byte(key)) }

func hasKey(r pebble.Reader, key []byte) (bool, error) {
	_, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %q: %w", key, err)
	}
	return true, closer.Close()
}

// requestTable is the order in which remembered requests leave, oldest first.
// The results are in Pebble.
type requestTable struct {
	order []requestSlot
}

type requestSlot struct {
	index uint64
	id    uuid.UUID
}

func loadRequests(r pebble.Reader) (requestTable, error) {
	var t requestTable
	err := scan(r, []byte(prefixReqOrder), func(key, value []byte) error {
		k, err := keyTail(key, prefixReqOrder, 8)
		if err != nil {
			return err
		}
		id, err := id16(value, "request id")
		if err != nil {
			return err
		}
		t.order = append(t.order, requestSlot{index: binary.BigEndian.Uint64(k), id: id})
		return nil
	})
	return t, err
}
