package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/firnlog/firn/broker/api"
	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/controller"
	"github.com/firnlog/firn/metadata/link"
	"github.com/firnlog/firn/metadata/membership"
	"github.com/firnlog/firn/metadata/raftnode"
	"github.com/firnlog/firn/record"
)

// cluster is this node's part in the cluster: the port between brokers, gossip, the
// metadata node, the lease at the controller, and what this node does while it leads
// the metadata. A node that is alone has all of it but the port and gossip.
type cluster struct {
	link    *link.Link
	tls     *config.ClusterTLSWatch // nil without TLS
	members *membership.Membership  // nil where the node is alone
	control *controller.Controller
	beats   *controller.Heartbeater

	// built is closed when control can run, swept when the sweeper can.
	built, swept chan struct{}
	// open is closed when the logs are open: the node wants to take part.
	open chan struct{}
}

// closed reports whether a channel was closed.
func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// startLink opens the port between brokers; peers are answered from here on.
func (b *Broker) startLink() error {
	watch, err := b.cfg.WatchClusterTLS(b.log)
	if err != nil {
		return err
	}
	b.cluster = &cluster{tls: watch, built: make(chan struct{}), swept: make(chan struct{}), open: make(chan struct{})}
	opts := link.Options{
		Listen: b.cfg.ClusterListen, Advertise: b.cfg.ClusterAdvertised, Logger: b.log,
		Self: func() link.Peer {
			return link.Peer{NodeID: b.cfg.ID, DirectoryID: b.dir.DirectoryID(), ClusterID: b.dir.ClusterID(), Version: Version}
		},
		Accept: b.acceptPeer,
		OnGone: func(p link.Peer) {
			if closed(b.cluster.built) {
				b.meta.PeerGone(p.DirectoryID)
				b.cluster.control.Suspect(p.DirectoryID, true)
			}
		},
	}
	if watch != nil {
		opts.TLS, opts.NewTLS = watch.Config(), watch.Config
	}
	if b.cluster.link, err = link.Open(opts); err != nil {
		return fmt.Errorf("cluster.listen: %w%s", err, bindAdvice(err))
	}
	b.undo = append(b.undo, func() {
		if err := b.cluster.link.Close(); err != nil {
			b.log.Warn("close the port between brokers", "err", err)
		}
	})
	return nil
}

// servePeers lets other brokers fetch. Until then their streams are refused, and they
// try again.
func (b *Broker) servePeers() {
	b.cluster.link.HandleStream(link.KindKafka, func(conn net.Conn, p link.Peer) {
		if err := b.wire.ServeConn(conn, p.NodeID); err != nil && !errors.Is(err, wire.ErrClosed) {
			b.log.Warn("connection of a broker", "peer", p.String(), "err", err)
		}
	})
}

// acceptPeer refuses streams with brokers of another cluster, and with a second node
// of our own id.
func (b *Broker) acceptPeer(p link.Peer) error {
	own := b.dir.ClusterID()
	switch {
	case own != "" && p.ClusterID != "" && p.ClusterID != own:
		return fmt.Errorf("node %d belongs to cluster %s, node %d to %s: correct cluster.join or data.dir", b.cfg.ID, own, p.NodeID, p.ClusterID)
	case p.NodeID == b.cfg.ID && p.DirectoryID != b.dir.DirectoryID():
		return fmt.Errorf("node.id %d is used by two data directories, %s and %s", p.NodeID, b.dir.DirectoryID(), p.DirectoryID)
	}
	return nil
}

// clusterFile is where this node remembers what belongs to its part in the cluster
// (docs/format/cluster-files.md).
func (b *Broker) clusterFile(name string) string {
	return filepath.Join(b.cfg.DataDir, "cluster", name+".json")
}

