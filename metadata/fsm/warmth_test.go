package fsm

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// copied has the leader copy the partition's beginning up to end.
func (s *story) copied(end record.Offset) {
	s.t.Helper()
	p, object := s.p(), uuid.New()
	fence := command.Fence{BrokerID: p.Leader, BrokerEpoch: s.f.Image().Broker(p.Leader).Epoch, LeaderEpoch: p.LeaderEpoch}
	s.must(&command.CopyStarted{Fence: fence, Partition: s.tp, Object: object, Start: p.CopyStart(), End: end})
	s.must(&command.CopyFinished{Fence: fence, Partition: s.tp, Object: object, Size: 1,
		Entry: manifest.Entry{Start: p.CopyStart(), End: end, Epochs: []manifest.EpochStart{{Epoch: p.LeaderEpoch, Start: p.CopyStart()}}}})
}

// cold has the leader say who is cold, in an ISR as it is.
func (s *story) cold(ids ...int32) {
	s.t.Helper()
	p := s.p()
	ch := command.ISRChange{Partition: s.tp, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, Cold: ids}
	for _, id := range p.ISR {
		ch.ISR = append(ch.ISR, command.ISRMember{BrokerID: id, BrokerEpoch: -1})
	}
	s.must(&command.AlterPartition{BrokerID: p.Leader, BrokerEpoch: s.f.Image().Broker(p.Leader).Epoch, Partitions: []command.ISRChange{ch}})
}

// wipe brings a fenced broker back with an empty disk.
func (s *story) wipe(id int32) {
	s.t.Helper()
	s.dirs[id] = uuid.New()
	s.register(id, nil)
	s.active(id)
}

// TestAWarmReplicaLeadsBeforeAColdOne: whatever the order of the replicas. Nobody is
// without a leader for it.
func TestAWarmReplicaLeadsBeforeAColdOne(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	epoch := s.p().PartitionEpoch
	s.cold(2)
	require.Equal(t, epoch+1, s.p().PartitionEpoch, "another state is another epoch")
	require.Equal(t, []int32{2}, s.p().Cold)
	s.is("1/0 isr[1 2 3]")
	s.fence(1)
	s.is("3/1 isr[2 3]")
	s.fence(3)
	s.is("2/2 isr[2] elr[3]") // cold, but there
	require.Equal(t, []int32{2}, s.p().Cold, "it is what the last leader said")
	s.active(1)
	s.active(3)
	s.isr(1, 2, 3) // which says that nobody is
	require.Empty(t, s.p().Cold)
	s.cold(1)
	require.NoError(t, s.elect(command.ElectPreferred, -1))
	s.is("1/3 isr[1 2 3]") // who asks for it gets it
	require.NoError(t, s.elect(command.ElectClean, 3))
	s.is("3/4 isr[1 2 3]")
	s.state(3, command.BrokerShuttingDown)
	s.is("2/5 isr[1 2]")
}

// TestWarmthDoesNotMakeComplete: who is not in sync does not lead, warm or not.
func TestWarmthDoesNotMakeComplete(t *testing.T) {
	s := newStory(t, 4, nil, 1, 2, 3, 4)
	s.isr(1, 2)
	s.cold(2)
	s.fence(1)
	s.is("2/1 isr[2] elr[1]")

	s = newStory(t, 4, nil, 1, 2, 3, 4)
	s.isr(1, 4)
	s.isr(1)
	s.is("1/0 isr[1] elr[4]")
	s.cold(4)
	s.fence(1)
	s.is("4/1 isr[4] elr[1]")
}

// TestWarmthAmongTheEligible: with nobody in sync the warm one of those who have all.
func TestWarmthAmongTheEligible(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.isr(1)
	s.is("1/0 isr[1] elr[2 3]")
	s.cold(2)
	s.fence(1)
	s.is("3/1 isr[3] elr[1 2]")
}

