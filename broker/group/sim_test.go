package group

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
)

var (
	simSeed = flag.Uint64("sim.seed", 0, "run the simulation with this seed alone")
	simRuns = flag.Int("sim.runs", 6, "seeds to run the simulation with")
)

const simPartitions = 12

// sim is a group of consumers under faults: answers get lost, consumers crash
// and come back, appends are slow or fail, the coordinator moves.
type sim struct {
	t     *testing.T
	log   *fakeLog
	c     *Coordinator
	calm  bool // no more faults
	stop  chan struct{}
	epoch record.Epoch

	mu sync.Mutex
	// owners of each generation: a partition never has two.
	owners map[int32]map[string]string
	asked  int
	told   int
	faults []string
}

func (s *sim) fail(format string, args ...any) {
	s.mu.Lock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
	s.mu.Unlock()
}

// consumer is one client, written after how Kafka's consumers behave.
type consumer struct {
	s        *sim
	rng      *rand.Rand
	index    int
	instance *string
	byID     bool // JoinGroup v4+
	member   string

	mu         sync.Mutex // the rest is read by the test at the end
	live       bool
	generation int32
	owned      []string
	acked      int64 // own offset as answered
	sent       int64
}

var errLost = errors.New("the answer was lost")

// request sends one request; in bad times the answer may get lost.
func request[T any](c *consumer, send func(done func(T))) (T, error) {
	ch := make(chan T, 1)
	c.s.mu.Lock()
	c.s.asked++
	lost := !c.s.calm && c.rng.IntN(20) == 0
	c.s.mu.Unlock()
	answered := false
	send(func(v T) {
		c.s.mu.Lock()
		if answered {
			c.s.faults = append(c.s.faults, "answered twice")
		}
		answered = true
		c.s.told++
		c.s.mu.Unlock()
		ch <- v
	})
	var none T
	if lost {
		c.sleep(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
		return none, errLost
	}
	select {
	case v := <-ch:
		return v, nil
	case <-time.After(time.Minute):
		return none, errLost
	case <-c.s.stop:
		return none, context.Canceled
	}
}

func (c *consumer) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-c.s.stop:
		return false
	}
}

func (c *consumer) stopped() bool {
	select {
	case <-c.s.stop:
		return true
	default:
		return false
	}
}

func (c *consumer) setLive(live bool) {
	c.mu.Lock()
	c.live, c.owned, c.generation = live, nil, -1
	c.mu.Unlock()
}

func (c *consumer) run() {
	for !c.stopped() {
		c.setLive(true)
		c.consume()
		c.setLive(false)
		c.s.mu.Lock()
		calm := c.s.calm
		c.s.mu.Unlock()
		if !calm { // away for a while, longer than its session or not
			c.sleep(time.Duration(c.rng.IntN(15000)) * time.Millisecond)
		}
		c.member = ""
	}
}

// consume joins and polls until the consumer crashes or leaves.
func (c *consumer) consume() {
	for !c.stopped() {
		joined, ok := c.join()
		if !ok {
			return
		}
		if !c.sync(joined) {
			continue
		}
		for {
			if !c.sleep(time.Duration(1000+c.rng.IntN(1000)) * time.Millisecond) {
				return
			}
			c.s.mu.Lock()
			calm := c.s.calm
			c.s.mu.Unlock()
			if !calm && c.rng.IntN(15) == 0 { // crash
				return
			}
			if !calm && c.rng.IntN(30) == 0 {
				req := &LeaveRequest{Group: "g", Members: []LeaveMember{{MemberID: c.member, InstanceID: c.instance}}}
				if _, err := request(c, func(done func(LeaveResponse)) { c.s.c.Leave(req, done) }); err != nil {
					return
				}
				return
			}
			if c.commit(joined.Generation) {
				c.rejoin()
				break
			}
			beat, err := request(c, func(done func(error)) {
				c.s.c.Heartbeat(&HeartbeatRequest{Group: "g", MemberID: c.member, InstanceID: c.instance, Generation: joined.Generation}, done)
			})
			if err == nil && c.lostPlace(beat) {
				break
			}
		}
	}
}

// rejoin forgets the assignment.
func (c *consumer) rejoin() {
	c.mu.Lock()
	c.owned, c.generation = nil, -1
	c.mu.Unlock()
}

// lostPlace handles an error and reports whether to join again.
func (c *consumer) lostPlace(err error) bool {
	is := func(any ...error) bool {
		return slices.ContainsFunc(any, func(target error) bool { return errors.Is(err, target) })
	}
	switch {
	case err == nil, is(kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress):
		return false
	case is(kerr.UnknownMemberID, kerr.FencedInstanceID):
		c.member = ""
	case is(kerr.RebalanceInProgress, kerr.IllegalGeneration):
	default:
		c.s.fail("consumer %d: unexpected %v", c.index, err)
	}
	c.rejoin()
	return true
}

