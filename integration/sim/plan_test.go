package sim

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/metadata/command"
)

// plan is what one seed draws before it begins: the size of the cluster, its
// topics, and which faults there are and how often. Most seeds have few kinds of
// faults, so that each meets quiet times as well as every other kind (swarm
// testing).
type plan struct {
	brokers int
	topics  []topicPlan
	work    time.Duration // how long faults and load go on

	lagMax         time.Duration // replica.lag.time.max.ms
	session        time.Duration // broker.session.timeout.ms
	heartbeat      time.Duration // broker.heartbeat.interval.ms
	fetchWait      time.Duration // replica.fetch.wait.max.ms
	election       time.Duration // of the metadata leader
	proposeTimeout time.Duration
	hints          bool // gossip tells of failures
	produceEvery   time.Duration
	producers      int // for each partition
	fetchBatches   int // that one answer to a follower has

	level, program command.Level // of the cluster, and what its programs know, at first
	warmthLies     float64       // the chance that a follower or leader says nonsense of who is cold

	net   network
	flush time.Duration // an fsync takes up to this
	slow  float64       // the chance that it takes a hundred times as long

	// every is the mean time between two faults of a kind; 0 is never.
	every struct {
		kill, power, wipe, pause, cut, cutOneWay, shutdown, metaMove, clock, reassign, elect, delete, wedge, upgrade, fill time.Duration
	}
	down   time.Duration // a broker is down for up to this
	paused time.Duration
	cutFor time.Duration
	wedged time.Duration // a broker applies nothing for up to this
	filled time.Duration // a disk takes no records for up to this

	wipeJoiners float64 // the chance that who is to join an ISR loses its disk meanwhile

	allPower               float64 // the chance that a loss of power hits all brokers
	bucketFail, bucketLate float64 // chances of a PUT that fails, or that lands after its time-out
	putTime, putTimeout    time.Duration
	copyBytes              int64 // that one object has at most, an offset being a byte
}

// topicPlan is one topic.
type topicPlan struct {
	name       string
	partitions int
	factor     int
	minISR     int
	fsync      bool
	tiered     bool
	unclean    bool
	perSeal    int // batches in a segment
}

func (t *topicPlan) configs() map[string]string {
	m := map[string]string{"min.insync.replicas": strconv.Itoa(t.minISR), "durability": "replicated"}
	if t.fsync {
		m["durability"] = "fsync"
	}
	if t.tiered {
		m["remote.storage.enable"] = "true"
	}
	if t.unclean {
		m["unclean.leader.election.enable"] = "true"
	}
	return m
}

func (t *topicPlan) String() string {
	return fmt.Sprintf("%s: %d partitions, factor %d, min ISR %d, fsync %t, tiered %t, unclean %t",
		t.name, t.partitions, t.factor, t.minISR, t.fsync, t.tiered, t.unclean)
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d brokers, %v of work, session %v, lag %v, hints %t, %d producers a partition every %v\n",
		p.brokers, p.work, p.session, p.lagMax, p.hints, p.producers, p.produceEvery)
	for i := range p.topics {
		fmt.Fprintf(&b, "  %s\n", p.topics[i].String())
	}
	fmt.Fprintf(&b, "  network %v+%v, lost %.3f, doubled %.3f, late %.3f by %v; fsync %v, slow %.3f; bucket fails %.2f, late %.2f\n",
		p.net.base, p.net.spread, p.net.lose, p.net.double, p.net.late, p.net.lateBy, p.flush, p.slow, p.bucketFail, p.bucketLate)
	fmt.Fprintf(&b, "  every: %+v; down %v, paused %v, cut %v\n", p.every, p.down, p.paused, p.cutFor)
	return b.String()
}

// drawn draws with a generator.
type drawn struct{ *rand.Rand }

func (r drawn) chance(p float64) bool { return r.Float64() < p }

func (r drawn) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(r.Int64N(int64(hi-lo)))
}

