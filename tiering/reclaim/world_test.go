package reclaim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/objstore/layout"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/objstore/storetest"
	"github.com/firnlog/firn/tiering/reclaim"
	"github.com/firnlog/firn/tiering/tiertest"
)

var topic = record.TopicID{1}

func partition(n int) record.TopicPartition {
	return record.TopicPartition{Topic: topic, Partition: int32(n)}
}

// body is what the object of a range holds in these tests.
func body(tp record.TopicPartition, start, end record.Offset) []byte {
	return fmt.Appendf(nil, "%v [%d, %d)", tp, start, end)
}

// world is a cluster's metadata and bucket.
type world struct {
	meta   *tiertest.Metadata
	bucket *mem.Store
	store  *faulty.Store // in front of bucket
	lay    layout.Layout
}

func newWorld(t testing.TB) *world {
	lay, err := layout.New("p", "cluster")
	require.NoError(t, err)
	bucket := mem.New()
	w := &world{meta: tiertest.New(), bucket: bucket, store: faulty.Wrap(bucket, nil), lay: lay}
	w.meta.Register(1)
	w.meta.Register(2)
	for i := range 3 {
		w.meta.Parts[partition(i)] = &tiertest.Partition{Leader: 1}
	}
	return w
}

func object(w *world, c archive.Copy) archive.UploadedObject {
	b := body(c.Led.Partition, c.Start, c.End)
	return archive.UploadedObject{
		Size: int64(len(b)), Checksum: objstore.ChecksumOf(b), Footer: 1,
		Entry: manifest.Entry{Start: c.Start, End: c.End, Object: c.Object, Bytes: c.Bytes, MaxTimestamp: time.Now().UnixMilli(), Epochs: []manifest.EpochStart{{Epoch: 0, Start: 0}}},
	}
}

func (w *world) put(ctx context.Context, s objstore.Store, c archive.Copy) error {
	b := body(c.Led.Partition, c.Start, c.End)
	_, err := s.Put(ctx, w.lay.Object(c.Object), bytes.NewReader(b), int64(len(b)), objstore.PutOptions{IfAbsent: true, Checksum: objstore.ChecksumOf(b)})
	return err
}

// copied copies [start, end) of tp as broker 1 would, and returns the object.
func (w *world) copied(t testing.TB, tp record.TopicPartition, start, end record.Offset, id byte) uuid.UUID {
	t.Helper()
	p := w.meta.Parts[tp]
	c := archive.Copy{Object: uuid.UUID{15: id}, Start: start, End: end, Bytes: 100, Led: archive.Led{Partition: tp, Store: "warm",
		Fence: command.Fence{BrokerID: p.Leader, BrokerEpoch: w.meta.Epochs[p.Leader], LeaderEpoch: p.LeaderEpoch}}}
	propose := func(cmd command.Command) {
		_, err := w.meta.Propose(t.Context(), cmd)
		require.NoError(t, err)
	}
	propose(&command.CopyStarted{Fence: c.Led.Fence, Partition: tp, Object: c.Object, Store: "warm", Start: start, End: end})
	require.NoError(t, w.put(t.Context(), w.bucket, c))
	up := object(w, c)
	propose(&command.CopyFinished{Fence: c.Led.Fence, Partition: tp, Object: c.Object, Entry: up.Entry, Size: up.Size, Footer: 1,
		Checksum: []byte{byte(up.Checksum.Value() >> 24), byte(up.Checksum.Value() >> 16), byte(up.Checksum.Value() >> 8), byte(up.Checksum.Value())}})
	return c.Object
}

func (w *world) logStart(tp record.TopicPartition, off record.Offset) {
	w.meta.Parts[tp].Manifest = w.meta.Parts[tp].Manifest.WithLogStart(off)
}

// fuse lets a number of calls pass, to metadata and store together, and then
// fails all: the process is dead.
type fuse struct{ left int }

var errDead = errors.New("the process is dead")

func (f *fuse) burn() error {
	if f == nil {
		return nil
	}
	if f.left <= 0 {
		return errDead
	}
	f.left--
	return nil
}

