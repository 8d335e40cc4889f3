package peer

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/record"
)

// Options say who pulls and how much at a time.
type Options struct {
	NodeID int32
	// BrokerEpoch is that of this broker's registration in force, −1 while there is
	// none. Required.
	BrokerEpoch func() int64
	// Dial connects to a broker's port for brokers; the connection speaks Kafka's
	// protocol from its first byte. Required.
	Dial func(ctx context.Context, brokerID int32) (net.Conn, error)
	// Sessions is how many connections there are to each leader
	// (num.replica.fetchers). Default 1.
	Sessions int
	// MaxWait is how long a leader with no news keeps a request
	// (replica.fetch.wait.max.ms). Default 500 ms.
	MaxWait time.Duration
	// MinBytes is what it waits for (replica.fetch.min.bytes). Default 1.
	MinBytes int32
	// MaxBytes bounds the records of a partition in a reply (replica.fetch.max.bytes,
	// 1 MiB), ResponseBytes those of all (replica.fetch.response.max.bytes, 10 MiB).
	// One batch always comes.
	MaxBytes, ResponseBytes int32
	// Backoff is the longest pause before a partition or a leader that failed is
	// tried again (replica.fetch.backoff.ms). Default 1 s; it begins at 25 ms.
	Backoff time.Duration
	// Timeout bounds the dialling of a leader, and the wait for a reply beyond
	// MaxWait (replica.socket.timeout.ms). Default 30 s.
	Timeout time.Duration
	// ThrottleRate is follower.replication.throttled.rate as of now, in bytes per
	// second, 0 for none. It holds the partitions that
	// follower.replication.throttled.replicas names while they are not in sync
	// (KIP-73). Optional.
	ThrottleRate func() int64
	Logger       *slog.Logger
}

func (o *Options) setDefaults() error {
	if o.Dial == nil || o.BrokerEpoch == nil {
		return errors.New("peer: Options need Dial and BrokerEpoch")
	}
	o.Sessions = max(o.Sessions, 1)
	setDefault(&o.MaxWait, 500*time.Millisecond)
	setDefault(&o.Backoff, time.Second)
	setDefault(&o.Timeout, 30*time.Second)
	setDefault(&o.MinBytes, 1)
	setDefault(&o.MaxBytes, 1<<20)
	setDefault(&o.ResponseBytes, 10<<20)
	if o.ThrottleRate == nil {
		o.ThrottleRate = func() int64 { return 0 }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

func setDefault[T int32 | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Manager pulls for all partitions that this broker follows.
type Manager struct {
	opts     Options
	throttle *fetch.Throttle
	seed     maphash.Seed
	stats    stats

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	rateAsked atomic.Int64 // when ThrottleRate was asked last, in ns

	mu       sync.Mutex
	closed   bool
	sessions map[sessionKey]*session
	where    map[*partition.Partition]*session
}

type sessionKey struct {
	leader int32
	slot   int
}

// New returns a manager that follows nobody.
func New(o Options) (*Manager, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	m := &Manager{opts: o, throttle: fetch.NewThrottle(), seed: maphash.MakeSeed(),
		sessions: make(map[sessionKey]*session), where: make(map[*partition.Partition]*session)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// Follow makes a partition follow a leader, or nobody. It is the Set's OnFollow,
// and does not block.
func (m *Manager) Follow(p *partition.Partition, f partition.Following) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	var to *session
	if f.Leader >= 0 && f.Leader != m.opts.NodeID {
		to = m.sessionLocked(f.Leader, p.TP())
	}
	if from := m.where[p]; from != nil && from != to {
		p.SetPuller(nil)
		from.remove(p)
		delete(m.where, p)
	}
	if to != nil {
		m.where[p] = to
		to.add(p)
		p.SetPuller(to)
	}
}

func (m *Manager) sessionLocked(leader int32, tp record.TopicPartition) *session {
	slot := int(maphash.Comparable(m.seed, tp) % uint64(m.opts.Sessions))
	key := sessionKey{leader: leader, slot: slot}
	s := m.sessions[key]
	if s == nil {
		s = newSession(m, key)
		m.sessions[key] = s
	}
	return s
}

// Following is the number of partitions that are pulled for.
func (m *Manager) Following() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.where)
}

// Close stops pulling and waits for what is under way.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for p := range m.where {
		p.SetPuller(nil)
	}
	clear(m.where)
	for _, s := range m.sessions {
		s.stop()
	}
	m.cancel()
	m.mu.Unlock()
	m.wg.Wait()
}

// heldBack says that a throttle keeps a partition from being asked for.
func (m *Manager) heldBack(p *partition.Partition, now time.Time) bool {
	if !m.throttled(p) {
		return false
	}
	if last := m.rateAsked.Load(); now.UnixNano()-last > int64(time.Second) && m.rateAsked.CompareAndSwap(last, now.UnixNano()) {
		m.throttle.SetRate(m.opts.ThrottleRate())
	}
	return m.throttle.Exceeded() && !p.Synced()
}

// throttled says whether a partition is named by
// follower.replication.throttled.replicas.
func (m *Manager) throttled(p *partition.Partition) bool {
	for _, pair := range p.Config().FollowerThrottled {
		if pair == "*" {
			return true
		}
		number, broker, _ := strings.Cut(pair, ":")
		if number == strconv.Itoa(int(p.TP().Partition)) && broker == strconv.Itoa(int(m.opts.NodeID)) {
			return true
		}
	}
	return false
}

type stats struct {
	fetches, bytes, failedFetches, failedReplies, sessions atomic.Uint64
}

// Stats are counts since the start.
type Stats struct {
	Fetches uint64 // requests that were answered
	Bytes   uint64 // of records that were appended
	// FailedFetches were not answered; FailedReplies are answers for one partition
	// that were an error or could not be carried out.
	FailedFetches, FailedReplies uint64
	// Sessions were begun: full requests.
	Sessions uint64
}

// Stats returns the counts as of now.
func (m *Manager) Stats() Stats {
	return Stats{Fetches: m.stats.fetches.Load(), Bytes: m.stats.bytes.Load(), FailedFetches: m.stats.failedFetches.Load(),
		FailedReplies: m.stats.failedReplies.Load(), Sessions: m.stats.sessions.Load()}
}
