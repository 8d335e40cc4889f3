package metadata

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

func topicID(i int) record.TopicID { return record.TopicID{byte(i), byte(i >> 8), 1} }

// TestImageSharesWithoutLeaking edits images at random beside plain maps. Every
// older image must stay as it was: what they share is never written.
func TestImageSharesWithoutLeaking(t *testing.T) {
	type state struct {
		img   *Image
		names map[string]record.TopicID
		parts map[record.TopicPartition]record.Offset
	}
	rapid.Check(t, func(t *rapid.T) {
		history := []state{{Empty(), map[string]record.TopicID{}, map[record.TopicPartition]record.Offset{}}}
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			last := history[len(history)-1]
			next := state{names: maps.Clone(last.names), parts: maps.Clone(last.parts)}
			ed := last.img.Edit()
			for range rapid.IntRange(1, 6).Draw(t, "edits") {
				n := rapid.IntRange(0, 5).Draw(t, "topic")
				id, name := topicID(n), fmt.Sprint("t", n)
				count := int32(0)
				if topic := ed.Topic(id); topic != nil {
					count = topic.Partitions
				}
				switch rapid.IntRange(0, 4).Draw(t, "edit") {
				case 0, 1: // more partitions, across chunks
					more := rapid.Int32Range(1, 100).Draw(t, "more")
					ed.PutTopic(&Topic{ID: id, Name: name, Partitions: count + more})
					next.names[name] = id
					for i := range more {
						tp := record.TopicPartition{Topic: id, Partition: count + i}
						ed.PutPartition(tp, &Partition{LogStart: record.Offset(step)})
						next.parts[tp] = record.Offset(step)
					}
				case 2, 3:
					if count == 0 {
						continue
					}
					tp := record.TopicPartition{Topic: id, Partition: rapid.Int32Range(0, count-1).Draw(t, "partition")}
					ed.PutPartition(tp, &Partition{LogStart: record.Offset(1000 + step)})
					next.parts[tp] = record.Offset(1000 + step)
				case 4:
					ed.DeleteTopic(id)
					delete(next.names, name)
					maps.DeleteFunc(next.parts, func(tp record.TopicPartition, _ record.Offset) bool { return tp.Topic == id })
				}
			}
			require.NoError(t, ed.CheckPartitions())
			next.img, _ = ed.Commit(uint64(step))
			history = append(history, next)
		}
		for _, s := range history {
			require.Equal(t, len(s.parts), s.img.PartitionCount())
			require.Equal(t, len(s.names), s.img.TopicCount())
			var names []string
			for topic := range s.img.Topics() {
				names = append(names, topic.Name)
			}
			require.Equal(t, slices.Sorted(maps.Keys(s.names)), names)
			seen := 0
			for tp, p := range s.img.AllPartitions() {
				require.Equal(t, s.parts[tp], p.LogStart)
				require.Same(t, p, s.img.Partition(tp))
				seen++
			}
			require.Equal(t, len(s.parts), seen)
			require.Nil(t, s.img.Partition(record.TopicPartition{Topic: topicID(0), Partition: -1}))
			require.Nil(t, s.img.Partition(record.TopicPartition{Topic: topicID(0), Partition: 1 << 20}))
		}
	})
}

func TestDeltaMerge(t *testing.T) {
	a, b := topicID(1), topicID(2)
	tp := func(id record.TopicID, p int32) record.TopicPartition {
		return record.TopicPartition{Topic: id, Partition: p}
	}
	first := Delta{Topics: []record.TopicID{a, b}, Partitions: []record.TopicPartition{tp(a, 0), tp(b, 1)}, Brokers: []int32{2}}
	second := Delta{Deleted: []DeletedTopic{{ID: a, Name: "a", Partitions: 1}}, Partitions: []record.TopicPartition{tp(b, 0), tp(b, 1)}, Brokers: []int32{1, 2}, Controller: true}
	got := first.Merge(second)
	require.Equal(t, Delta{Topics: []record.TopicID{b}, Deleted: second.Deleted, Partitions: []record.TopicPartition{tp(b, 0), tp(b, 1)},
		Brokers: []int32{1, 2}, Controller: true}, got)
	require.Len(t, first.Partitions, 2, "merge changed its receiver")
	require.True(t, (&Delta{}).IsEmpty())
	require.False(t, got.IsEmpty())
}

func TestCollision(t *testing.T) {
	ed := Empty().Edit()
	ed.PutTopic(&Topic{ID: topicID(1), Name: "a.b", Partitions: 0})
	img, _ := ed.Commit(1)
	require.Equal(t, "a.b", img.Collision("a_b"))
	require.Empty(t, img.Collision("a.b"))
	require.Empty(t, img.Collision("ab"))
}

func BenchmarkPartitionLookup(b *testing.B) {
	ed := Empty().Edit()
	for n := range 1000 {
		ed.PutTopic(&Topic{ID: topicID(n), Name: fmt.Sprint("t", n), Partitions: 10})
		for p := range int32(10) {
			ed.PutPartition(record.TopicPartition{Topic: topicID(n), Partition: p}, &Partition{})
		}
	}
	img, _ := ed.Commit(1)
	tp := record.TopicPartition{Topic: topicID(777), Partition: 7}
	b.ReportAllocs()
	for b.Loop() {
		if img.Partition(tp) == nil {
			b.Fatal("lost")
		}
	}
}
