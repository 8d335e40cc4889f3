package replica

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

func logOf(epochs ...record.Epoch) *naiveLog {
	l := &naiveLog{}
	for i, e := range epochs {
		l.append(entry{epoch: e, value: i})
	}
	l.flushed = len(epochs)
	return l
}

func followerOf(t *testing.T, l *naiveLog, cfg Config, a Assignment) *Replica {
	t.Helper()
	r := New(2, cfg, 0, l.progress())
	a.Leader, a.Replicas, a.ISR = 1, []int32{1, 2}, []int32{1}
	require.True(t, r.Assign(t0, a, l.progress()).RoleChanged)
	return r
}

func TestFollowerAsksOnlyForWhatFollowsWhatIsDurable(t *testing.T) {
	l := logOf(0, 0, 1)
	r := followerOf(t, l, Config{Fsync: true}, Assignment{LeaderEpoch: 2, RemoteEpoch: -1})
	at, ok := r.Position(l)
	require.True(t, ok)
	require.Equal(t, Position{Leader: 1, LeaderEpoch: 2, Offset: 3, LastEpoch: 1}, at)

	require.Equal(t, Append, r.OnReply(at, Reply{HighWatermark: 9}, l).Step)
	l.append(entry{epoch: 2})
	r.Appended(4)
	require.EqualValues(t, 4, r.LearnWatermark(9).HighWatermark, "no further than the log goes")
	_, ok = r.Position(l)
	require.False(t, ok, "not durable yet")
	r.Flushed(4)
	next, ok := r.Position(l)
	require.True(t, ok)
	require.EqualValues(t, 4, next.Offset)
	require.Equal(t, Drop, r.OnReply(at, Reply{}, l).Step, "an answer to an earlier position")

	r.SetConfig(Config{})
	r.Appended(5)
	_, ok = r.Position(l)
	require.True(t, ok, "page cache durability waits for nothing")
}

func TestFollowerWithoutLeaderWaits(t *testing.T) {
	r := New(2, Config{}, 0, Progress{})
	_, ok := r.Position(logOf())
	require.False(t, ok, "before the first assignment")
	r.Assign(t0, Assignment{Leader: -1, Replicas: []int32{1, 2}, ISR: []int32{1}, RemoteEpoch: -1}, Progress{})
	_, ok = r.Position(logOf())
	require.False(t, ok)
	r.Assign(t0, Assignment{Leader: 2, LeaderEpoch: 1, Replicas: []int32{1, 2}, ISR: []int32{2}, RemoteEpoch: -1}, Progress{})
	_, ok = r.Position(logOf())
	require.False(t, ok, "a leader")
}

func TestReplyDecisions(t *testing.T) {
	for name, c := range map[string]struct {
		log   []record.Epoch
		known record.Offset // watermark
		a     Assignment
		reply Reply
		want  Decision
	}{
		"records": {log: []record.Epoch{0}, reply: Reply{HighWatermark: 1}, want: Decision{Step: Append, HighWatermark: 1}},
		"the epoch ended earlier": {log: []record.Epoch{0, 0, 1, 1}, reply: Reply{Kind: ReplyDiverging, DivergingEpoch: 1, DivergingEnd: 3},
			want: Decision{Step: Truncate, To: 3}},
		"an epoch of the leader's that is not here": {log: []record.Epoch{0, 0, 3, 3}, reply: Reply{Kind: ReplyDiverging, DivergingEpoch: 2, DivergingEnd: 3},
			want: Decision{Step: Truncate, To: 2}},
		"nothing in common": {log: []record.Epoch{3, 3}, reply: Reply{Kind: ReplyDiverging, DivergingEpoch: 2, DivergingEnd: 1},
			want: Decision{Step: Truncate, To: 0}},
		"below the watermark": {log: []record.Epoch{0, 0, 1, 1}, known: 4, reply: Reply{Kind: ReplyDiverging, DivergingEpoch: 1, DivergingEnd: 3},
			want: Decision{Step: Truncate, To: 3, BelowWatermark: true}},
		"behind the log start": {log: []record.Epoch{0}, reply: Reply{Kind: ReplyOutOfRange, LogStart: 5}, want: Decision{Step: Reset, To: 5}},
		"behind the log start of a tiered topic": {log: []record.Epoch{0}, a: Assignment{RemoteEnd: 7, RemoteEpoch: 0},
			reply: Reply{Kind: ReplyOutOfRange, LogStart: 5}, want: Decision{Step: ResetToRemote, To: 2}},
		"out of range for no reason": {log: []record.Epoch{0}, reply: Reply{Kind: ReplyOutOfRange, LogStart: 1},
			want: Decision{Step: Wait}},
		"in the bucket": {log: []record.Epoch{0}, a: Assignment{RemoteEnd: 7, RemoteEpoch: 0}, reply: Reply{Kind: ReplyTiered},
			want: Decision{Step: ResetToRemote, To: 2}},
		"in the bucket, but not heard of": {log: []record.Epoch{0}, reply: Reply{Kind: ReplyTiered}, want: Decision{Step: Wait, To: 1}},
		"refused":                         {log: []record.Epoch{0}, reply: Reply{Kind: ReplyRefused}, want: Decision{Step: Wait}},
	} {
		t.Run(name, func(t *testing.T) {
			l := logOf(c.log...)
			c.a.LeaderEpoch = 5
			r := followerOf(t, l, Config{}, c.a)
			r.LearnWatermark(c.known)
			at, ok := r.Position(l)
			require.True(t, ok)
			require.Equal(t, c.want, r.OnReply(at, c.reply, l))
		})
	}
}