// share draws a chance.
func (r drawn) share(lo, hi float64) float64 { return lo + r.Float64()*(hi-lo) }

// maybe draws a mean time between faults, or never.
func (r drawn) maybe(p float64, lo, hi time.Duration) time.Duration {
	d := r.between(lo, hi)
	if !r.chance(p) {
		return 0
	}
	return d
}

// unlikely draws a chance: usually 0, else up to most.
func (r drawn) unlikely(p, most float64) float64 {
	v := r.Float64() * most
	if !r.chance(p) {
		return 0
	}
	return v
}

func drawPlan(rng *rand.Rand) plan {
	r := drawn{rng}
	p := plan{
		brokers: 3 + r.IntN(3), work: r.between(4*time.Second, 14*time.Second),
		session: 3 * time.Second, heartbeat: 500 * time.Millisecond, fetchWait: 500 * time.Millisecond,
		lagMax:   []time.Duration{time.Second, 2 * time.Second, 10 * time.Second}[r.IntN(3)],
		election: r.between(400*time.Millisecond, time.Second), proposeTimeout: r.between(200*time.Millisecond, 5*time.Second),
		hints: r.chance(0.5), produceEvery: r.between(50*time.Millisecond, 300*time.Millisecond), producers: 1 + r.IntN(2),
		flush: r.between(100*time.Microsecond, 10*time.Millisecond), slow: r.unlikely(0.3, 0.1),
		down: r.between(50*time.Millisecond, 4*time.Second), paused: r.between(100*time.Millisecond, 6*time.Second),
		cutFor: r.between(100*time.Millisecond, 6*time.Second), fetchBatches: 1 + r.IntN(6),
		allPower: 0.3, copyBytes: 20, putTime: r.between(10*time.Millisecond, time.Second),
	}
	if r.chance(0.3) {
		p.session, p.heartbeat = time.Second, 150*time.Millisecond
	}
	p.net = network{base: r.between(50*time.Microsecond, 2*time.Millisecond), spread: r.between(100*time.Microsecond, 5*time.Millisecond),
		lose: r.unlikely(0.5, 0.05), double: r.unlikely(0.5, 0.1), late: r.unlikely(0.6, 0.1), lateBy: r.between(10*time.Millisecond, 3*time.Second)}
	p.bucketFail, p.bucketLate = r.unlikely(0.4, 0.4), r.unlikely(0.4, 0.3)
	const lo, hi = 500 * time.Millisecond, 6 * time.Second
	e := &p.every
	e.kill, e.power, e.wipe = r.maybe(0.35, lo, hi), r.maybe(0.35, lo, hi), r.maybe(0.2, time.Second, hi)
	e.pause, e.cut, e.cutOneWay = r.maybe(0.3, lo, hi), r.maybe(0.3, lo, hi), r.maybe(0.25, lo, hi)
	e.shutdown, e.metaMove, e.clock = r.maybe(0.2, lo, hi), r.maybe(0.3, lo, hi), r.maybe(0.2, lo, hi)
	e.reassign, e.elect, e.delete = r.maybe(0.25, lo, hi), r.maybe(0.25, lo, hi), r.maybe(0.2, time.Second, hi)
	p.level, p.program, p.warmthLies = command.MaxLevel, command.MaxLevel, r.unlikely(0.5, 0.5)
	if r.chance(0.3) {
		p.level, e.upgrade = command.Level1, r.between(lo, 3*time.Second)
		if r.chance(0.5) {
			p.program = command.Level1
		}
	}
	e.wedge, p.wedged = r.maybe(0.2, time.Second, hi), r.between(time.Second, 4*p.session)
	for i := range 1 + r.IntN(2) {
		t := topicPlan{name: string(rune('a' + i)), partitions: 1 + r.IntN(2), factor: 3, minISR: 2,
			fsync: r.chance(0.5), tiered: r.chance(0.6), unclean: r.chance(0.2), perSeal: 2 + r.IntN(8)}
		switch x := r.IntN(10); {
		case x < 2:
			t.minISR = 1
		case x == 2:
			t.factor, t.minISR = 2, 1
		case x == 3 && p.brokers >= 5:
			t.factor, t.minISR = 5, 3
		case x == 4:
			t.factor, t.minISR = 1, 1
		}
		p.topics = append(p.topics, t)
	}
	switch r.IntN(6) {
	case 0:
		p.lonelyLeaders(r)
	case 1:
		p.quickReturns(r)
	case 2:
		p.lateProposals(r)
	}
	p.putTimeout = 2*p.putTime + time.Second
	e.fill, p.filled = r.maybe(0.2, lo, hi), r.between(200*time.Millisecond, 6*time.Second)
	return p
}