func (c *consumer) join() (JoinResponse, bool) {
	for !c.stopped() {
		req := &JoinRequest{
			Group: "g", MemberID: c.member, InstanceID: c.instance, ClientID: "c" + strconv.Itoa(c.index), ClientHost: "/h",
			SessionTimeout: 6 * time.Second, RebalanceTimeout: 10 * time.Second, ProtocolType: "consumer",
			Protocols:       []Protocol{{"range", subscription("t")}, {"sticky", subscription("t")}},
			RequireMemberID: c.byID, CanSkipAssignment: c.byID,
		}
		r, err := request(c, func(done func(JoinResponse)) { c.s.c.Join(req, done) })
		switch {
		case err != nil:
			if c.instance != nil {
				c.member = "" // as after a restart
			}
		case r.Err == nil:
			c.member = r.MemberID
			return r, true
		case errors.Is(r.Err, kerr.MemberIDRequired):
			c.member = r.MemberID
		case c.lostPlace(r.Err):
		default:
			c.sleep(100 * time.Millisecond)
		}
	}
	return JoinResponse{}, false
}

// sync fetches the assignment, computing it first where the consumer leads.
func (c *consumer) sync(j JoinResponse) bool {
	req := &SyncRequest{
		Group: "g", MemberID: c.member, InstanceID: c.instance, Generation: j.Generation,
		ProtocolType: &j.ProtocolType, Protocol: &j.Protocol,
	}
	if j.Leader == c.member && !j.SkipAssignment {
		lists := make([][]string, len(j.Members))
		for p := range simPartitions {
			lists[p%len(lists)] = append(lists[p%len(lists)], strconv.Itoa(p))
		}
		for i, m := range j.Members {
			req.Assignments = append(req.Assignments, Assignment{m.ID, []byte(strings.Join(lists[i], " "))})
		}
	}
	for range 5 {
		r, err := request(c, func(done func(SyncResponse)) { c.s.c.Sync(req, done) })
		switch {
		case err != nil:
			continue
		case r.Err == nil:
			c.own(j.Generation, strings.Fields(string(r.Assignment)))
			return true
		case c.lostPlace(r.Err):
			return false
		}
		c.sleep(100 * time.Millisecond)
	}
	return false
}

// own records what the consumer was given and checks that nobody else was.
func (c *consumer) own(generation int32, partitions []string) {
	who := c.member
	if c.instance != nil {
		who = *c.instance
	}
	c.s.mu.Lock()
	if c.s.owners[generation] == nil {
		c.s.owners[generation] = map[string]string{}
	}
	for _, p := range partitions {
		if other, ok := c.s.owners[generation][p]; ok && other != who {
			c.s.faults = append(c.s.faults, fmt.Sprintf("generation %d: partition %s was given to %s and %s", generation, p, other, who))
		}
		c.s.owners[generation][p] = who
	}
	c.s.mu.Unlock()
	c.mu.Lock()
	c.generation, c.owned = generation, partitions
	c.mu.Unlock()
}

// commit stores a growing offset of the consumer's own.
func (c *consumer) commit(generation int32) (rejoin bool) {
	c.mu.Lock()
	c.sent++
	offset := c.sent
	c.mu.Unlock()
	req := &CommitRequest{
		Group: "g", MemberID: c.member, InstanceID: c.instance, Generation: generation, Retention: -1,
		Offsets: []OffsetCommit{{Topic: "own", Partition: int32(c.index), Offset: offset, LeaderEpoch: -1}},
	}
	r, err := request(c, func(done func(CommitResponse)) { c.s.c.Commit(req, done) })
	if err != nil {
		return false
	}
	if r.Err == nil {
		c.mu.Lock()
		c.acked = offset
		c.mu.Unlock()
	}
	return c.lostPlace(r.Err)
}

