package broker

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/controller"
	"github.com/firnlog/firn/metadata/membership"
	"github.com/firnlog/firn/record"
)

// maxNamed is how many partitions a reason names.
const maxNamed = 10

// clusterHealth says how the cluster is by an image. voters are the directories
// that vote in the metadata's quorum; nil where they are not known.
func clusterHealth(img *metadata.Image, voters []uuid.UUID) adminapi.ClusterHealth {
	h := adminapi.ClusterHealth{ClusterID: img.ClusterID(), Controller: img.ControllerID(), MetadataIndex: img.Index(),
		Topics: img.TopicCount(), Partitions: img.PartitionCount(), Reasons: []adminapi.HealthReason{}}
	var leaderless, underMin, underReplicated []string
	for tp, p := range img.AllPartitions() {
		topic := img.Topic(tp.Topic)
		switch {
		case p.Leader < 0:
			leaderless = append(leaderless, partitionName(topic, tp))
		case len(p.ISR) < metadata.MinISR(img, topic, p.Factor()):
			underMin = append(underMin, partitionName(topic, tp))
		}
		if p.UnderReplicated() {
			underReplicated = append(underReplicated, partitionName(topic, tp))
		}
		if p.Leader >= 0 && p.Leader != p.Replicas[0] {
			h.NotPreferred++
		}
		if len(p.Adding)+len(p.Removing) > 0 {
			h.Reassigning++
		}
	}
	h.Leaderless, h.UnderMinISR, h.UnderReplicated = len(leaderless), len(underMin), len(underReplicated)

	add := func(state, what string, names []string) {
		h.Reasons = append(h.Reasons, adminapi.HealthReason{State: state, What: what, Partitions: names[:min(len(names), maxNamed)]})
	}
	if h.Controller < 0 {
		add(adminapi.HealthCritical, "no broker leads the metadata: topics, configs and leaders cannot be changed until a majority of the voters is back, and no broker serves clients once its lease has ended", nil)
	}
	if n := len(leaderless); n > 0 {
		add(adminapi.HealthCritical, count(n, "partition has", "partitions have")+" no leader: no replica that has all acknowledged records is up", leaderless)
	}
	if n := len(underMin); n > 0 {
		add(adminapi.HealthCritical, count(n, "partition has", "partitions have")+" fewer replicas in sync than min.insync.replicas: acks=all is refused", underMin)
	}
	up := map[uuid.UUID]bool{}
	for b := range img.Brokers() {
		h.Brokers++
		switch {
		case b.Fenced:
			add(adminapi.HealthDegraded, fmt.Sprintf("broker %d is fenced: its heartbeats stay away, or it has not caught up yet", b.ID), nil)
		case b.ShuttingDown:
			h.BrokersUp++
			up[b.DirectoryID] = true
			add(adminapi.HealthDegraded, fmt.Sprintf("broker %d is shutting down", b.ID), nil)
		case b.Full:
			h.BrokersUp++
			up[b.DirectoryID] = true
			add(adminapi.HealthDegraded, fmt.Sprintf("the disk of broker %d is full: it takes no records until there is room, and others lead its partitions where they can", b.ID), nil)
		default:
			h.BrokersUp++
			up[b.DirectoryID] = true
		}
	}
	// A voter that is no registered broker any more votes no more either.
	if n := countOf(voters, up); len(voters) > 1 && n <= len(voters)/2+1 && n < len(voters) {
		add(adminapi.HealthDegraded, fmt.Sprintf("%d of %d metadata voters are up: the loss of one more stops changes", n, len(voters)), nil)
	}
	if n := len(voters); n > 0 && n < 3 && h.Brokers >= 3 {
		add(adminapi.HealthDegraded, count(n, "broker votes", "brokers vote")+" on the metadata, wanted are 3: a vote is given to another as soon as it has caught up", nil)
	}
	if n := len(underReplicated); n > 0 {
		add(adminapi.HealthDegraded, count(n, "partition lacks", "partitions lack")+" replicas in sync", underReplicated)
	}
	weigh(&h)
	return h
}

// weigh puts the worst reasons first, and makes the state that of the first.
func weigh(h *adminapi.ClusterHealth) {
	slices.SortStableFunc(h.Reasons, func(a, b adminapi.HealthReason) int { return severity(b.State) - severity(a.State) })
	h.State = adminapi.HealthOK
	if len(h.Reasons) > 0 {
		h.State = h.Reasons[0].State
	}
}

// ownHealth is what only the broker itself knows of itself.
type ownHealth struct {
	id       int32
	diskFull bool
	// offline are the partitions whose logs here did not open.
	offline []string
	// storeErr is what the object store said last, nil while it answers; silent is for
	// how long it does not.
	storeErr error
	silent   time.Duration
}

// addOwn adds what is wrong with the answering broker.
func addOwn(h *adminapi.ClusterHealth, own ownHealth) {
	if own.diskFull {
		h.Reasons = append(h.Reasons, adminapi.HealthReason{State: adminapi.HealthCritical,
			What: fmt.Sprintf("the disk of broker %d is full: writes to it are refused until there is room", own.id)})
	}
	if n := len(own.offline); n > 0 {
		h.Reasons = append(h.Reasons, adminapi.HealthReason{State: adminapi.HealthCritical, Partitions: own.offline[:min(n, maxNamed)],
			What: fmt.Sprintf("%s on broker %d failed or did not open: its /readyz says why", count(n, "log", "logs"), own.id)})
	}
	if own.storeErr != nil {
		h.Reasons = append(h.Reasons, adminapi.HealthReason{State: adminapi.HealthDegraded,
			What: fmt.Sprintf("the object store does not answer broker %d for %s: %v", own.id, own.silent.Round(time.Second), own.storeErr)})
	}
	weigh(h)
}