type fusedMetadata struct {
	*tiertest.Metadata
	fuse *fuse
}

func (m fusedMetadata) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	if err := m.fuse.burn(); err != nil {
		return command.Result{}, err
	}
	return m.Metadata.Propose(ctx, cmd)
}

func (m fusedMetadata) PendingObjects(ctx context.Context) iter.Seq2[metadata.Object, error] {
	if err := m.fuse.burn(); err != nil {
		return func(yield func(metadata.Object, error) bool) { yield(metadata.Object{}, err) }
	}
	return m.Metadata.PendingObjects(ctx)
}

type fusedStore struct {
	objstore.Store
	fuse *fuse
}

func (s fusedStore) Put(ctx context.Context, key string, b io.ReaderAt, size int64, o objstore.PutOptions) (objstore.ObjectInfo, error) {
	if err := s.fuse.burn(); err != nil {
		return objstore.ObjectInfo{}, err
	}
	return s.Store.Put(ctx, key, b, size, o)
}

func (s fusedStore) Delete(ctx context.Context, keys ...string) []error {
	errs := make([]error, len(keys))
	for i, key := range keys {
		if errs[i] = s.fuse.burn(); errs[i] == nil {
			errs[i] = s.Store.Delete(ctx, key)[0]
		}
	}
	return errs
}

const (
	grace     = 15 * time.Minute
	orphanAge = time.Hour
)

// sweeper is that of a newly elected metadata leader.
func (w *world) sweeper(t testing.TB, f *fuse, generation int64, claim string) *reclaim.Sweeper {
	t.Helper()
	store := fusedStore{w.store, f}
	owner, err := reclaim.NewOwner(store, w.lay, generation, claim)
	require.NoError(t, err)
	s, err := reclaim.NewSweeper(reclaim.SweepOptions{
		Metadata: fusedMetadata{w.meta, f}, Stores: map[string]objstore.Store{"warm": store}, Layout: w.lay, Owner: owner,
		Self:  func() (int32, int64) { return 1, w.meta.Epochs[1] },
		Grace: grace, OrphanAge: orphanAge, OrphanInterval: time.Minute,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	return s
}

// requireSound holds what must hold at any moment: what is referred to is in
// the bucket, whole, and nothing is missing between log start and remote end.
func (w *world) requireSound(t testing.TB, story func() string) {
	t.Helper()
	for tp, p := range w.meta.Parts {
		require.NoError(t, p.Manifest.Validate(), "%v\n%s", tp, story())
		for _, e := range p.Manifest.Live() {
			want := body(tp, e.Start, e.End)
			got, err := storetest.Get(t.Context(), w.bucket, w.lay.Object(e.Object), 0, int64(len(want)))
			require.NoError(t, err, "lost: %v [%d, %d)\n%s", tp, e.Start, e.End, story())
			require.Equal(t, string(want), string(got), story())
		}
	}
}

// requireClean holds what must hold in the end: the bucket has what is
// referred to, and nothing else.
func (w *world) requireClean(t testing.TB, story func() string) {
	t.Helper()
	want := map[string]bool{}
	for _, p := range w.meta.Parts {
		for _, e := range p.Manifest.Entries() {
			require.Equal(t, manifest.StateLive, e.State, story())
			want[w.lay.Object(e.Object)] = true
		}
	}
	for info, err := range w.bucket.List(t.Context(), w.lay.DataPrefix(), "") {
		require.NoError(t, err)
		require.True(t, want[info.Key], "orphan %s\n%s", info.Key, story())
		delete(want, info.Key)
	}
	require.Empty(t, want, story())
	for o, err := range w.meta.PendingObjects(t.Context()) {
		require.NoError(t, err)
		t.Fatalf("object %v is %v for ever\n%s", o.ID, o.State, story())
	}
	require.Empty(t, w.meta.Tombs, story())
}

func quiet() string { return "" }

func join(lines []string) func() string {
	return func() string { return strings.Join(lines, "\n") }
}
