package fsm

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

func manifestOf(t *testing.T, entries int) manifest.Manifest {
	t.Helper()
	var list []manifest.Entry
	for i := range entries {
		at := record.Offset(10 * i)
		list = append(list, manifest.Entry{Start: at, End: at + 10, Object: uuid.New(), Bytes: 1, Epochs: []manifest.EpochStart{{Epoch: 0, Start: at}}})
	}
	m, err := manifest.New(0, record.Offset(10*entries), list)
	require.NoError(t, err)
	return m
}

func TestManifestsDropWhatChanged(t *testing.T) {
	topic := record.NewTopicID()
	tp := func(n int32) record.TopicPartition { return record.TopicPartition{Topic: topic, Partition: n} }
	var m manifests
	fill := func() {
		for n := range int32(4) {
			_, turn, _ := m.get(tp(n))
			m.put(tp(n), manifestOf(t, 2), turn)
		}
	}
	known := func() (found []int32) {
		for n := range int32(4) {
			if _, _, ok := m.get(tp(n)); ok {
				found = append(found, n)
			}
		}
		return found
	}
	fill()
	m.forget(&metadata.Delta{Partitions: []record.TopicPartition{tp(1)}, Entries: []record.TopicPartition{tp(3)}})
	require.Equal(t, []int32{0, 2}, known())
	require.Equal(t, 6, m.entries)
	fill()
	m.forget(&metadata.Delta{Deleted: []metadata.DeletedTopic{{ID: topic, Partitions: 3}}})
	require.Equal(t, []int32{3}, known())
	m.forgetAll()
	require.Empty(t, known())
	require.Zero(t, m.entries)
}

// A reader that looked at Pebble before a commit and comes back after it must
// not leave the old state behind for those who come later.
func TestManifestsRefuseWhatWasReadBeforeACommit(t *testing.T) {
	tp := record.TopicPartition{Topic: record.NewTopicID()}
	var m manifests
	_, turn, ok := m.get(tp)
	require.False(t, ok)
	m.forget(&metadata.Delta{Entries: []record.TopicPartition{tp}})
	m.put(tp, manifestOf(t, 1), turn)
	_, _, ok = m.get(tp)
	require.False(t, ok)
}

func TestManifestsAreBounded(t *testing.T) {
	topic := record.NewTopicID()
	large := manifestOf(t, maxRemembered/3)
	var m manifests
	for n := range int32(10) {
		m.put(record.TopicPartition{Topic: topic, Partition: n}, large, 0)
		require.LessOrEqual(t, m.entries, maxRemembered)
		_, _, ok := m.get(record.TopicPartition{Topic: topic, Partition: n})
		require.True(t, ok, "the newest stays")
	}
	m.put(record.TopicPartition{Topic: topic, Partition: 11}, manifestOf(t, maxRemembered), 0)
	_, _, ok := m.get(record.TopicPartition{Topic: topic, Partition: 11})
	require.False(t, ok, "larger than the bound")
}