// ownHealth looks at this broker.
func (b *Broker) ownHealth() ownHealth {
	own := ownHealth{id: b.cfg.ID}
	img := b.meta.Image()
	if self := img.Broker(b.cfg.ID); self == nil || !self.Full { // else the cluster says so
		_, own.diskFull = b.parts.Space()
	}
	for tp := range b.parts.Failed() {
		own.offline = append(own.offline, partitionName(img.Topic(tp.Topic), tp))
	}
	slices.Sort(own.offline)
	if b.tier != nil {
		if since, last, down := b.tier.health.outage(); down {
			own.storeErr, own.silent = last, time.Since(since)
		}
	}
	return own
}

// addClocks adds the brokers whose clocks are so far off that they delete nothing by
// time. ahead is how far they are ahead of the cluster's time.
func addClocks(h *adminapi.ClusterHealth, ahead map[int32]time.Duration) {
	for _, id := range slices.Sorted(maps.Keys(ahead)) {
		off, side := ahead[id], "ahead of"
		if off.Abs() <= membership.MaxClockSkew {
			continue
		}
		if off < 0 {
			side = "behind"
		}
		h.Reasons = append(h.Reasons, adminapi.HealthReason{State: adminapi.HealthDegraded, What: fmt.Sprintf(
			"the clock of broker %d is %s %s the cluster's: it deletes nothing by time until its clock is set", id, off.Abs().Round(time.Second), side)})
	}
	weigh(h)
}

func severity(state string) int {
	if state == adminapi.HealthCritical {
		return 1
	}
	return 0
}

func countOf(ids []uuid.UUID, in map[uuid.UUID]bool) int {
	n := 0
	for _, id := range ids {
		if in[id] {
			n++
		}
	}
	return n
}

// count is a number with the word that fits it.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func partitionName(t *metadata.Topic, tp record.TopicPartition) string {
	if t == nil {
		return tp.String()
	}
	return t.Name + "-" + strconv.Itoa(int(tp.Partition))
}

// clusterBrokers lists the brokers of an image.
func clusterBrokers(img *metadata.Image, voters []uuid.UUID) adminapi.ClusterBrokers {
	out := adminapi.ClusterBrokers{ClusterID: img.ClusterID(), Controller: img.ControllerID(), Brokers: []adminapi.ClusterBroker{}}
	at := map[int32]int{}
	for b := range img.Brokers() {
		state := adminapi.BrokerUp
		switch {
		case b.Fenced:
			state = adminapi.BrokerFenced
		case b.ShuttingDown:
			state = adminapi.BrokerShuttingDown
		case b.Full:
			state = adminapi.BrokerFull
		}
		line := adminapi.ClusterBroker{ID: b.ID, State: state, Rack: b.Rack, Version: b.Version, Directory: b.DirectoryID.String(),
			Epoch: b.Epoch, Voter: slices.Contains(voters, b.DirectoryID), RegisteredAt: b.RegisteredAt, Endpoints: []string{}}
		for _, e := range b.Endpoints {
			line.Endpoints = append(line.Endpoints, e.Listener+"://"+net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))))
		}
		at[b.ID] = len(out.Brokers)
		out.Brokers = append(out.Brokers, line)
	}
	for _, p := range img.AllPartitions() {
		for _, id := range p.Replicas {
			i, ok := at[id]
			if !ok {
				continue // unregistered, its replica not moved yet
			}
			b := &out.Brokers[i]
			b.Replicas++
			if p.Leader == id {
				b.Leaders++
			}
			if !p.InSync(id) {
				b.OutOfSync++
			}
		}
	}
	return out
}

func (b *Broker) serveHealth(w http.ResponseWriter, _ *http.Request) {
	h := clusterHealth(b.meta.Image(), b.voters())
	addClocks(&h, b.cluster.beats.ClocksAhead())
	addOwn(&h, b.ownHealth())
	writeJSON(w, http.StatusOK, h)
}

func (b *Broker) serveBrokers(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, clusterBrokers(b.meta.Image(), b.voters()))
}

// movePlan works a drain or a rebalance out from the metadata.
func movePlan(img *metadata.Image, kind string, broker int32) (adminapi.MovePlan, error) {
	plan := adminapi.MovePlan{Kind: kind, Moves: []adminapi.Move{}}
	var moves []command.Reassignment
	switch kind {
	case adminapi.PlanDrain:
		if img.Broker(broker) == nil {
			return plan, fmt.Errorf("broker %d is not registered", broker)
		}
		var err error
		if moves, err = controller.PlanDrain(img, broker); err != nil {
			return plan, err
		}
	case adminapi.PlanRebalance:
		moves = controller.PlanRebalance(img, nil)
	default:
		return plan, fmt.Errorf("plan %q is not known: want %s or %s", kind, adminapi.PlanDrain, adminapi.PlanRebalance)
	}
	for _, m := range moves {
		plan.Moves = append(plan.Moves, adminapi.Move{Topic: img.Topic(m.Partition.Topic).Name, Partition: m.Partition.Partition,
			From: img.Partition(m.Partition).Replicas, To: m.Replicas})
	}
	return plan, nil
}

func (b *Broker) servePlan(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	broker, err := strconv.ParseInt(cmp.Or(q.Get("broker"), "-1"), 10, 32)
	if err != nil {
		writeError(w, http.StatusBadRequest, fmt.Errorf("broker=%s: want a broker id", q.Get("broker")))
		return
	}
	plan, err := movePlan(b.meta.Image(), q.Get("kind"), int32(broker))
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	writeJSON(w, http.StatusOK, plan)
}
