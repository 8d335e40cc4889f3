package controller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// TestAFencedBrokerKnowsThatItWasFencedBeforeItIsActive: one that comes back from a
// cut with the image of before would serve the partitions that others lead by now.
func TestAFencedBrokerKnowsThatItWasFencedBeforeItIsActive(t *testing.T) {
	now := time.Unix(1000, 0)
	ed := metadata.Empty().Edit()
	ed.PutBroker(&metadata.Broker{ID: 1, Epoch: 3})
	active, _ := ed.Commit(10)
	l := NewLeases(LeaseOptions{}, now, active)
	beat := func(img *metadata.Image, applied uint64) []command.Command {
		now = now.Add(100 * time.Millisecond)
		require.True(t, l.Hear(now, img, &Heartbeat{BrokerID: 1, BrokerEpoch: 3, Applied: applied, Ready: true, Clock: now.UnixMilli()}))
		return Decide(now, img, l)
	}
	require.Empty(t, beat(active, 10))
	ed = active.Edit()
	ed.PutBroker(&metadata.Broker{ID: 1, Epoch: 3, Fenced: true})
	fenced, _ := ed.Commit(20)
	require.Empty(t, beat(fenced, 10), "its image is of before")
	require.Empty(t, beat(fenced, 19))
	require.Equal(t, []command.Command{&command.SetBrokerState{BrokerID: 1, BrokerEpoch: 3, State: command.BrokerActive}}, beat(fenced, 20))
	// A controller that is new knows no better than its own image.
	ed = fenced.Edit()
	later, _ := ed.Commit(30)
	l = NewLeases(LeaseOptions{}, now, later)
	require.Empty(t, beat(later, 20))
	require.Len(t, beat(later, 30), 1)
}