// An epoch that wrote nothing is known to its leader alone. As a follower it must
// forget it, or it would be told for ever that it diverges.
func TestTruncationForgetsAnEpochThatWroteNothing(t *testing.T) {
	l := logOf(0, 0)
	l.assign(3)
	r := followerOf(t, l, Config{}, Assignment{LeaderEpoch: 4, RemoteEpoch: -1})
	at, _ := r.Position(l)
	require.EqualValues(t, 3, at.LastEpoch)
	d := r.OnReply(at, Reply{Kind: ReplyDiverging, DivergingEpoch: 0, DivergingEnd: 2}, l)
	require.Equal(t, Decision{Step: Truncate, To: 2}, d)
	l.truncate(d.To)
	r.Truncated(l.progress())
	at, _ = r.Position(l)
	require.Equal(t, Position{Leader: 1, LeaderEpoch: 4, Offset: 2, LastEpoch: 0}, at)
}

func TestUncleanTruncationTakesTheWatermarkBack(t *testing.T) {
	l := logOf(0, 0, 0)
	r := followerOf(t, l, Config{}, Assignment{LeaderEpoch: 1, RemoteEpoch: -1})
	r.LearnWatermark(3)
	l.truncate(1)
	r.Truncated(l.progress())
	require.EqualValues(t, 1, r.HighWatermark())
	require.NoError(t, r.Check())
}

