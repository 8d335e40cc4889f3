package membership

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/metadata/raftnode"
	"github.com/firnlog/firn/record"
)

// TestOneStore: of brokers that come with different object stores, at one moment and
// before anything is stored, one has its way; whoever differs is refused, until the
// setting was altered.
func TestOneStore(t *testing.T) {
	dir := uuid.New()
	meta, err := raftnode.Open(raftnode.Options{FS: vfs.NewMem(), Dir: "/meta", DirectoryID: dir, ClusterID: record.NewTopicID().String(),
		Bootstrap: []raftnode.Server{{DirectoryID: dir, Voter: true}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, meta.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, meta.Ready(ctx))
	for i := range 3 {
		_, err := meta.Propose(ctx, &command.RegisterBroker{BrokerID: int32(i), DirectoryID: uuid.New(), Incarnation: uuid.New()})
		require.NoError(t, err)
	}
	require.NoError(t, NoteStore(ctx, meta, ""))
	require.Empty(t, storeOf(meta.Image()))

	stores := []string{"bucket:a", "bucket:b", "bucket:c", "bucket:a"}
	errs := make([]error, len(stores))
	var wg sync.WaitGroup
	for i, s := range stores {
		wg.Go(func() { errs[i] = NoteStore(ctx, meta, s) })
	}
	wg.Wait()
	winner := storeOf(meta.Image())
	require.Contains(t, stores, winner)
	for i, s := range stores {
		if s == winner {
			require.NoError(t, errs[i])
		} else {
			require.ErrorIs(t, errs[i], ErrChangedStore)
			require.ErrorContains(t, errs[i], "the cluster's object store is "+winner+", and object.store.url of this node is "+s)
		}
	}
	require.NoError(t, CheckStore(meta.Image(), ""), "a node without a store, while nothing is stored")

	_, err = meta.Propose(ctx, &command.AlterConfigs{Changes: []command.ConfigChange{{
		Resource: metadata.ConfigResource{Kind: metadata.ResourceBroker}, Set: map[string]string{configdef.ObjectStore: "bucket:moved"}}}})
	require.NoError(t, err)
	require.NoError(t, NoteStore(ctx, meta, "bucket:moved"))
	require.ErrorIs(t, NoteStore(ctx, meta, winner), ErrChangedStore)
}

func TestCheckStore(t *testing.T) {
	image := func(brokers int, tiered bool) *metadata.Image {
		return clusterImage("c", func(e *metadata.Editor) {
			e.SetConfigs(metadata.ConfigResource{Kind: metadata.ResourceBroker}, map[string]string{configdef.ObjectStore: "bucket:a"})
			for i := range brokers {
				e.PutBroker(&metadata.Broker{ID: int32(i), DirectoryID: uuid.New()})
			}
			if tiered {
				tp := record.TopicPartition{Topic: record.NewTopicID()}
				e.PutTopic(&metadata.Topic{ID: tp.Topic, Name: "t", Partitions: 1})
				e.PutPartition(tp, &metadata.Partition{RemoteEnd: 1})
			}
		})
	}
	for name, c := range map[string]struct {
		brokers int
		tiered  bool
		store   string
		refused bool
	}{
		"the same":                      {3, true, "bucket:a", false},
		"another":                       {3, true, "bucket:b", true},
		"another, nothing stored yet":   {3, false, "bucket:b", true},
		"none":                          {3, true, "", true},
		"none, nothing stored yet":      {3, false, "", false},
		"alone, another":                {1, true, "bucket:b", true},
		"alone, and nothing stored yet": {1, false, "bucket:b", false},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.refused, errors.Is(CheckStore(image(c.brokers, c.tiered), c.store), ErrChangedStore))
		})
	}
	require.NoError(t, CheckStore(metadata.Empty(), "bucket:b"), "nobody has noted one")
}