// TestAWipedBrokerIsColdWhereThereIsABucket: it begins where the bucket ends. Of
// what is not there it copies all, so it is not cold by the time it is in sync.
func TestAWipedBrokerIsColdWhereThereIsABucket(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.fence(2)
	s.wipe(2)
	require.Empty(t, s.p().Cold, "nothing is in the bucket")
	s.isr(1, 2, 3)
	s.copied(10)
	s.fence(2)
	require.Empty(t, s.p().Cold, "it only restarts")
	s.register(2, nil)
	s.active(2)
	require.Empty(t, s.p().Cold)
	s.fence(2)
	s.wipe(2)
	require.Equal(t, []int32{2}, s.p().Cold)
	s.fence(3)
	s.wipe(3)
	require.Equal(t, []int32{2, 3}, s.p().Cold)
	p := s.p()
	s.must(&command.AdvanceLogStart{BrokerID: 1, BrokerEpoch: s.f.Image().Broker(1).Epoch, Partitions: []command.LogStartChange{{Partition: s.tp, LeaderEpoch: p.LeaderEpoch, LogStart: 10}}})
	s.cold()
	s.fence(2)
	s.wipe(2)
	require.Empty(t, s.p().Cold, "nothing in the bucket is to be read")
}

// TestALostPartitionPrefersWhatIsThere: with nobody complete left, an unclean
// election takes a broker that has something before one whose disk is new.
func TestALostPartitionPrefersWhatIsThere(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.copied(10)
	s.isr(1, 2)
	s.fence(2, 1)
	s.wipe(1)
	s.wipe(2)
	s.is("-1/1 isr[]")
	require.Equal(t, []int32{1, 2}, s.p().Cold)
	require.NoError(t, s.elect(command.ElectUnclean, -1))
	s.is("3/2 isr[3]")
}

// TestReassignmentEndsWithAWarmLeader: of those that stay the one that has something
// takes over, though another is preferred; who leaves is forgotten.
func TestReassignmentEndsWithAWarmLeader(t *testing.T) {
	s := newStory(t, 4, nil, 1, 2, 3)
	s.copied(10)
	s.cold(3)
	require.NoError(t, s.reassign(4, 2))
	p := s.p()
	ch := command.ISRChange{Partition: s.tp, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, Cold: []int32{3, 4}}
	for _, id := range []int32{1, 2, 3, 4} {
		ch.ISR = append(ch.ISR, command.ISRMember{BrokerID: id, BrokerEpoch: s.f.Image().Broker(id).Epoch})
	}
	s.must(&command.AlterPartition{BrokerID: 1, BrokerEpoch: s.f.Image().Broker(1).Epoch, Partitions: []command.ISRChange{ch}})
	s.is("2/1 isr[4 2]")
	require.Equal(t, []int32{4, 2}, s.p().Replicas)
	require.Equal(t, []int32{4}, s.p().Cold)
}

// TestColdIsRefused: who is no replica, or named twice.
func TestColdIsRefused(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2)
	for _, ids := range [][]int32{{3}, {2, 2}} {
		p := s.p()
		_, err := s.apply(&command.AlterPartition{BrokerID: 1, BrokerEpoch: s.f.Image().Broker(1).Epoch, Partitions: []command.ISRChange{{Partition: s.tp,
			LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: []command.ISRMember{{BrokerID: 1, BrokerEpoch: -1}}, Cold: ids}}})
		require.ErrorIs(t, err, command.ErrInvalid)
	}
	require.Empty(t, s.p().Cold)
}

// TestNobodyIsColdByAnOldCommand: a command of level 1 makes nobody cold and changes
// nothing about who is, so that a build that knows level 1 alone comes to the same
// state, or stops at a command that it does not know.
func TestNobodyIsColdByAnOldCommand(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.copied(10)
	old := func(cmd command.Command) {
		s.index++
		require.NoError(t, s.f.ApplyBatch([]Entry{encodeAt(t, s.index, cmd, command.Level1.CommandVersion())})[0].Err)
		require.NoError(t, metadata.Check(s.f.Image()))
	}
	s.fence(2)
	old(&command.RegisterBroker{BrokerID: 2, DirectoryID: uuid.New(), Incarnation: uuid.New()})
	s.active(2)
	require.Empty(t, s.p().Cold)
	alter := func(cold ...int32) *command.AlterPartition {
		p := s.p()
		return &command.AlterPartition{BrokerID: 1, BrokerEpoch: s.f.Image().Broker(1).Epoch, Partitions: []command.ISRChange{{Partition: s.tp,
			LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: []command.ISRMember{{BrokerID: 1, BrokerEpoch: -1}, {BrokerID: 3, BrokerEpoch: -1}}, Cold: cold}}}
	}
	old(alter(3))
	require.Empty(t, s.p().Cold)
	s.must(alter(3))
	old(alter())
	require.Equal(t, []int32{3}, s.p().Cold)
}
