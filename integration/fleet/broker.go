package fleet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/firnlog/firn/integration/netns"
)

// Broker is a firn process, running or not. What is exported outlives it and may
// be changed while it does not run.
type Broker struct {
	ID                            int32
	Kafka, Admin, Cluster, Gossip string // HOST:PORT
	Join                          string // gossip addresses that it is told
	DataDir                       string
	LogFile                       string      // of all lives
	Node                          *netns.Node // nil on loopback
	Set                           []string    // settings over the fleet's, NAME=VALUE
	Env                           []string    // variables over the fleet's, NAME=VALUE
	Program                       string      // path of another firn than the fleet's; empty is that one
	Stranger                      bool        // is to be refused: clients are not told of it

	fleet *Fleet
	proc  *process // of the last life, nil before the first
	down  bool     // it was ended on purpose
}

// process is one life of a broker.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it ended; cmd.ProcessState is valid then
}

// Running tells whether a process runs, also if it is paused.
func (b *Broker) Running() bool {
	if b.proc == nil {
		return false
	}
	select {
	case <-b.proc.exited:
		return false
	default:
		return true
	}
}

// Rack is the broker's rack, one of its own.
func (b *Broker) Rack() string { return "rack-" + strconv.Itoa(int(b.ID)) }

// Args are the command line without the program.
func (b *Broker) Args() []string {
	expect := min(len(b.fleet.Brokers), 3)
	args := []string{"serve", "--data", b.DataDir, "--listen", b.Kafka, "--admin", b.Admin, "--object-store", b.fleet.opts.Store}
	settings := []string{
		"node.id=" + strconv.Itoa(int(b.ID)), "broker.rack=" + b.Rack(), "bootstrap.expect=" + strconv.Itoa(expect),
		"cluster.listen=" + b.Cluster, "gossip.listen=" + b.Gossip, "gossip.advertised=" + b.Gossip, "cluster.join=" + b.Join,
		"gossip.key=" + b.fleet.key,
		"default.replication.factor=" + strconv.Itoa(expect), "offsets.topic.replication.factor=" + strconv.Itoa(expect),
		"transaction.state.log.replication.factor=" + strconv.Itoa(expect), "offsets.topic.num.partitions=3",
	}
	settings = append(settings, b.fleet.opts.Set...)
	settings = append(settings, b.Set...)
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	return args
}

// Launch starts a process and waits for nothing.
func (b *Broker) Launch() error {
	if b.Running() {
		return fmt.Errorf("fleet: broker %d runs already", b.ID)
	}
	if err := os.MkdirAll(b.DataDir, 0o750); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	log, err := os.OpenFile(b.LogFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	defer log.Close() // the process has it
	cmd := exec.CommandContext(context.Background(), cmp.Or(b.Program, b.fleet.opts.Program), b.Args()...)
	cmd.Env = append(append(os.Environ(), b.fleet.opts.Env...), b.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := cmd.Start
	if b.Node != nil {
		start = func() error { return b.Node.Start(cmd) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("fleet: start broker %d: %w", b.ID, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the outcome is in cmd.ProcessState
		close(p.exited)
	}()
	b.proc, b.down = p, false
	return nil
}

// Start starts a process and waits until it serves.
func (b *Broker) Start(ctx context.Context) error {
	if err := b.Launch(); err != nil {
		return err
	}
	return b.AwaitReady(ctx)
}

// Exited is closed when the process of the last life has ended.
func (b *Broker) Exited() <-chan struct{} { return b.proc.exited }

// Pid is the process of this life.
func (b *Broker) Pid() int { return b.proc.cmd.Process.Pid }

// ExitCode is that of the last life, which has ended; -1 after a signal.
func (b *Broker) ExitCode() int { return b.proc.cmd.ProcessState.ExitCode() }

func (b *Broker) signal(s os.Signal) error {
	if b.proc == nil {
		return nil
	}
	if err := b.proc.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("fleet: signal %v to broker %d: %w", s, b.ID, err)
	}
	return nil
}

// Kill ends the process as kill -9 does, if one runs.
func (b *Broker) Kill() error {
	b.down = true
	if err := b.signal(syscall.SIGKILL); err != nil || b.proc == nil {
		return err
	}
	<-b.proc.exited
	return nil
}

// Pause stops the process where it is; Resume lets it go on.
func (b *Broker) Pause() error { return b.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (b *Broker) Resume() error { return b.signal(syscall.SIGCONT) }

// stopLimit bounds an orderly stop.
const stopLimit = 60 * time.Second

// Stop asks the process to shut down and holds that it ends in order.
func (b *Broker) Stop() error {
	if !b.Running() {
		return fmt.Errorf("fleet: broker %d does not run", b.ID)
	}
	b.down = true
	if err := b.signal(syscall.SIGTERM); err != nil {
		return err
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-b.proc.exited:
	case <-limit.C:
		return fmt.Errorf("fleet: broker %d did not stop within %v", b.ID, stopLimit)
	}
	if state := b.proc.cmd.ProcessState; !state.Success() {
		return fmt.Errorf("fleet: broker %d stopped with %v", b.ID, state)
	}
	return nil
}

// Wipe empties the data directory of a broker that does not run, as a new disk is.
func (b *Broker) Wipe() error {
	if b.Running() {
		return fmt.Errorf("fleet: broker %d runs: its disk cannot be changed", b.ID)
	}
	entries, err := os.ReadDir(b.DataDir)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(b.DataDir + "/" + e.Name()); err != nil {
			return fmt.Errorf("fleet: %w", err)
		}
	}
	return nil
}

// LogContains tells whether the log, of all lives, has the text.
func (b *Broker) LogContains(text string) (bool, error) {
	log, err := os.ReadFile(b.LogFile)
	if err != nil {
		return false, fmt.Errorf("fleet: %w", err)
	}
	return bytes.Contains(log, []byte(text)), nil
}

// Panics are the lines of the log that tell of panics.
func (b *Broker) Panics() ([]string, error) {
	log, err := os.ReadFile(b.LogFile)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // never started
		}
		return nil, fmt.Errorf("fleet: %w", err)
	}
	var panics []string
	for line := range bytes.Lines(log) {
		for _, word := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
			if bytes.HasPrefix(line, []byte(word)) {
				panics = append(panics, string(bytes.TrimSpace(line)))
			}
		}
	}
	return panics, nil
}