// form finds the others, and agrees with them on how this node goes on: with the
// metadata that it has, as one of the first voters of a new cluster, or as one who
// joins. Nothing is written to disk before the others have agreed.
func (b *Broker) form(ctx context.Context, metadataDir string) (membership.Outcome, error) {
	hasState, err := raftnode.HasState(vfs.Default, metadataDir)
	if err != nil {
		return membership.Outcome{}, fmt.Errorf("metadata: %w", err)
	}
	c := b.cluster
	if !b.cfg.Clustered() {
		if err := b.dir.Begin(); err != nil {
			return membership.Outcome{}, fmt.Errorf("data directory: %w", err)
		}
		c.link.Serve()
		if hasState {
			return membership.Outcome{Kind: membership.Resume}, nil
		}
		return membership.Outcome{Kind: membership.Bootstrap, Servers: []membership.Server{{DirectoryID: b.dir.DirectoryID(), Address: c.link.Addr()}}}, nil
	}
	wanted := b.cfg.ClusterID
	if known := b.dir.ClusterID(); known != "" {
		wanted = known
	}
	c.members, err = membership.Open(membership.Options{
		DirectoryID: b.dir.DirectoryID(), Listen: b.cfg.GossipListen, Advertise: b.cfg.GossipAdvertised, Key: b.cfg.GossipKey(),
		Join: b.cfg.Join, PeersFile: b.clusterFile("peers"), Logger: b.log,
		Tags: membership.Tags{NodeID: b.cfg.ID, ClusterAddr: c.link.Addr(), ClusterID: b.dir.ClusterID(), WantedCluster: wanted,
			Rack: b.cfg.Rack, Version: Version, Expect: b.cfg.BootstrapExpect},
	})
	if err != nil {
		return membership.Outcome{}, fmt.Errorf("gossip.listen: %w%s", err, bindAdvice(err))
	}
	b.undo = append(b.undo, func() {
		if err := c.members.Close(); err != nil {
			b.log.Warn("close gossip", "err", err)
		}
	})
	former, err := membership.NewFormer(membership.FormerOptions{
		Membership: c.members, Calls: c.link, Ledger: b.clusterFile("formation"), Expect: b.cfg.BootstrapExpect,
		HasState: hasState, Begin: b.dir.Begin, Logger: b.log, Waiting: func(what string) { b.at("starting: waits for " + what) },
		Applicant: membership.Applicant{ClusterID: wanted, Version: Version, Features: api.SupportedFeatures(), Store: b.cfg.StoreIdentity()},
	})
	if err != nil {
		return membership.Outcome{}, fmt.Errorf("form a cluster: %w", err)
	}
	b.undo = append(b.undo, former.Close)
	c.link.HandleCall(membership.CallForm, func(ctx context.Context, _ link.Peer, body []byte) ([]byte, error) {
		return former.Handle(ctx, body)
	})
	c.link.Serve()
	outcome, err := former.Wait(ctx)
	if err != nil {
		return outcome, fmt.Errorf("this node cannot be part of the cluster: %w", err)
	}
	return outcome, nil
}

// clusterWide are the settings that the metadata itself goes by, which must be the
// same for all nodes: a new cluster takes them from the file of the node that first
// leads it, and keeps them as defaults of all brokers.
var clusterWide = []string{"min.insync.replicas", "unclean.leader.election.enable", "log.durability"}