func TestSimulation(t *testing.T) {
	first, runs := rand.Uint64(), *simRuns
	if *simSeed != 0 {
		first, runs = *simSeed, 1
	}
	for i := range runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	var rngMu sync.Mutex
	draw := func(n int) int {
		rngMu.Lock()
		defer rngMu.Unlock()
		return rng.IntN(n)
	}
	s := &sim{t: t, log: newFakeLog(), stop: make(chan struct{}), owners: map[int32]map[string]string{}}
	isCalm := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.calm
	}
	s.log.latency = func() time.Duration {
		if !isCalm() && draw(30) == 0 { // around offset.commit.timeout.ms
			return time.Duration(4000+draw(4000)) * time.Millisecond
		}
		return time.Duration(1+draw(200)) * time.Millisecond
	}
	s.log.fail = func() error {
		if !isCalm() && draw(15) == 0 {
			return kerr.NotEnoughReplicas
		}
		return nil
	}
	s.c = newCoordinator(t, fenced{s}, func(c *Config) { c.InitialRebalanceDelay = time.Duration(draw(4)) * time.Second })
	move := func() {
		s.mu.Lock()
		s.epoch++
		epoch := s.epoch
		s.mu.Unlock()
		s.c.Lead(0, epoch)
	}
	move()

	var consumers []*consumer
	var wg sync.WaitGroup
	for i := range 8 {
		c := &consumer{s: s, rng: rand.New(rand.NewPCG(seed, uint64(i+2))), index: i, byID: i%4 != 3}
		if i%3 == 0 {
			id := "i" + strconv.Itoa(i)
			c.instance = &id
		}
		consumers = append(consumers, c)
		wg.Go(c.run)
	}
	for range 40 {
		time.Sleep(time.Duration(draw(12000)) * time.Millisecond)
		if draw(4) == 0 {
			move()
		}
	}
	s.mu.Lock()
	s.calm = true
	s.mu.Unlock()
	time.Sleep(3 * time.Minute)
	synctest.Wait()

	// No rebalance is stuck: every consumer has its place, and each partition an
	// owner, in one generation.
	d, err := s.c.Describe("g")
	require.NoError(t, err)
	require.Equal(t, "Stable", d.State)
	require.Len(t, d.Members, len(consumers))
	all := map[string]bool{}
	generation := int32(-1)
	for _, c := range consumers {
		c.mu.Lock()
		require.True(t, c.live)
		if generation < 0 {
			generation = c.generation
		}
		require.Equal(t, generation, c.generation, "consumer %d", c.index)
		for _, p := range c.owned {
			require.False(t, all[p], "partition %s has two owners", p)
			all[p] = true
		}
		c.mu.Unlock()
	}
	require.Len(t, all, simPartitions)
	require.Greater(t, generation, int32(5), "the test did not test much")

	close(s.stop)
	wg.Wait()
	time.Sleep(time.Second) // appends under way
	synctest.Wait()
	own := ask(func(done func(FetchResponse)) {
		c := &FetchRequest{Group: "g", Topics: []FetchTopic{{Topic: "own"}}}
		for i := range consumers {
			c.Topics[0].Partitions = append(c.Topics[0].Partitions, int32(i))
		}
		s.c.Fetch(c, done)
	}).get(t)
	for i, c := range consumers {
		got := own.Topics[0].Partitions[i].Offset
		require.GreaterOrEqual(t, got, c.acked, "an acked commit is gone")
		require.LessOrEqual(t, got, c.sent)
	}
	memory := dump(s.c)
	for name, log := range map[string]*fakeLog{
		"replay": s.log, "compacted": s.log.compacted(false), "without tombstones": s.log.compacted(true),
	} {
		log.latency = nil
		again := reload(t, log)
		require.Equal(t, memory, dump(again), name)
		again.Close()
	}
	s.c.Close()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.faults)
	require.Equal(t, s.asked, s.told, "every request is answered")
}

// fenced is the sim's log, which refuses appends of an old epoch.
type fenced struct{ s *sim }

func (f fenced) Append(partition int32, epoch record.Epoch, batch []byte, done func(record.Offset, error)) {
	time.AfterFunc(f.s.log.latency(), func() {
		f.s.mu.Lock()
		old := epoch < f.s.epoch
		f.s.mu.Unlock()
		err := f.s.log.fail()
		if old {
			err = kerr.NotLeaderForPartition
		}
		if err != nil {
			done(0, err)
			return
		}
		done(f.s.log.write(partition, epoch, batch), nil)
	})
}

func (f fenced) Scan(ctx context.Context, partition int32, fn func(*record.Batch) error) error {
	return f.s.log.Scan(ctx, partition, fn)
}

// dump is everything that a restart must bring back. A Stable group's record
// was written while it was CompletingRebalance, so its time is left out.
func dump(c *Coordinator) string {
	var lines []string
	for _, s := range c.shards {
		s.mu.Lock()
		for id, g := range s.groups {
			v, err := decodeGroup(g.classic.record().Value)
			if err != nil {
				panic(err)
			}
			if len(v.members) > 0 {
				v.since = 0
			}
			lines = append(lines, fmt.Sprintf("%s %s %d %q %q %d", id, v.protocolType, v.generation, v.protocol, v.leader, v.since))
			for _, m := range v.members {
				lines = append(lines, fmt.Sprintf("%s member %s %v %s %s %x %q", id, m.id, m.instanceID != nil, m.sessionTimeout, m.rebalanceTimeout, m.subscription, m.assignment))
			}
		}
		for id, o := range s.offsets.groups {
			o.each(func(topic string, partition int32, c committed, open bool) {
				c.at = 0 // a compacted log has other offsets
				lines = append(lines, fmt.Sprintf("%s offset %s-%d %v %+v", id, topic, partition, open, c))
			})
		}
		s.mu.Unlock()
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
