package cluster

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/record"
)

// batch is a record batch as it lies on a disk.
type batch struct {
	next  record.Offset
	epoch record.Epoch
	sum   uint32 // of all bytes, which followers copy as they are
}

// replica is what a broker's disk holds of a partition, by base offset.
type replica struct {
	batches map[record.Offset]batch
	end     record.Offset
}

// readReplica reads a broker's segments. Of a broker that runs, a batch that is
// being written does not count, nor does a segment that is deleted meanwhile.
func readReplica(t *testing.T, b *fleet.Broker, topicID string, p int32) replica {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.DataDir, topicID, fmt.Sprint(p), "*.log"))
	require.NoError(t, err)
	slices.Sort(files)
	r := replica{batches: map[record.Offset]batch{}, end: -1}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if b.Running() && errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		for bt, err := range record.Batches(text) {
			require.NoError(t, err, f)
			require.NoError(t, bt.VerifyCRC(), "%s at %d", f, bt.BaseOffset)
			r.batches[bt.BaseOffset] = batch{next: bt.NextOffset(), epoch: bt.LeaderEpoch, sum: crc32.ChecksumIEEE(bt.Raw)}
			r.end = bt.NextOffset()
		}
	}
	require.NotEmpty(t, r.batches, "broker %d has nothing of partition %d in %s", b.ID, p, b.DataDir)
	return r
}

// compareDisks waits until all replicas of the workload's topic end at the same
// offset, ends the brokers, and holds what is on their disks against each other,
// batch by batch, as far as they overlap.
func (w *workload) compareDisks() {
	w.t.Helper()
	id := w.topicID()
	parts := w.c.Partitions(topicName)
	harness.Eventually(w.t, harnessLimit, func() string {
		for _, p := range parts {
			first := readReplica(w.t, w.c.Broker(p.Replicas[0]), id, p.Partition)
			for _, broker := range p.Replicas[1:] {
				if r := readReplica(w.t, w.c.Broker(broker), id, p.Partition); r.end != first.end {
					return fmt.Sprintf("%s-%d ends at %d on broker %d and at %d on broker %d", topicName, p.Partition, first.end, p.Replicas[0], r.end, broker)
				}
			}
		}
		return ""
	})
	for _, b := range w.c.Living() {
		w.c.KillBroker(b)
	}
	for _, p := range parts {
		first := readReplica(w.t, w.c.Broker(p.Replicas[0]), id, p.Partition)
		overlap := 0
		for _, broker := range p.Replicas[1:] {
			r := readReplica(w.t, w.c.Broker(broker), id, p.Partition)
			require.Equal(w.t, first.end, r.end, "%s-%d: the ends of brokers %d and %d", topicName, p.Partition, p.Replicas[0], broker)
			for base, bt := range r.batches {
				if other, both := first.batches[base]; both {
					require.Equal(w.t, other, bt, "%s-%d: brokers %d and %d differ at %d", topicName, p.Partition, p.Replicas[0], broker, base)
					overlap++
				}
			}
		}
		require.Positive(w.t, overlap, "%s-%d: no two disks have anything in common", topicName, p.Partition)
	}
}

// topicID is the name of the topic's directories.
func (w *workload) topicID() string {
	w.t.Helper()
	var m adminapi.TierMap
	require.NoError(w.t, w.c.Living()[0].GetJSON(w.t.Context(), adminapi.PathTierMap+"?topic="+topicName, &m))
	return m.TopicID
}

// awaitTiered waits, under load, until every partition has something in the bucket:
// a test without that is weaker than it says.
func (w *workload) awaitTiered() {
	w.t.Helper()
	harness.Eventually(w.t, harnessLimit, func() string {
		tiers := map[int32]int64{}
		for _, b := range w.c.Living() {
			var m adminapi.TierMap
			if err := b.GetJSON(w.t.Context(), adminapi.PathTierMap+"?topic="+topicName, &m); err != nil {
				return err.Error()
			}
			for _, p := range m.Partitions {
				tiers[p.Partition] = max(tiers[p.Partition], p.RemoteEnd)
			}
		}
		for p := range int32(partitions) {
			if tiers[p] == 0 {
				return fmt.Sprintf("partition %d: nothing was tiered", p)
			}
		}
		return ""
	})
}

// localStart is the first offset that a broker's disk has of a partition.
func localStart(t *testing.T, b *fleet.Broker, topicID string, p int32) record.Offset {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.DataDir, topicID, fmt.Sprint(p), "*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	slices.Sort(files)
	var base int64
	_, err = fmt.Sscanf(filepath.Base(files[0]), "%d.log", &base)
	require.NoError(t, err)
	return record.Offset(base)
}