// startMetadata opens the metadata node as the formation found, and waits until it
// knows what the cluster has committed.
func (b *Broker) startMetadata(ctx context.Context) error {
	metadataDir := filepath.Join(b.cfg.DataDir, "metadata")
	if err := b.checkOrigin(metadataDir); err != nil {
		return err
	}
	outcome, err := b.form(ctx, metadataDir)
	if err != nil {
		return err
	}
	clusterID := b.cfg.ClusterID
	if clusterID == "" {
		clusterID = b.dir.ClusterID()
	}
	if clusterID == "" {
		clusterID = record.NewTopicID().String() // 22 characters of base64url, as Kafka's
	}
	opts := raftnode.Options{
		Dir: metadataDir, DirectoryID: b.dir.DirectoryID(), Features: api.Features(), Link: b.cluster.link,
		Addresses: b.addressOf, OnLead: b.lead, Logger: b.log,
		OnFatal: func(err error) { b.fail(fmt.Errorf("metadata: %w", err)) },
	}
	if outcome.Kind != membership.Join {
		opts.ClusterID = clusterID // for a cluster that has no name yet
	}
	for _, name := range clusterWide {
		if value, ok := b.cfg.Static[name]; ok {
			if opts.Configs == nil {
				opts.Configs = map[string]string{}
			}
			opts.Configs[name] = value
		}
	}
	for _, s := range outcome.Servers {
		opts.Bootstrap = append(opts.Bootstrap, raftnode.Server{DirectoryID: s.DirectoryID, Address: s.Address, Voter: true})
	}
	if b.meta, err = raftnode.Open(opts); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	b.startControl()
	if err := b.awaitMetadata(ctx); err != nil {
		return err
	}
	have := b.meta.Image().ClusterID()
	if b.cfg.ClusterID != "" && b.cfg.ClusterID != have {
		return fmt.Errorf("cluster.id is %s, but %s belongs to cluster %s: correct cluster.id or data.dir", b.cfg.ClusterID, b.cfg.DataDir, have)
	}
	if err := membership.CheckNodeID(b.meta.Image(), b.cfg.ID, b.dir.DirectoryID()); err != nil {
		return err
	}
	if err := membership.NoteStore(ctx, b.meta, b.cfg.StoreIdentity()); err != nil {
		return err
	}
	if err := b.dir.SetClusterID(have); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if m := b.cluster.members; m != nil {
		if err := m.SetTags(func(t *membership.Tags) { t.State, t.ClusterID = membership.Formed, have }); err != nil {
			return fmt.Errorf("gossip: %w", err)
		}
		m.Remember()
	}
	return b.register(ctx)
}

// awaitMetadata waits until this node has what the cluster has committed, and says
// now and then what it waits for.
func (b *Broker) awaitMetadata(ctx context.Context) error {
	b.at("starting: waits for the cluster's metadata: a majority of its voters must be up")
	for {
		patience, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := b.meta.Ready(patience)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("metadata: %w", err)
		}
		b.log.Warn("still waiting for the cluster's metadata: a majority of its voters must be up")
	}
}

// addressOf is where gossip says that a server's cluster port is.
func (b *Broker) addressOf(dir uuid.UUID) (string, bool) {
	if b.cluster.members == nil {
		return "", false
	}
	m, ok := b.cluster.members.Member(dir)
	return m.ClusterAddr, ok && m.ClusterAddr != ""
}

// startControl makes the controller, which works while this node leads the
// metadata.
func (b *Broker) startControl() {
	c := b.cluster
	leader := b.meta.AsLeader()
	c.control = controller.New(controller.Options{
		Meta: leader, Verify: leader.Verify, Reign: leader.Reign, Calls: c.link, Logger: b.log,
		Leases: controller.LeaseOptions{Session: b.cfg.BrokerLease},
		Upkeep: controller.UpkeepOptions{Balance: b.cfg.AutoLeaderRebalance, BalanceEvery: time.Duration(b.cfg.RebalanceSeconds) * time.Second,
			BalancePercent: -1, InternalFactor: int(b.cfg.OffsetsReplicationFactor)},
	})
	admission := membership.NewAdmission(membership.AdmissionOptions{Image: b.meta.Image})
	c.link.HandleCall(membership.CallJoin, func(ctx context.Context, _ link.Peer, body []byte) ([]byte, error) {
		return admission.Handle(ctx, body)
	})
	if c.members != nil {
		b.undo = append(b.undo, c.members.Subscribe(func(e membership.Event) {
			if e.Kind == membership.MemberFailed || e.Kind == membership.MemberLeft {
				c.control.Suspect(e.Member.DirectoryID, false)
			}
		}))
	}
	close(c.built)
}

