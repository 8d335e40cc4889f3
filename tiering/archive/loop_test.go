package archive_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/layout"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/tiertest"
)

// node is what an Archiver works among: partitions that seal a segment of ten
// records every so often, the model of the metadata, a store.
type node struct {
	mu     sync.Mutex
	meta   *tiertest.Metadata
	sealed map[record.TopicPartition]record.Offset
	open   int // built objects not closed yet
}

func (n *node) Propose(ctx context.Context, c command.Command) (command.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.meta.Propose(ctx, c)
}

func (n *node) Leads() []archive.Led {
	n.mu.Lock()
	defer n.mu.Unlock()
	var leads []archive.Led
	for tp, end := range n.sealed {
		p := n.meta.Parts[tp]
		if p.Leader != 1 {
			continue
		}
		led := archive.Led{Partition: tp, Store: "warm", Start: p.Manifest.CopyStart(),
			Fence: command.Fence{BrokerID: 1, BrokerEpoch: n.meta.Epochs[1], LeaderEpoch: p.LeaderEpoch}}
		for at := led.Start/10*10 + 10; at <= end; at += 10 {
			led.Sealed = append(led.Sealed, archive.Sealed{End: at, Bytes: 100, At: time.Now()})
		}
		leads = append(leads, led)
	}
	return leads
}

func (n *node) Build(ctx context.Context, c archive.Copy) (*archive.Built, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	b := build(c)
	n.open++
	b.Close = func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.open--
		return nil
	}
	return b, nil
}

func newNode(partitions int) *node {
	n := &node{meta: tiertest.New(), sealed: map[record.TopicPartition]record.Offset{}}
	n.meta.Register(1)
	for i := range partitions {
		n.meta.Parts[partition(i)] = &tiertest.Partition{Leader: 1}
		n.sealed[partition(i)] = 0
	}
	return n
}

func (n *node) archiver(t *testing.T, s objstore.Store) *archive.Archiver {
	lay, err := layout.New("", "cluster")
	require.NoError(t, err)
	a, err := archive.New(archive.Options{
		Partitions: n, Builder: n, Metadata: n, Stores: map[string]objstore.Store{"warm": s}, Layout: lay,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Machine: archive.MachineOptions{TargetBytes: 150},
	})
	require.NoError(t, err)
	return a
}

// start runs the archiver; the function it returns stops it.
func start(a *archive.Archiver) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { a.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func (n *node) seal(end record.Offset) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for tp := range n.sealed {
		n.sealed[tp] = end
	}
}

func (n *node) requireRemote(t *testing.T, end record.Offset) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for tp := range n.sealed {
		m := n.meta.Parts[tp].Manifest
		require.NoError(t, m.Validate())
		require.Equal(t, end, m.RemoteEnd(), "%v", tp)
	}
	require.Zero(t, n.open, "built objects that were not closed")
}

// Everything sealed arrives, however the store behaves, once it is well again.
func TestArchiver(t *testing.T) {
	kinds := []faulty.Kind{faulty.Unavailable, faulty.Hang, faulty.Reset, faulty.Stall, faulty.Unseen, faulty.UnseenHang, faulty.Late, faulty.Flip}
	for _, kind := range kinds {
		t.Run(fmt.Sprint("fault ", kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(6)
				bad := faulty.Wrap(mem.New(), func(c faulty.Call) faulty.Fault {
					if c.N%3 == 1 && c.Op != "get" {
						return faulty.Fault{Kind: kind, At: 3}
					}
					return faulty.Fault{}
				})
				a := n.archiver(t, objstore.WithRetries(bad, objstore.RetryOptions{}))
				stop := start(a)
				for end := record.Offset(10); end <= 50; end += 10 {
					n.seal(end)
					a.Poke()
					time.Sleep(time.Minute) // the bubble's clock
				}
				time.Sleep(time.Hour)
				n.requireRemote(t, 50)
				stats := a.Stats()
				require.Zero(t, stats.LagBytes)
				require.EqualValues(t, 30, stats.Finished)
				stop()
			})
		})
	}
}

// An outage is neither fatal nor busy: it shows as lag, and ends by itself.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(50)
		calls := 0
		bad := faulty.Wrap(mem.New(), func(faulty.Call) faulty.Fault {
			calls++
			return faulty.Fault{Kind: faulty.Unavailable}
		})
		a := n.archiver(t, objstore.WithRetries(bad, objstore.RetryOptions{}))
		stop := start(a)
		defer stop()
		n.seal(20)
		a.Poke()
		time.Sleep(time.Hour)
		stats := a.Stats()
		require.EqualValues(t, 50*200, stats.LagBytes)
		require.Equal(t, 100, stats.LagSegments)
		require.Positive(t, stats.StoreFailures)
		require.False(t, stats.Oldest.IsZero())
		require.Less(t, calls, 1500, "requests in an hour of outage")
		status, ok := a.Status(partition(3))
		require.True(t, ok)
		require.EqualValues(t, 200, status.LagBytes)
		bad.SetPlan(nil)
		time.Sleep(5 * time.Minute)
		n.requireRemote(t, 20)
	})
}

func TestPauseAndLostLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(2)
		bad := faulty.Wrap(mem.New(), nil)
		a := n.archiver(t, bad)
		stop := start(a)
		defer stop()
		a.SetPaused(true)
		n.seal(10)
		time.Sleep(time.Minute)
		require.Equal(t, 2, a.Stats().Waiting)
		// An upload hangs, and its partition goes to another broker.
		bad.SetPlan(func(c faulty.Call) faulty.Fault {
			if c.Op == "put" {
				return faulty.Fault{Kind: faulty.Hang}
			}
			return faulty.Fault{}
		})
		a.SetPaused(false)
		time.Sleep(time.Minute)
		status, ok := a.Status(partition(0))
		require.True(t, ok)
		require.Equal(t, archive.Uploading, status.Phase)
		n.mu.Lock()
		n.meta.Elect(partition(0), 2)
		n.mu.Unlock()
		time.Sleep(time.Minute)
		_, ok = a.Status(partition(0))
		require.False(t, ok)
		require.Equal(t, 1, a.Stats().InFlight, "the other goes on hanging")
	})
}

func TestNewRefusesHoles(t *testing.T) {
	_, err := archive.New(archive.Options{})
	require.Error(t, err)
}

// A local range that cannot be read waits long, and shows why.
func TestBadSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(1)
		lay, err := layout.New("", "cluster")
		require.NoError(t, err)
		s := mem.New()
		a, err := archive.New(archive.Options{
			Partitions: n, Metadata: n, Stores: map[string]objstore.Store{"warm": s}, Layout: lay,
			Builder: &archive.ObjectBuilder{Ranges: noRanges{}, Now: func() int64 { return 0 }},
			Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		require.NoError(t, err)
		stop := start(a)
		defer stop()
		n.seal(10)
		a.Poke()
		time.Sleep(10 * time.Minute)
		status, ok := a.Status(partition(0))
		require.True(t, ok)
		require.ErrorIs(t, status.Err, archive.ErrSource)
		require.ErrorContains(t, status.Err, "disk on fire")
		require.InDelta(t, 10, status.Failures, 3)
	})
}

type noRanges struct{}

func (noRanges) OpenRange(context.Context, archive.Copy) (archive.Range, error) {
	return archive.Range{}, errors.New("disk on fire")
}