// lonelyLeaders makes it likely that a leader is the only one in sync, is cut off
// and succeeded uncleanly, and comes back with a copy under way.
func (p *plan) lonelyLeaders(r drawn) {
	p.session, p.heartbeat, p.lagMax = time.Second, 150*time.Millisecond, time.Second
	p.work, p.produceEvery, p.putTime, p.copyBytes = 12*time.Second, 60*time.Millisecond, r.between(300*time.Millisecond, 2*time.Second), 1000
	p.brokers, p.cutFor = 3, r.between(2*time.Second, 6*time.Second)
	p.every.kill, p.every.power, p.every.wipe, p.every.reassign = 0, 0, 0, 0
	p.every.cut = r.between(500*time.Millisecond, 1500*time.Millisecond)
	for i := range p.topics {
		t := &p.topics[i]
		t.factor, t.minISR, t.tiered, t.unclean, t.perSeal = 2, 1, true, true, 2
	}
}

// lateProposals makes it likely that a change of the ISR is given up for lost, and
// comes about when the one who joined by it has fallen behind.
func (p *plan) lateProposals(r drawn) {
	p.lagMax, p.proposeTimeout = time.Second, r.between(100*time.Millisecond, 400*time.Millisecond)
	p.work, p.produceEvery = 12*time.Second, 40*time.Millisecond
	p.net.late, p.net.lateBy = r.share(0.1, 0.4), r.between(time.Second, 3*time.Second)
	p.paused, p.every.pause = r.between(time.Second, 3*time.Second), r.between(200*time.Millisecond, time.Second)
	for i := range p.topics {
		t := &p.topics[i]
		t.factor, t.minISR, t.unclean = 3, 1+r.IntN(2), false
	}
}

// quickReturns makes it likely that a broker loses what it has, and is back and
// active, while what others say of its former life is still on its way.
func (p *plan) quickReturns(r drawn) {
	p.session, p.heartbeat, p.proposeTimeout, p.allPower = time.Second, 100*time.Millisecond, 5*time.Second, 0
	p.work, p.produceEvery, p.fetchBatches = 12*time.Second, 40*time.Millisecond, 1
	p.down = r.between(20*time.Millisecond, 200*time.Millisecond)
	p.net.base, p.net.late, p.net.lateBy = r.between(5*time.Millisecond, 30*time.Millisecond), r.share(0.2, 0.5), r.between(500*time.Millisecond, 4*time.Second)
	p.every.power, p.every.wipe = r.maybe(0.7, 300*time.Millisecond, 1500*time.Millisecond), r.maybe(0.7, 300*time.Millisecond, time.Second)
	for i := range p.topics {
		t := &p.topics[i]
		t.factor, t.minISR, t.fsync, t.tiered, t.unclean = 3, 2, r.chance(0.3), false, false
	}
	if r.chance(0.5) { // disks are lost at the worst moment alone
		p.every.power, p.every.wipe, p.every.kill, p.wipeJoiners = 0, 0, r.between(200*time.Millisecond, time.Second), r.share(0.4, 0.9)
	}
}
