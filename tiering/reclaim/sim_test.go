package reclaim_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/faulty"
	"github.com/firnlog/firn/tiering/reclaim"
)

var (
	simSeed = flag.Uint64("sim.seed", 0, "run one simulation with this seed")
	simRuns = flag.Int("sim.runs", 40, "how many simulations to run")
)

// broker is a simulated one: the archive machine, and the effects that it
// wants. Each is carried out on its own, at any time, or never.
type broker struct {
	id      int32
	epoch   int64
	machine *archive.Machine
	pending []archive.Effect
}

// simulation drives two brokers, a metadata leader's sweeper, and a bucket
// through faults, crashes, elections, retention and the deletion of a topic.
type simulation struct {
	*world
	t       *testing.T
	r       *rand.Rand
	brokers []*broker
	sweeper *reclaim.Sweeper
	fuse    *fuse
	sealed  map[record.TopicPartition]record.Offset
	zombies []archive.Copy // uploads of dead processes that may still land
	story   []string
	calm    bool
}

func (s *simulation) say(format string, args ...any) {
	s.story = append(s.story, fmt.Sprintf(format, args...))
}

func (s *simulation) uuid() uuid.UUID {
	var id uuid.UUID
	for i := range id {
		id[i] = byte(s.r.Uint32())
	}
	return id
}

func (s *simulation) restart(b *broker) {
	b.epoch = s.meta.Register(b.id)
	for _, e := range b.pending {
		if u, ok := e.(archive.Upload); ok && s.r.IntN(2) == 0 {
			s.zombies = append(s.zombies, u.Copy)
		}
	}
	b.pending = nil
	b.machine = archive.NewMachine(archive.MachineOptions{Concurrency: 2, TargetBytes: 150, NewID: s.uuid, Jitter: s.r.Float64})
}

// fault is what the bucket does to a call. A damaged claim is left out: it
// stops all deletion until a person looks, and that is meant.
func (s *simulation) fault(c faulty.Call) faulty.Fault {
	if s.calm || s.r.IntN(5) > 0 {
		return faulty.Fault{}
	}
	kinds := []faulty.Kind{faulty.Unavailable, faulty.Reset, faulty.Unseen}
	if _, data := s.lay.ParseObject(c.Key); data && c.Op == "put" {
		kinds = append(kinds, faulty.Late, faulty.Flip)
	}
	return faulty.Fault{Kind: kinds[s.r.IntN(len(kinds))], At: s.r.Int64N(5)}
}

func (s *simulation) leads(b *broker) []archive.Led {
	var leads []archive.Led
	for i := range 3 {
		tp := partition(i)
		p := s.meta.Parts[tp]
		if p.Leader != b.id || p.Deleted {
			continue
		}
		led := archive.Led{Partition: tp, Store: "warm", Start: p.Manifest.CopyStart(),
			Fence: command.Fence{BrokerID: b.id, BrokerEpoch: b.epoch, LeaderEpoch: p.LeaderEpoch}}
		for end := led.Start/10*10 + 10; end <= s.sealed[tp]; end += 10 {
			led.Sealed = append(led.Sealed, archive.Sealed{End: end, Bytes: 100, At: time.Now()})
		}
		leads = append(leads, led)
	}
	return leads
}

func (s *simulation) add(b *broker, effects []archive.Effect) {
	for _, e := range effects {
		if _, ok := e.(archive.Cancel); !ok {
			b.pending = append(b.pending, e)
		}
	}
}

// carryOut does one of the effects that a broker wants, whichever; sometimes
// its answer is lost.
func (s *simulation) carryOut(b *broker) {
	i := s.r.IntN(len(b.pending))
	e := b.pending[i]
	b.pending = slices.Delete(b.pending, i, i+1)
	ctx := s.t.Context()
	var event archive.Event
	switch e := e.(type) {
	case archive.Propose:
		res, err := s.meta.Propose(ctx, e.Command)
		if !s.calm && s.r.IntN(10) == 0 {
			res, err = command.Result{}, errors.New("answer lost")
		}
		event = archive.Proposed{Copy: e.Copy, Result: res, Err: err}
		s.say("broker %d: %s %v [%d, %d) #%x: %v", b.id, e.Command.Kind(), e.Copy.Led.Partition, e.Copy.Start, e.Copy.End, e.Copy.Object[:2], err)
	case archive.Upload:
		err := s.put(ctx, s.store, e.Copy)
		event = archive.Uploaded{Copy: e.Copy, Object: object(s.world, e.Copy), Err: err}
		s.say("broker %d: upload #%x: %v", b.id, e.Copy.Object[:2], err)
	case archive.Verify:
		// Deep, for this bucket takes any bytes.
		_, err := objstore.Verify(ctx, s.store, s.lay.Object(e.Copy.Object), e.Uploaded.Size, e.Uploaded.Checksum, true)
		event = archive.Verified{Copy: e.Copy, Err: err}
		s.say("broker %d: verify #%x: %v", b.id, e.Copy.Object[:2], err)
	}
	s.add(b, b.machine.Step(time.Now(), event))
}

