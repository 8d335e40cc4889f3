package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxDevBrokers keeps the consecutive ports of one use from running into
	// those of the next.
	maxDevBrokers = 9
	// devRestartAfter is how long a broker that was killed stays away: long enough
	// to watch the others take over.
	devRestartAfter = 2 * time.Second
	// devStopTime is how long brokers may take to stop before they are killed: more
	// than they take by themselves (shutdown.timeout.ms).
	devStopTime = 45 * time.Second
	// The ports between the brokers are this far above the first Kafka port.
	clusterPortStep, gossipPortStep = 100, 200
	// clusterFile is where a devCluster says who runs.
	clusterFile = "cluster.json"
)

// devBroker is one process of a devCluster, as cluster.json shows it.
type devBroker struct {
	ID    int    `json:"id"`
	PID   int    `json:"pid"` // 0 while it is down
	Kafka string `json:"kafka"`
	Admin string `json:"admin"`
	Data  string `json:"data"`
	Log   string `json:"log"`
	// Where it listens for the other brokers.
	cluster, gossip string
}

// devClusterFile is the contents of cluster.json.
type devClusterFile struct {
	Bootstrap string      `json:"bootstrap"`
	Store     string      `json:"object_store"`
	Brokers   []devBroker `json:"brokers"`
}

// devCluster runs several broker processes on this machine and brings back those
// that die. It owns DIR/cluster.json, and one goroutine for each process; run
// waits for all of them.
type devCluster struct {
	dir     string
	program string
	args    func(i int) []string // of broker i's process
	store   string
	notes   io.Writer

	mu      sync.Mutex
	brokers []devBroker
}

// devClusterOptions are what the flags of `firn dev` say.
type devClusterOptions struct {
	brokers               int
	data, listen, admin   string
	objectStore, logLevel string
	set                   []string
}

// newDevCluster lays the cluster out: ports one after another from those given.
func newDevCluster(o devClusterOptions, notes io.Writer) (*devCluster, error) {
	if o.brokers > maxDevBrokers {
		return nil, fmt.Errorf("--brokers %d: at most %d run on one machine", o.brokers, maxDevBrokers)
	}
	host, kafka, err := firstPort("--listen", o.listen)
	if err != nil {
		return nil, err
	}
	adminHost, admin, err := firstPort("--admin", o.admin)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.data)
	if err != nil {
		return nil, fmt.Errorf("--data %s: %w", o.data, err)
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	c := &devCluster{dir: dir, program: program, notes: notes, store: o.objectStore}
	if c.store == "" {
		c.store = "fs://" + filepath.ToSlash(filepath.Join(dir, "objects"))
	}
	var peers []string
	for i := range o.brokers {
		id := i + 1
		peers = append(peers, net.JoinHostPort(host, strconv.Itoa(kafka+gossipPortStep+i)))
		c.brokers = append(c.brokers, devBroker{ID: id,
			Kafka: net.JoinHostPort(host, strconv.Itoa(kafka+i)), Admin: net.JoinHostPort(adminHost, strconv.Itoa(admin+i)),
			cluster: net.JoinHostPort(host, strconv.Itoa(kafka+clusterPortStep+i)), gossip: peers[i],
			Data: filepath.Join(dir, "broker-"+strconv.Itoa(id)), Log: filepath.Join(dir, "broker-"+strconv.Itoa(id)+".log")})
	}
	factor := strconv.Itoa(min(o.brokers, 3))
	c.args = func(i int) []string {
		b := c.brokers[i]
		args := []string{"dev", "--data", b.Data, "--listen", b.Kafka, "--admin", b.Admin, "--object-store", c.store}
		if o.logLevel != "" {
			args = append(args, "--log-level", o.logLevel)
		}
		settings := []string{
			"node.id=" + strconv.Itoa(b.ID), "bootstrap.expect=" + factor,
			"cluster.listen=" + b.cluster, "gossip.listen=" + b.gossip, "cluster.join=" + strings.Join(peers, ","),
			"default.replication.factor=" + factor, "offsets.topic.replication.factor=" + factor,
			"transaction.state.log.replication.factor=" + factor,
		}
		for _, s := range append(settings, o.set...) {
			args = append(args, "--set", s)
		}
		return args
	}
	return c, nil
}

// firstPort splits HOST:PORT where the next ports are used as well.
func firstPort(flag, address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%s %s: with --brokers write HOST:PORT, the first of consecutive ports: %w", flag, address, err)
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535-gossipPortStep-maxDevBrokers {
		return "", 0, fmt.Errorf("%s %s: with --brokers the port is the first of consecutive ones, from 1 to %d", flag, address, 65535-gossipPortStep-maxDevBrokers)
	}
	return host, port, nil
}