// lead is what this node does while it leads the metadata.
func (b *Broker) lead(ctx context.Context) {
	c := b.cluster
	select {
	case <-c.built:
	case <-ctx.Done():
		return
	}
	b.log.Info("this node leads the metadata")
	var tasks sync.WaitGroup
	tasks.Go(func() { c.control.Run(ctx) })
	tasks.Go(func() { b.keepServers(ctx) })
	tasks.Go(func() { b.seekTheDead(ctx) })
	tasks.Go(func() {
		// Deletions need one who decides, and a grace period that one clock counts.
		select {
		case <-c.swept:
			b.tier.sweeper.Run(ctx)
		case <-ctx.Done():
		}
	})
	tasks.Wait()
	b.log.Info("this node leads the metadata no more")
}

// seekTheDead knocks at the ports of all brokers once, when this node begins to lead:
// one that died with the leader before may have left no connection here whose end
// would tell.
func (b *Broker) seekTheDead(ctx context.Context) {
	var knocks sync.WaitGroup
	for other := range b.meta.Image().Brokers() {
		if other.ID == b.cfg.ID || other.Fenced || other.ClusterAddress == "" {
			continue
		}
		knocks.Go(func() {
			knocking, cancel := context.WithTimeout(ctx, b.cfg.BrokerLease)
			defer cancel()
			var d net.Dialer
			conn, err := d.DialContext(knocking, "tcp", other.ClusterAddress)
			switch {
			case err == nil:
				_ = conn.Close() // it lives, which is all there was to learn
			case errors.Is(err, syscall.ECONNREFUSED):
				b.cluster.control.Suspect(other.DirectoryID, true)
			}
		})
	}
	knocks.Wait()
}

// register announces this process: its addresses, and a broker epoch that makes
// every earlier life of it stale. From here on it sends heartbeats.
func (b *Broker) register(ctx context.Context) error {
	c := b.cluster
	reg := command.RegisterBroker{BrokerID: b.cfg.ID, DirectoryID: b.dir.DirectoryID(), Incarnation: uuid.New(),
		Rack: b.cfg.Rack, Version: Version, Features: api.SupportedFeatures(),
		Untrusted:           !b.dir.IsNew() && (b.dir.Untrusted() || !b.dir.SameBoot() && !b.dir.Clean()),
		ReplicatedByDefault: b.cfg.Static["log.durability"] == "replicated"}
	if b.cfg.Clustered() {
		reg.ClusterAddress = c.link.Addr()
	}
	for _, l := range b.cfg.Listeners {
		port := l.AdvertisedPort
		if tcp, ok := b.wire.Addr(l.Name).(*net.TCPAddr); ok && port == 0 {
			port = int32(tcp.Port)
		}
		reg.Endpoints = append(reg.Endpoints, metadata.Endpoint{Listener: l.Name, Host: l.AdvertisedHost, Port: port, Security: l.Security})
	}
	c.beats = controller.NewHeartbeater(controller.HeartbeaterOptions{
		Registration: reg, Meta: b.meta, Calls: c.link, Interval: b.cfg.BrokerHeartbeat, Session: b.cfg.BrokerLease, Logger: b.log,
		Leader: func() (string, bool) {
			dir, ok := b.meta.Leader()
			if !ok {
				return "", false
			}
			if dir == b.dir.DirectoryID() {
				return c.link.Addr(), true
			}
			return b.serverAddr(dir)
		},
		Ready:    func() bool { return closed(c.open) },
		Contact:  b.meta.Contact,
		DiskFull: func() bool { return closed(c.open) && b.parts.Full() },
	})
	b.at("starting: registers with the broker that leads the metadata")
	if _, err := c.beats.Register(ctx); err != nil {
		return fmt.Errorf("register as broker %d: %w", b.cfg.ID, err)
	}
	beating, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.beats.Run(beating) })
	b.undo = append(b.undo, func() { cancel(); wg.Wait() })
	b.watchClock()
	return nil
}

