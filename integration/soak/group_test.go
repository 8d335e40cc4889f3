package soak

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// groupTopics are read by the groups; nothing is ever trimmed from them.
var groupTopics = []string{"plain", "fsync", "cached", "stamped"}

func (s *soak) groups() {
	for n := range 2 {
		s.run(func() { s.group(fmt.Sprintf("group-%d", n), uint64(n)) })
	}
	s.run(s.bookkeeping)
}

// group is what is known of a group's offsets.
type group struct {
	s    *soak
	name string
	mu   sync.Mutex
	done map[string]map[int32]int64 // committed, by answers
	sent map[string]map[int32]int64 // asked to be committed
}

// group runs a group whose members come and go.
func (s *soak) group(name string, n uint64) {
	random := s.random(500 + n)
	g := &group{s: s, name: name, done: map[string]map[int32]int64{}, sent: map[string]map[int32]int64{}}
	for _, t := range groupTopics {
		g.done[t], g.sent[t] = map[int32]int64{}, map[int32]int64{}
	}
	adm := s.adm()
	defer adm.Close()
	type member struct {
		stop context.CancelFunc
		done chan struct{}
	}
	var members []member
	start := func() {
		ctx, stop := context.WithCancel(s.ctx)
		m := member{stop: stop, done: make(chan struct{})}
		opts := []kgo.Opt{kgo.Balancers(kgo.CooperativeStickyBalancer())}
		if n == 0 {
			opts = []kgo.Opt{kgo.Balancers(kgo.RangeBalancer())}
		}
		if random.IntN(2) == 0 { // several may take one name: the older is fenced
			opts = append(opts, kgo.InstanceID(fmt.Sprintf("static-%d", random.IntN(3))))
		}
		if random.IntN(2) == 0 {
			opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		}
		members = append(members, m)
		go func() {
			defer close(m.done)
			g.member(ctx, opts)
		}()
	}
	defer func() {
		for _, m := range members {
			m.stop()
			<-m.done
		}
	}()
	start()
	for s.pause(time.Duration(300+random.IntN(2500)) * time.Millisecond) {
		switch {
		case len(members) < 2 || len(members) < 4 && random.IntN(2) == 0:
			start()
		default:
			i := random.IntN(len(members))
			members[i].stop()
			<-members[i].done
			members = append(members[:i], members[i+1:]...)
		}
		g.check(adm)
	}
}

func (g *group) member(ctx context.Context, opts []kgo.Opt) {
	c := g.s.client(append([]kgo.Opt{kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(groupTopics...), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(200 * time.Millisecond), kgo.SessionTimeout(3 * time.Second),
		kgo.RebalanceTimeout(5 * time.Second), kgo.FetchMaxWait(200 * time.Millisecond)}, opts...)...)
	defer c.CloseAllowingRebalance()
	next := map[string]map[int32]int64{}
	for ctx.Err() == nil {
		if !g.poll(ctx, c, next) {
			return
		}
		c.AllowRebalance()
	}
}

// poll reads, checks and commits once.
func (g *group) poll(ctx context.Context, c *kgo.Client, next map[string]map[int32]int64) bool {
	fetches := c.PollFetches(ctx)
	fenced := false
	fetches.EachError(func(topic string, p int32, err error) {
		fenced = fenced || errors.Is(err, kerr.FencedInstanceID)
		if ctx.Err() == nil {
			g.s.unexpected("poll of a group", err)
		}
		var loss *kgo.ErrDataLoss
		if errors.As(err, &loss) {
			g.s.fail("%s: %s-%d: %v", g.name, topic, p, err)
		}
	})
	if fenced || ctx.Err() != nil {
		return false
	}
	commit := map[string]map[int32]kgo.EpochOffset{}
	fetches.EachRecord(func(r *kgo.Record) {
		var j *journal
		for _, t := range g.s.topics {
			if t.name == r.Topic {
				j = t.part(r.Partition)
			}
		}
		id, err := j.identify(r.Key, r.Value, r.Headers, r.Timestamp.UnixMilli())
		if err == nil {
			err = j.read(id, r.Offset, r.Timestamp.UnixMilli())
		}
		if err != nil {
			g.s.fail("%s: offset %d: %v", g.name, r.Offset, err)
		}
		if next[r.Topic] == nil {
			next[r.Topic] = map[int32]int64{}
		}
		g.mu.Lock()
		sent := g.sent[r.Topic][r.Partition]
		if due := next[r.Topic][r.Partition]; r.Offset > due && r.Offset > sent {
			g.s.fail("%s: %v: read %d where %d was due and %d committed", g.name, j, r.Offset, due, sent)
		}
		g.sent[r.Topic][r.Partition] = max(sent, r.Offset+1)
		g.mu.Unlock()
		next[r.Topic][r.Partition] = r.Offset + 1
		if commit[r.Topic] == nil {
			commit[r.Topic] = map[int32]kgo.EpochOffset{}
		}
		commit[r.Topic][r.Partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1}
	})
	if len(commit) == 0 {
		return true
	}
	g.s.count("group polls")
	ok := false
	cctx, cancel := context.WithTimeout(ctx, 4*time.Second) // below the rebalance timeout
	defer cancel()
	c.CommitOffsetsSync(cctx, commit, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if ok = err == nil && resp != nil; !ok {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 {
					ok = false
					g.s.unexpected("commit", kerr.ErrorForCode(p.ErrorCode))
				}
			}
		}
	})
	if ok {
		g.s.count("group commits")
		g.mu.Lock()
		for topic, parts := range commit {
			for p, o := range parts {
				g.done[topic][p] = max(g.done[topic][p], o.Offset)
			}
		}
		g.mu.Unlock()
	}
	return true
}

