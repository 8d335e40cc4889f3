package fsm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
)

// TestAnISRProposedAsItIsRaisesTheEpoch: a leader that never heard of a proposal
// asks for what is there; the answer must make the lost proposal stale, and come to
// the leader as a change.
func TestAnISRProposedAsItIsRaisesTheEpoch(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	p := s.f.Image().Partition(s.tp)
	same := &command.AlterPartition{BrokerID: 1, BrokerEpoch: s.f.Image().Broker(1).Epoch, Partitions: []command.ISRChange{{
		Partition: s.tp, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch,
		ISR: []command.ISRMember{{BrokerID: 1, BrokerEpoch: -1}, {BrokerID: 2, BrokerEpoch: -1}, {BrokerID: 3, BrokerEpoch: -1}}}}}
	res := s.must(same)
	require.Equal(t, p.PartitionEpoch+1, res.Items[0].PartitionEpoch)
	require.Equal(t, p.PartitionEpoch+1, s.f.Image().Partition(s.tp).PartitionEpoch)
	require.Equal(t, p.LeaderEpoch, s.f.Image().Partition(s.tp).LeaderEpoch)
	_, err := s.apply(same)
	require.ErrorIs(t, err, command.ErrStalePartitionEpoch)
}