// run starts the brokers and keeps them until ctx ends, then stops them. A broker
// that ends with an error before it was ever ready ends the cluster: what keeps
// it from starting would keep it again.
func (c *devCluster) run(ctx context.Context) error {
	if err := c.portsAreFree(ctx); err != nil {
		return err
	}
	for i := range c.brokers {
		if err := os.MkdirAll(c.brokers[i].Data, 0o750); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range c.brokers {
		wg.Go(func() {
			if err := c.keep(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Go(func() { c.announce(ctx) })
	wg.Wait()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if e := os.Remove(filepath.Join(c.dir, clusterFile)); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// portsAreFree looks before anything starts: with another cluster on these ports
// its brokers would pass for ours, and its cluster.json be overwritten.
func (c *devCluster) portsAreFree(ctx context.Context) error {
	for _, b := range c.brokers {
		for _, address := range []string{b.Kafka, b.Admin, b.cluster, b.gossip} {
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
			if err == nil {
				err = l.Close()
			}
			if err != nil {
				return fmt.Errorf("broker %d: %w: stop what listens there, or choose other ports with --listen and --admin", b.ID, err)
			}
		}
	}
	return nil
}

// keep runs one broker's process again and again.
func (c *devCluster) keep(ctx context.Context, i int) error {
	runtime.LockOSThread() // for childAttributes
	defer runtime.UnlockOSThread()
	everReady := false
	for {
		ready, err := c.once(ctx, i)
		everReady = everReady || ready
		if ctx.Err() != nil {
			return nil
		}
		id := c.brokers[i].ID
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.ExitCode() < 0 // by a signal
		if !killed && !everReady {
			return fmt.Errorf("broker %d does not start (%w); its log %s ends with:\n%s", id, errOr(err, "it stopped"), c.brokers[i].Log, lastWords(c.brokers[i].Log))
		}
		fmt.Fprintf(c.notes, "broker %d is gone (%v); it comes back in %s\n", id, errOr(err, "stopped"), devRestartAfter)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(devRestartAfter):
		}
	}
}

// lastWordBytes is how far from a log's end a broker's last words may begin.
const lastWordBytes = 4 << 10

// lastWords are why a process ended, by its log: the error that began with "firn:",
// or else its last line.
func lastWords(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	tail := strings.TrimSpace(string(text[max(0, len(text)-lastWordBytes):]))
	if at := strings.LastIndex("\n"+tail, "\nfirn: "); at >= 0 {
		return tail[at:]
	}
	return tail[strings.LastIndex(tail, "\n")+1:]
}

func errOr(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}

// once runs one process until it ends. Its output goes to its log.
func (c *devCluster) once(ctx context.Context, i int) (ready bool, err error) {
	b := c.brokers[i] // only PID changes, which is not read here
	log, err := os.OpenFile(b.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return false, fmt.Errorf("log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	cmd := exec.CommandContext(ctx, c.program, c.args(i)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = devStopTime
	// The brokers stop when this process says so, not when the terminal does; and
	// they do not outlive it.
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return false, err
	}
	if err := c.setPID(i, cmd.Process.Pid); err != nil {
		return false, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	gone := make(chan struct{})
	probe := make(chan bool, 1)
	go func() { probe <- awaitReady(gone, b.Admin) }()
	err = cmd.Wait()
	close(gone)
	ready = <-probe
	return ready, errors.Join(err, c.setPID(i, 0))
}

// awaitReady asks the admin server until it is ready or the process is gone.
func awaitReady(gone <-chan struct{}, admin string) bool {
	client := http.Client{Timeout: time.Second}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+admin+"/readyz", nil)
	if err != nil {
		return false // an address that is none, which the broker itself reports
	}
	for {
		if resp, err := client.Do(request); err == nil {
			_ = resp.Body.Close() // only the status counts
			if resp.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-gone:
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// announce says when all brokers are ready for the first time.
func (c *devCluster) announce(ctx context.Context) {
	var addresses []string
	for _, b := range c.brokers {
		if !awaitReady(ctx.Done(), b.Admin) {
			return
		}
		addresses = append(addresses, b.Kafka)
	}
	fmt.Fprintf(c.notes, "%d brokers are ready: %s\n", len(addresses), strings.Join(addresses, ","))
	fmt.Fprintf(c.notes, "processes and addresses are in %s; a broker that is killed comes back after %s\n",
		filepath.Join(c.dir, clusterFile), devRestartAfter)
}

// setPID notes a broker's process, 0 for none, and writes cluster.json anew.
func (c *devCluster) setPID(i, pid int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.brokers[i].PID = pid
	f := devClusterFile{Store: c.store, Brokers: c.brokers}
	var addresses []string
	for _, b := range c.brokers {
		addresses = append(addresses, b.Kafka)
	}
	f.Bootstrap = strings.Join(addresses, ",")
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(c.dir, clusterFile), append(text, '\n'))
}

// replaceFile writes a file so that a reader sees the old or the new contents.
func replaceFile(path string, text []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, text, 0o640); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
