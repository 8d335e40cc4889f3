package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/integration/probe/load"
)

const (
	// linkRate is the rate of the link from the store, in bytes a second: well
	// below what one core reads, so that the link is what is measured.
	linkRate = 40_000_000
	// hotRate is the hot produce's, in bytes a second.
	hotRate = 8_000_000
)

// link is a network namespace with one veth pair, slowed down in the direction
// out of it.
type link struct {
	namespace string
	host      string // device outside
	inside    string // address of the store, HOST:PORT
}

// makeLink needs root, ip and tc.
func makeLink(ctx context.Context) (*link, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: a network namespace needs root", errCannot)
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%w: there is no program %s (package iproute2)", errCannot, tool)
		}
	}
	id := os.Getpid()
	name := "fb" + strconv.Itoa(id)
	net := fmt.Sprintf("10.213.%d", id%250)
	l := &link{namespace: "firn-bench-" + strconv.Itoa(id), host: name + "a", inside: net + ".2:9000"}
	for _, line := range []string{
		"ip netns add " + l.namespace,
		"ip link add " + l.host + " type veth peer name " + name + "b netns " + l.namespace,
		"ip addr add " + net + ".1/30 dev " + l.host,
		"ip link set " + l.host + " up",
		"ip -n " + l.namespace + " addr add " + net + ".2/30 dev " + name + "b",
		"ip -n " + l.namespace + " link set " + name + "b up",
		"ip -n " + l.namespace + " link set lo up",
		fmt.Sprintf("tc -n %s qdisc add dev %sb root tbf rate %dbit burst 256kb latency 50ms", l.namespace, name, 8*linkRate),
	} {
		words := strings.Fields(line)
		out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s: %w: %s", errCannot, line, err, out)
			return nil, errors.Join(err, l.remove())
		}
	}
	return l, nil
}

// remove takes the namespace away, and the pair with it.
func (l *link) remove() error {
	// Also after the bench was interrupted.
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", "netns", "del", l.namespace).CombinedOutput()
	if err != nil {
		return fmt.Errorf("bench: remove namespace %s: %w: %s", l.namespace, err, out)
	}
	return nil
}

// slowLink is the fifth row.
func slowLink(ctx context.Context, e *Env) (figures []Figure, err error) {
	size := e.bytes(0.5e9)
	if err := e.room(4 * size); err != nil {
		return nil, err
	}
	l, err := makeLink(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.remove()) }()
	store, err := e.startMinIO(ctx, l.inside, "ip", "netns", "exec", l.namespace)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.kill()) }()
	t, err := e.startTiered(ctx, store, size, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.kill()) }()
	if err := t.createTopic(ctx, hotTopic, coldPartitions, pageCache); err != nil {
		return nil, err
	}

	note := fmt.Sprintf("tbf of %d MB/s, of which Ethernet, IP and TCP headers take 4 %%", linkRate/1_000_000)
	share := Figure{What: "catch-up read over the link", Unit: "of the link", Note: note, Target: &Target{Least: true, Bound: 0.9}, RawWhat: "raw GETs"}
	p99 := Figure{What: "p99 of hot produce meanwhile", Unit: "ms", RawWhat: "without", Target: &Target{OfRatio: true, Bound: 1.2},
		Note: fmt.Sprintf("at %d MB/s, page cache", hotRate/1_000_000)}
	bare99 := Figure{What: "p99 of the bare server beside the raw GETs, for comparison", Unit: "ms", RawWhat: "without"}
	raw, err := e.startRaw(ctx, "serve-produce", "--dir", e.path("raw-data"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, raw.kill()) }()
	span := max(time.Second, time.Duration(float64(t.bytes)/linkRate*float64(time.Second)))
	err = e.pairs(ctx, &share, func(ctx context.Context) (float64, error) {
		if err := t.forget(ctx); err != nil {
			return 0, err
		}
		var read probe.Report
		err := besideHot(ctx, t.addr, span, &p99, func(ctx context.Context) (err error) {
			// In a process of its own, as the raw GETs: what it takes in must
			// not delay the clock of the hot load.
			read, err = e.probe(ctx, nil, "fetch", "--addr", t.addr, "--topic", coldTopic, "--partitions", fmt.Sprint(coldPartitions),
				"--connections", fmt.Sprint(coldConns))
			return err
		})
		return read.MBPerSecond * 1e6 / linkRate, err
	}, func(ctx context.Context) (float64, error) {
		var got probe.Report
		err := besideHot(ctx, raw.addr, span, &bare99, func(ctx context.Context) (err error) {
			got, err = t.rawGet(ctx)
			return err
		})
		return got.MBPerSecond * 1e6 / linkRate, err
	})
	return []Figure{share, p99, bare99}, err
}

// besideHot times hot produce alone, then beside work that lasts about span,
// and adds the p99 of both to the figure.
func besideHot(ctx context.Context, addr string, span time.Duration, p99 *Figure, work func(context.Context) error) error {
	hot := func(d time.Duration) (load.ProduceResult, error) {
		return load.Produce(ctx, load.ProduceOptions{Addr: addr, Topic: hotTopic, Partitions: coldPartitions, Acks: -1, Connections: 4, Depth: 256,
			Rate: hotRate, Duration: d})
	}
	if _, err := hot(span / 4); err != nil { // warms up
		return err
	}
	alone, err := hot(span)
	if err != nil {
		return err
	}
	type outcome struct {
		res load.ProduceResult
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		res, err := hot(span)
		done <- outcome{res, err}
	}()
	err = work(ctx)
	beside := <-done
	if err := errors.Join(err, beside.err); err != nil {
		return err
	}
	p99.Values, p99.Raw = append(p99.Values, beside.res.Latency.P99), append(p99.Raw, alone.Latency.P99)
	return nil
}