// check holds the committed offsets against the answers before the question.
func (g *group) check(adm *kadm.Client) {
	want := map[string]map[int32]int64{}
	g.mu.Lock()
	for topic, parts := range g.done {
		want[topic] = map[int32]int64{}
		for p, o := range parts {
			want[topic][p] = o
		}
	}
	g.mu.Unlock()
	got, err := adm.FetchOffsets(g.s.ctx, g.name)
	if err == nil {
		err = got.Error() // see bookkeeping
	}
	if err != nil {
		g.s.unexpected("FetchOffsets", err)
		return
	}
	for topic, parts := range want {
		for p, o := range parts {
			at, ok := got.Lookup(topic, p)
			if !ok || at.At < o {
				g.s.fail("%s: %s-%d is committed at %d (%v), %d was acked", g.name, topic, p, at.At, ok, o)
			}
		}
	}
	if _, err := adm.DescribeGroups(g.s.ctx, g.name); err != nil {
		g.s.unexpected("DescribeGroups", err)
	}
	g.s.count("groups checked")
}

// bookkeeping commits, deletes and reads offsets of groups without members,
// of which it knows each value.
func (s *soak) bookkeeping() {
	random := s.random(600)
	adm := s.adm()
	defer adm.Close()
	type at struct {
		topic     string
		partition int32
	}
	known := map[string]map[at]int64{}
	vague := map[string]bool{} // a change of it failed: its outcome is open
	for s.pause(20 * time.Millisecond) {
		name := fmt.Sprintf("books-%d", random.IntN(5))
		place := at{groupTopics[random.IntN(len(groupTopics))], random.Int32N(2)}
		var err error
		switch random.IntN(12) {
		case 0:
			var resp kadm.DeleteGroupResponse
			resp, err = adm.DeleteGroup(s.ctx, name)
			if err == nil {
				err = resp.Err
			}
			if errors.Is(err, kerr.GroupIDNotFound) {
				if len(known[name]) > 0 && !vague[name] {
					s.fail("%s with %d offsets is not found", name, len(known[name]))
				}
				err = nil
			}
			if err == nil {
				delete(known, name)
				delete(vague, name)
			}
		case 1, 2:
			var resp kadm.DeleteOffsetsResponses
			set := kadm.TopicsSet{}
			set.Add(place.topic, place.partition)
			resp, err = adm.DeleteOffsets(s.ctx, name, set)
			if err == nil {
				err = resp.Error()
			}
			if errors.Is(err, kerr.GroupIDNotFound) {
				err = nil
			}
			if err == nil {
				delete(known[name], place)
			}
		case 3, 4, 5, 6:
			if vague[name] {
				break
			}
			var resp kadm.OffsetResponses
			resp, err = adm.FetchOffsets(s.ctx, name)
			if err != nil {
				s.unexpected("FetchOffsets", err)
				err = nil
				break
			}
			// The client looks the names of topic ids up by itself, and where the
			// broker goes down in between it makes errors of partitions.
			if err := resp.Error(); err != nil {
				s.unexpected("FetchOffsets", err)
				break
			}
			got := map[at]int64{}
			resp.Each(func(o kadm.OffsetResponse) {
				if o.At >= 0 {
					got[at{o.Topic, o.Partition}] = o.At
				}
			})
			for k, v := range known[name] {
				if got[k] != v {
					s.fail("%s: %v is committed at %d, should be %d", name, k, got[k], v)
				}
			}
			if len(got) != len(known[name]) {
				s.fail("%s: committed %v, should be %v", name, got, known[name])
			}
			s.count("books read")
		default:
			os := kadm.Offsets{}
			value := random.Int64N(1 << 40)
			os.Add(kadm.Offset{Topic: place.topic, Partition: place.partition, At: value, LeaderEpoch: -1, Metadata: name})
			var resp kadm.OffsetResponses
			resp, err = adm.CommitOffsets(s.ctx, name, os)
			if err == nil {
				err = resp.Error()
			}
			if err == nil {
				if known[name] == nil {
					known[name] = map[at]int64{}
				}
				known[name][place] = value
			}
		}
		if err != nil {
			s.unexpected("bookkeeping", err)
			vague[name] = true
		}
	}
}