// serverAddr is where a server's cluster port is, by gossip or else by Raft's own
// list.
func (b *Broker) serverAddr(dir uuid.UUID) (string, bool) {
	if addr, ok := b.addressOf(dir); ok {
		return addr, true
	}
	servers, _ := b.meta.Servers()
	for _, s := range servers {
		if s.DirectoryID == dir {
			return s.Address, true
		}
	}
	return "", false
}

// takePart says that the logs are open, and waits until this broker is active.
func (b *Broker) takePart(ctx context.Context) error {
	b.at("starting: waits until the broker that leads the metadata lets it serve")
	close(b.cluster.open)
	b.cluster.beats.Poke()
	if err := b.cluster.beats.Active(ctx); err != nil {
		return err
	}
	// Leaderships that came with it are known to the logs before clients ask.
	if err := b.meta.Delivered(ctx, b.meta.Image().Index()); err != nil {
		return fmt.Errorf("open logs: %w", err)
	}
	return nil
}

// peerAddress is a broker's cluster port, as it registered it.
func (b *Broker) peerAddress(id int32) (string, error) {
	peer := b.meta.Image().Broker(id)
	if peer == nil {
		return "", fmt.Errorf("broker %d is not registered", id)
	}
	if addr, ok := b.addressOf(peer.DirectoryID); ok {
		return addr, nil
	}
	if peer.ClusterAddress == "" {
		return "", fmt.Errorf("broker %d has no port for brokers", id)
	}
	return peer.ClusterAddress, nil
}

// voters are the directories that vote on the metadata.
func (b *Broker) voters() []uuid.UUID {
	servers, _ := b.meta.Servers()
	var out []uuid.UUID
	for _, s := range servers {
		if s.Voter {
			out = append(out, s.DirectoryID)
		}
	}
	return out
}

// whileLed is ctx until nobody has led the metadata for the time of a lease: then
// nobody is left to hand anything to. stop ends it, and the goroutine that looks.
func (b *Broker) whileLed(ctx context.Context) (led context.Context, stop func()) {
	led, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(b.cfg.BrokerHeartbeat)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-led.Done():
				return
			case now := <-tick.C:
				if _, ok := b.meta.Leader(); ok {
					last = now
				} else if now.Sub(last) > b.cfg.BrokerLease {
					cancel()
				}
			}
		}
	})
	return led, func() { cancel(); looking.Wait() }
}

// succeeded reports whether there is anybody to hand over to: a full disk is no reason
// not to be read from.
func succeeded(img *metadata.Image, by int32) bool {
	for other := range img.Brokers() {
		if other.ID != by && other.Staying() {
			return true
		}
	}
	return false
}

// leave hands over what this node leads before it stops: its partitions, and the
// metadata. It is bounded by ctx; what could not be handed over is elected once the
// lease has ended.
func (b *Broker) leave(ctx context.Context) {
	if b.cfg.ControlledShutdown && succeeded(b.meta.Image(), b.cfg.ID) {
		handing, stop := b.whileLed(ctx)
		if err := b.cluster.beats.Shutdown(handing); err != nil {
			b.log.Warn("partitions were not all handed over", "err", err)
		}
		stop()
	}
	if dir, ok := b.meta.Leader(); ok && dir == b.dir.DirectoryID() && len(b.voters()) > 1 {
		if err := b.meta.TransferLeadership(ctx); err != nil {
			b.log.Warn("the metadata's leadership was not handed over", "err", err)
		}
	}
}

// keepServers keeps Raft's servers in step with the brokers that are there.
func (b *Broker) keepServers(ctx context.Context) {
	if b.cluster.members == nil {
		return
	}
	membership.KeepVoters(ctx, membership.KeeperOptions{Self: b.dir.DirectoryID(), Raft: b.meta, Members: b.cluster.members.Members,
		Image: b.meta.Image, Logger: b.log})
}