func TestBucketWins(t *testing.T) {
	for name, c := range map[string]struct {
		log        []record.Epoch
		a          Assignment
		at         record.Offset
		fromBucket bool
		wins       bool
	}{
		"nothing in the bucket":    {log: []record.Epoch{0}, a: Assignment{RemoteEpoch: -1}},
		"same lineage":             {log: []record.Epoch{0, 0, 1}, a: Assignment{RemoteEnd: 2, RemoteEpoch: 0}, at: 2, fromBucket: true},
		"ends there":               {log: []record.Epoch{0, 0}, a: Assignment{RemoteEnd: 2, RemoteEpoch: 0}, at: 2, fromBucket: true},
		"too short":                {log: []record.Epoch{0}, a: Assignment{RemoteEnd: 2, RemoteEpoch: 0}, at: 2, fromBucket: true, wins: true},
		"the epoch is not here":    {log: []record.Epoch{0, 0, 2}, a: Assignment{RemoteEnd: 2, RemoteEpoch: 1}, at: 2, fromBucket: true, wins: true},
		"the epoch ended earlier":  {log: []record.Epoch{0, 1, 1, 1}, a: Assignment{RemoteEnd: 3, RemoteEpoch: 0}, at: 3, fromBucket: true, wins: true},
		"a new replica":            {a: Assignment{RemoteEnd: 2, RemoteEpoch: 0}, at: 2, fromBucket: true, wins: true},
		"below the log start":      {log: []record.Epoch{0}, a: Assignment{LogStart: 5, RemoteEpoch: -1}, at: 5, wins: true},
		"log start above both":     {log: []record.Epoch{0}, a: Assignment{LogStart: 5, RemoteEnd: 3, RemoteEpoch: 0}, at: 5, wins: true},
		"log start above it":       {log: []record.Epoch{9, 9, 9}, a: Assignment{LogStart: 3, RemoteEnd: 2, RemoteEpoch: 0}, at: 3},
		"log start at both":        {log: []record.Epoch{9, 9}, a: Assignment{LogStart: 2, RemoteEnd: 2, RemoteEpoch: 0}, at: 2, wins: true},
		"an old epoch, all of it":  {log: []record.Epoch{0, 0, 4, 4}, a: Assignment{RemoteEnd: 1, RemoteEpoch: 0}, at: 1, fromBucket: true},
		"a newer one in the cloud": {log: []record.Epoch{0, 0, 4, 4}, a: Assignment{RemoteEnd: 3, RemoteEpoch: 5}, at: 3, fromBucket: true, wins: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := logOf(c.log...)
			at, fromBucket, wins := c.a.BucketWins(l.end(), l)
			require.Equal(t, c.wins, wins)
			require.Equal(t, c.at, at)
			require.Equal(t, c.fromBucket, fromBucket)
		})
	}
}

// A proposal whose outcome nobody knows may have been committed, or may yet be.
func TestADoubtfulExpansionHoldsTheWatermarkUntilTheEpochChanges(t *testing.T) {
	r := leader(t, Config{MinISR: 1}, 1, 2)
	r.Appended(100)
	r.Fetched(t0, 2, 1, 40, true)
	eff := r.Fetched(t0, 3, 1, 50, true)
	require.NotNil(t, eff.Propose)
	r.ProposalFailed(eff.Propose, false)
	require.EqualValues(t, 50, r.Fetched(t0, 2, 1, 100, true).HighWatermark)
	require.Nil(t, r.Fetched(t0, 3, 1, 50, true).Propose, "not again before the next tick")
	eff = r.Tick(t0, nil)
	require.NotNil(t, eff.Propose, "something that changes the partition epoch")
	require.Equal(t, []int32{1, 2}, eff.Propose.IDs())
	require.EqualValues(t, 50, r.HighWatermark())
	eff = r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: 8, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2}}, Progress{LogEnd: 100})
	require.EqualValues(t, 100, eff.HighWatermark)
}

func TestAFencedMemberIsDroppedAfterTheGrace(t *testing.T) {
	r := leader(t, Config{MinISR: 1}, 1, 2)
	r.Appended(10)
	r.Fetched(t0, 2, 1, 10, true)
	gone := func(id int32) bool { return id != 2 }
	require.Nil(t, r.Tick(t0, gone).Propose)
	require.Nil(t, r.Tick(t0.Add(time.Second), gone).Propose)
	require.NotNil(t, r.Tick(t0.Add(FenceGrace), gone).Propose, "though it is not behind")
}

func TestFollowersAreDescribed(t *testing.T) {
	r := leader(t, Config{MinISR: 1}, 1, 2)
	r.Appended(10)
	r.Fetched(t0.Add(time.Second), 2, 1, 10, true)
	require.Equal(t, []FollowerState{
		{ID: 2, LogEnd: 10, CaughtUp: t0.Add(time.Second), LastFetch: t0.Add(time.Second), InSync: true, LocalStart: -1},
		{ID: 3, LogEnd: -1, CaughtUp: t0, LocalStart: -1},
	}, r.Followers())
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	r := leader(t, Config{MinISR: 1}, 1, 2)
	require.NoError(t, r.Check())
	r.highWatermark = 5
	require.ErrorIs(t, r.Check(), ErrInvariant)
	r = leader(t, Config{MinISR: 1}, 2)
	require.ErrorIs(t, r.Check(), ErrInvariant)
}