func (s *simulation) newSweeper() {
	s.fuse = &fuse{left: 1 << 30}
	if !s.calm {
		s.fuse.left = s.r.IntN(60)
	}
	s.sweeper = s.world.sweeper(s.t, s.fuse, 1, "us")
}

func (s *simulation) sweep() {
	p, err := s.sweeper.Pass(s.t.Context())
	s.say("sweep: %+v %v", p, err)
	if errors.Is(err, errDead) {
		s.say("metadata leader dies")
		s.newSweeper()
	}
}

// step does one random thing.
func (s *simulation) step() {
	b := s.brokers[s.r.IntN(len(s.brokers))]
	tp := partition(s.r.IntN(3))
	p := s.meta.Parts[tp]
	switch n := s.r.IntN(100); {
	case n < 50:
		if len(b.pending) > 0 {
			s.carryOut(b)
		}
	case n < 65:
		s.add(b, b.machine.Observe(time.Now(), s.leads(b)))
	case n < 75:
		s.sealed[tp] += 10
	case n < 80:
		wait := time.Duration(s.r.Int64N(int64(20 * time.Minute)))
		s.say("%v pass", wait)
		time.Sleep(wait)
		s.add(b, b.machine.Tick(time.Now()))
	case n < 84:
		s.meta.Elect(tp, 1+s.r.Int32N(2))
		s.say("broker %d leads %v", p.Leader, tp)
	case n < 87:
		s.say("broker %d dies", b.id)
		s.restart(b)
	case n < 91:
		if limit := max(p.Manifest.LogStart(), s.sealed[tp]); limit > 0 && !p.Deleted {
			off := record.Offset(s.r.Int64N(int64(limit) + 1))
			s.say("log start of %v to %d", tp, off)
			s.logStart(tp, off)
		}
	case n < 97:
		s.sweep()
	case n < 98:
		s.say("late PUTs land: %v", s.store.LandLate())
	case n < 99:
		s.landZombies()
	default:
		if s.r.IntN(20) == 0 && len(s.meta.Tombs) == 0 && !p.Deleted {
			s.say("topic deleted")
			s.meta.DeleteTopic(topic, 3)
		}
	}
}

func (s *simulation) landZombies() {
	for _, c := range s.zombies {
		err := s.put(s.t.Context(), s.bucket, c)
		s.say("zombie upload #%x lands: %v", c.Object[:2], err)
	}
	s.zombies = nil
}

// settle lets everything come to rest without faults.
func (s *simulation) settle() {
	s.calm = true
	s.say("calm")
	s.landZombies()
	require.NoError(s.t, s.store.LandLate())
	for range 40 {
		for _, b := range s.brokers {
			s.add(b, b.machine.Observe(time.Now(), s.leads(b)))
			for len(b.pending) > 0 {
				s.carryOut(b)
			}
		}
		time.Sleep(2 * time.Minute)
	}
	s.newSweeper()
	for range 6 {
		s.sweep()
		time.Sleep(orphanAge)
	}
}

func simulate(t *testing.T, seed uint64) {
	s := &simulation{world: newWorld(t), t: t, r: rand.New(rand.NewPCG(seed, 1)), sealed: map[record.TopicPartition]record.Offset{}}
	s.store.SetPlan(s.fault)
	for id := range int32(2) {
		b := &broker{id: id + 1}
		s.brokers = append(s.brokers, b)
		s.restart(b)
	}
	s.newSweeper()
	tell := func() string { return fmt.Sprintf("seed %d\n%s", seed, join(s.story)()) }
	for range 400 {
		s.step()
		s.requireSound(t, tell)
	}
	s.settle()
	s.requireSound(t, tell)
	s.requireClean(t, tell)
	for tp, p := range s.meta.Parts {
		if !p.Deleted { // all that is sealed got there
			require.GreaterOrEqual(t, p.Manifest.CopyStart(), s.sealed[tp], tell())
		}
	}
}

// TestSimulation: whatever fails and whenever processes die, no record is lost
// on its way to the bucket, no hole appears, and after the grace periods
// nothing is left that nobody refers to. Seeds are random and printed.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		synctest.Test(t, func(t *testing.T) { simulate(t, *simSeed) })
		return
	}
	for range *simRuns {
		seed := rand.Uint64()
		synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		if t.Failed() {
			t.Fatalf("repeat with: go test ./tiering/reclaim -run TestSimulation -sim.seed=%d", seed)
		}
	}
}
