package controller

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

func image(racks ...string) *metadata.Image {
	ed := metadata.Empty().Edit()
	for i, rack := range racks {
		ed.PutBroker(&metadata.Broker{ID: int32(i + 1), Rack: rack, Epoch: 1})
	}
	img, _ := ed.Commit(1)
	return img
}

// TestPlaceIsEvenAndAcrossRacks holds any placement against what it promises.
func TestPlaceIsEvenAndAcrossRacks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		racks := rapid.IntRange(1, 4).Draw(t, "racks")
		each := rapid.IntRange(1, 4).Draw(t, "brokers a rack")
		var names []string
		for i := range racks * each {
			names = append(names, fmt.Sprint("r", i%racks))
		}
		n := len(names)
		img := image(names...)
		factor := rapid.IntRange(1, n).Draw(t, "factor")
		first := rapid.Int32Range(0, 50).Draw(t, "first")
		count := rapid.Int32Range(1, 60).Draw(t, "count")
		got, err := Place(img, first, count, int16(factor))
		require.NoError(t, err)
		require.Len(t, got, int(count))
		leaders, replicas := map[int32]int{}, map[int32]int{}
		for _, p := range got {
			require.Len(t, p, factor)
			leaders[p[0]]++
			used, seen := map[string]int{}, map[int32]bool{}
			for _, id := range p {
				require.False(t, seen[id])
				seen[id] = true
				replicas[id]++
				used[img.Broker(id).Rack]++
			}
			require.Len(t, used, min(racks, factor), "%v", p)
		}
		for id := int32(1); id <= int32(n); id++ {
			require.InDelta(t, float64(count)/float64(n), leaders[id], 1)
		}
		require.NoError(t, CheckAssignment(img, got))
		one, err := Place(img, first+count-1, 1, int16(factor))
		require.NoError(t, err)
		require.Equal(t, got[count-1], one[0], "growing by one is another placement")
	})
}

func TestReplicasAreEvenOverWholeTurns(t *testing.T) {
	img := image("a", "b", "c", "a", "b", "c")
	got, err := Place(img, 0, 6*5, 3)
	require.NoError(t, err)
	count := map[int32]int{}
	for _, p := range got {
		for _, id := range p {
			count[id]++
		}
	}
	for id, n := range count {
		require.Equal(t, 15, n, "broker %d", id)
	}
}

// TestPlaceWithFullDisks: they take what is left, and lead nothing.
func TestPlaceWithFullDisks(t *testing.T) {
	ed := image("", "", "").Edit()
	ed.PutBroker(&metadata.Broker{ID: 2, Epoch: 1, Full: true})
	img, _ := ed.Commit(2)
	for factor := int16(1); factor <= 3; factor++ {
		got, err := Place(img, 0, 6, factor)
		require.NoError(t, err)
		for _, p := range got {
			require.Len(t, p, int(factor))
			require.NotContains(t, p[:min(2, factor)], int32(2))
		}
		require.NoError(t, CheckAssignment(img, got))
	}
	_, err := Place(img, 0, 1, 4)
	require.ErrorIs(t, err, ErrReplicationFactor)
	ed.PutBroker(&metadata.Broker{ID: 1, Epoch: 1, Fenced: true})
	ed.PutBroker(&metadata.Broker{ID: 3, Epoch: 1, ShuttingDown: true})
	img, _ = ed.Commit(3)
	_, err = Place(img, 0, 1, 1)
	require.ErrorIs(t, err, ErrReplicationFactor, "nobody could lead it")
}

func TestPlaceRefuses(t *testing.T) {
	_, err := Place(image("", ""), 0, 1, 3)
	require.ErrorIs(t, err, ErrReplicationFactor)
	_, err = Place(image(""), 0, 1, 0)
	require.ErrorIs(t, err, ErrReplicationFactor)
	for _, bad := range [][][]int32{{}, {{}}, {{1}, {1, 2}}, {{9}}, {{1, 1}}} {
		require.ErrorIs(t, CheckAssignment(image("", ""), bad), ErrAssignment, "%v", bad)
	}
}

// TestRegisterBeginsNewEpochs: a broker's second process leads what the first led,
// under a new leader epoch, and fenced partitions get their leader back.
func TestRegisterBeginsNewEpochs(t *testing.T) {
	client := newWorld(t)
	dir := uuid.New()
	reg := func() int64 {
		epoch, err := Register(t.Context(), client, &command.RegisterBroker{BrokerID: 1, DirectoryID: dir, Incarnation: uuid.New()})
		require.NoError(t, err)
		return epoch
	}
	first := reg()
	by, err := Place(client.Image(), 0, 3, 1)
	require.NoError(t, err)
	id := record.NewTopicID()
	_, err = client.Propose(t.Context(), &command.CreateTopics{Topics: []command.NewTopic{{ID: id, Name: "a", Assignments: by}}})
	require.NoError(t, err)
	second := reg()
	require.Greater(t, second, first)
	require.ErrorIs(t, SetState(t.Context(), client, 1, first, command.BrokerFenced), command.ErrFenced)
	for _, p := range client.Image().Partitions(id) {
		require.Equal(t, record.Epoch(2), p.LeaderEpoch, "one for the loss of the first process, one for the second")
		require.Equal(t, int32(1), p.Leader)
	}
	require.NoError(t, SetState(t.Context(), client, 1, second, command.BrokerFenced))
	for _, p := range client.Image().Partitions(id) {
		require.Equal(t, int32(-1), p.Leader)
		require.Equal(t, []int32{1}, p.ISR)
	}
	reg()
	for _, p := range client.Image().Partitions(id) {
		require.Equal(t, int32(1), p.Leader)
		require.Equal(t, record.Epoch(4), p.LeaderEpoch)
	}
}
