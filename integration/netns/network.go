package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// Network is a router and its nodes.
type Network struct {
	hub space

	mu    sync.Mutex
	nodes []*Node
	cuts  map[direction]bool
	// weather has the directions that lead through sky, which is nil while there were
	// none.
	weather map[direction]bool
	sky     *sky
}

// Node is a namespace with one address.
type Node struct {
	Name string
	Addr netip.Addr

	network *Network
	space   space
	device  string // the router's end of its link
}

// direction is a way that packets take.
type direction struct{ from, to *Node }

// rule is the router's routing rule that drops them.
func (d direction) rule() string {
	return fmt.Sprintf("from %s/32 to %s/32 blackhole", d.from.Addr, d.to.Addr)
}

// New makes a network with nodes of the given names.
func New(names ...string) (*Network, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: network namespaces need root", ErrCannot)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, fmt.Errorf("%w: there is no program ip (package iproute2)", ErrCannot)
	}
	hub, err := newSpace()
	if err != nil {
		return nil, err
	}
	n := &Network{hub: hub, cuts: make(map[direction]bool), weather: make(map[direction]bool)}
	if err := n.begin(names); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Network) begin(names []string) error {
	err := n.hub.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600) })
	if err != nil {
		return fmt.Errorf("%w: forward packets: %w", ErrCannot, err)
	}
	if err := n.hub.run(nil, "ip link set lo up"); err != nil {
		return err
	}
	for _, name := range names {
		if _, err := n.Add(name); err != nil {
			return err
		}
	}
	return nil
}

// maxNodes is what the third byte of the addresses counts.
const maxNodes = 250

// Add makes another node.
func (n *Network) Add(name string) (*Node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.nodes) == maxNodes {
		return nil, fmt.Errorf("netns: %d nodes are the most", maxNodes)
	}
	number := len(n.nodes) + 1
	x := &Node{Name: name, Addr: netip.AddrFrom4([4]byte{10, 77, byte(number), 1}), network: n, device: fmt.Sprintf("n%d", number)}
	var err error
	if x.space, err = newSpace(); err != nil {
		return nil, err
	}
	gateway := fmt.Sprintf("10.77.%d.254", number)
	// ip finds the node's namespace as its descriptor 3.
	err = errors.Join(
		n.hub.run([]*os.File{x.space.file},
			"ip link add "+x.device+" type veth peer name eth0 netns /proc/self/fd/3",
			"ip addr add "+gateway+"/24 dev "+x.device,
			"ip link set "+x.device+" up"),
		x.space.run(nil,
			"ip link set lo up",
			"ip addr add "+x.Addr.String()+"/24 dev eth0",
			"ip link set eth0 up",
			"ip route add default via "+gateway))
	if err != nil {
		x.space.file.Close()
		return nil, err
	}
	n.nodes = append(n.nodes, x)
	return x, nil
}

// Node finds a node by name; nil if there is none.
func (n *Network) Node(name string) *Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.nodes, func(x *Node) bool { return x.Name == name })
	if i < 0 {
		return nil
	}
	return n.nodes[i]
}

// Close gives the namespaces back. They last until the last process in them ends
// and the last connection from them is closed.
func (n *Network) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sky != nil {
		_ = n.sky.close() // the device goes with it
		n.sky = nil
	}
	for _, x := range n.nodes {
		x.space.file.Close()
	}
	n.hub.file.Close()
}

// CutOneWay drops packets from one node to another, until Heal or HealAll.
func (n *Network) CutOneWay(from, to *Node) error { return n.set(direction{from, to}, true) }

// Cut drops packets between two nodes in both directions.
func (n *Network) Cut(a, b *Node) error {
	return errors.Join(n.CutOneWay(a, b), n.CutOneWay(b, a))
}

// Isolate cuts a node off from all others but those named.
func (n *Network) Isolate(x *Node, but ...*Node) error {
	var errs []error
	for _, other := range n.others(x) {
		if !slices.Contains(but, other) {
			errs = append(errs, n.Cut(x, other))
		}
	}
	return errors.Join(errs...)
}

func (n *Network) others(x *Node) []*Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(n.nodes), func(o *Node) bool { return o == x })
}

// Heal undoes the cuts between two nodes.
func (n *Network) Heal(a, b *Node) error {
	return errors.Join(n.set(direction{a, b}, false), n.set(direction{b, a}, false))
}

// HealAll undoes all cuts.
func (n *Network) HealAll() error {
	n.mu.Lock()
	var all []direction
	for d := range n.cuts {
		all = append(all, d)
	}
	n.mu.Unlock()
	var errs []error
	for _, d := range all {
		errs = append(errs, n.set(d, false))
	}
	return errors.Join(errs...)
}

// set makes a direction cut or whole.
func (n *Network) set(d direction, cut bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cuts[d] == cut {
		return nil
	}
	verb := "add"
	if !cut {
		verb = "del"
	}
	if err := n.hub.run(nil, "ip rule "+verb+" "+d.rule()); err != nil {
		return err
	}
	if cut {
		n.cuts[d] = true
	} else {
		delete(n.cuts, d)
	}
	return nil
}

// Flap cuts two nodes off from each other and heals them, again and again. stop
// ends it, with the link healed.
func (n *Network) Flap(a, b *Node, down, up time.Duration) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		for {
			err := n.Cut(a, b)
			if err == nil {
				pause(ctx, down)
				err = n.Heal(a, b)
			}
			if err != nil || ctx.Err() != nil {
				done <- err
				return
			}
			pause(ctx, up)
		}
	}()
	return func() error { cancel(); return <-done }
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Rate bounds what leaves and reaches a node, each in bytes a second; 0 lifts the
// bound.
func (n *Network) Rate(x *Node, bytesPerSecond int64) error {
	if _, err := exec.LookPath("tc"); err != nil {
		return fmt.Errorf("%w: there is no program tc (package iproute2)", ErrCannot)
	}
	for _, end := range []struct {
		space
		device string
	}{{n.hub, x.device}, {x.space, "eth0"}} {
		command := "tc qdisc del dev " + end.device + " root"
		if bytesPerSecond > 0 {
			// The burst is a few frames, or what passes in 10 ms; the queue a second.
			burst := max(16<<10, bytesPerSecond/100)
			command = fmt.Sprintf("tc qdisc replace dev %s root tbf rate %dbit burst %db latency 1s", end.device, 8*bytesPerSecond, burst)
		}
		if err := end.run(nil, command); err != nil {
			return err
		}
	}
	return nil
}

// Dial connects from the node, to an address and not a name.
func (x *Node) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return nil, fmt.Errorf("netns: dial %s: namespaces know no names: %w", addr, err)
	}
	err = x.space.do(func() (err error) {
		c, err = (&net.Dialer{}).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Listen listens on a port of the node; 0 takes a free one.
func (x *Node) Listen(port uint16) (l net.Listener, err error) {
	err = x.space.do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", netip.AddrPortFrom(x.Addr, port).String())
		return err
	})
	return l, err
}

// ListenPacket receives datagrams at a free port of the node, and sends from it.
func (x *Node) ListenPacket() (c net.PacketConn, err error) {
	err = x.space.do(func() (err error) {
		c, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(x.Addr, 0).String())
		return err
	})
	return c, err
}

// Start starts a process inside.
func (x *Node) Start(cmd *exec.Cmd) error { return x.space.do(cmd.Start) }
