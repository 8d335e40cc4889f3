package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startLimit = 3 * time.Minute  // for a server to serve; three JVMs on two busy cores take one
	stopLimit  = 30 * time.Second // for a server to end in order
	tailBytes  = 16 << 10         // of a process's output that an error shows
)

// process is a program that the bench started.
type process struct {
	name   string
	cmd    *exec.Cmd
	exited chan struct{} // closed when it ended; cmd.ProcessState is valid then
	out    tail
}

// start runs a program. It dies with this process.
func start(name string, env []string, path string, args ...string) (*process, error) {
	p := &process{name: name, exited: make(chan struct{})}
	p.cmd = exec.CommandContext(context.Background(), path, args...) // stop and kill end it
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the outcome is in cmd.ProcessState
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// await asks until ready says nil.
func (p *process) await(ctx context.Context, every time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("bench: %s ended: %v\n%s", p.name, p.cmd.ProcessState, p.out.String())
		case <-ctx.Done():
			return fmt.Errorf("bench: %s is not ready: %w\n%s", p.name, err, p.out.String())
		case <-tick.C:
		}
	}
}

// kill ends the process as kill -9 does.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("bench: kill %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

// stop ends the process in order.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("bench: stop %s: %w", p.name, err)
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("bench: %s did not stop within %v\n%s", p.name, stopLimit, p.out.String()), p.kill())
	}
}

// tail keeps the end of what a process writes.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

// Write keeps p.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if drop := len(t.buf) - tailBytes; drop > tailBytes {
		t.buf = bytes.Clone(t.buf[drop:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf[max(0, len(t.buf)-tailBytes):]))
}

// freeAddr is a loopback address that nobody listened at a moment ago, below the
// ports that Linux gives outgoing connections: a server that was killed finds
// its port free again.
func freeAddr() (string, error) {
	const lowest, highest = 12000, 32000
	var cfg net.ListenConfig
	var last error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest))
		l, err := cfg.Listen(context.Background(), "tcp", addr)
		if last = err; err != nil {
			continue
		}
		return addr, l.Close()
	}
	return "", fmt.Errorf("bench: no free port on loopback: %w", last)
}
