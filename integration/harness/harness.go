// Package harness runs real brokers for tests: the firn program, built once per
// test process, started with the dev profile on loopback, killed, stopped and
// started again on the same data directory.
//
// Every broker belongs to a test, which stops it by its process id when it ends,
// and shows the tail of its log if it failed. A log with a panic fails the test
// whatever else it saw. A broker dies with the test process.
//
// A test package calls Main from its TestMain:
//
//	func TestMain(m *testing.M) { harness.Main(m) }
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// EnvBinary names a firn program to test instead of building one.
const EnvBinary = "FIRN_TEST_BINARY"

const (
	// startLimit bounds a start; two cores may be shared by many tests.
	startLimit = 60 * time.Second
	// stopLimit bounds an orderly stop.
	stopLimit = 45 * time.Second
	// pollEvery is the pace at which states of another process are looked at.
	pollEvery = 20 * time.Millisecond
	// logTail is how many lines of the log a failed test shows.
	logTail = 120
)

// Options say how a broker runs. The zero value is the dev profile with an
// object store in a directory.
type Options struct {
	// DataDir of the node; default a directory of the test's.
	DataDir string
	// Store is the object store's URL; empty is a directory below the data.
	Store string
	// Set are further settings, NAME=VALUE.
	Set []string
	// MayPanic is a panic that the test's faults excuse, as the log has it.
	MayPanic string
	// Env are variables over those of the test process, NAME=VALUE.
	Env []string
}

// Broker is a firn process, running or not. Its addresses and its data directory
// outlive the process. It is not safe for concurrent use.
type Broker struct {
	Addr  string // of the listener, HOST:PORT
	Admin string // of the admin server, HOST:PORT
	Opts  Options

	t    testing.TB
	log  *logBuffer
	proc *process // nil while none runs
}

// process is one life of a broker.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it ended; cmd.ProcessState is valid then
}

// Start runs a broker and waits until it serves.
func Start(t testing.TB, o Options) *Broker {
	t.Helper()
	b := New(t, o)
	b.Start()
	return b
}

// New prepares a broker with addresses and a data directory, not started.
func New(t testing.TB, o Options) *Broker {
	t.Helper()
	if o.DataDir == "" {
		o.DataDir = filepath.Join(t.TempDir(), "data")
	}
	b := &Broker{Addr: FreeAddr(t), Admin: FreeAddr(t), Opts: o, t: t, log: &logBuffer{}}
	t.Cleanup(func() {
		b.Kill()
		if b.log.panicked(o.MayPanic) {
			t.Error("the broker panicked")
		}
		if t.Failed() {
			t.Logf("log of the broker at %s:\n%s", b.Addr, b.log.tail(logTail))
		}
	})
	return b
}

// Start begins a new life on the same data directory and addresses, and waits
// until the broker serves.
func (b *Broker) Start() {
	b.t.Helper()
	b.Launch()
	if err := b.AwaitReady(startLimit); err != nil {
		b.t.Fatal(err)
	}
}

// Launch begins a new life without waiting for it.
func (b *Broker) Launch() {
	b.t.Helper()
	if b.proc != nil {
		b.t.Fatal("harness: the broker runs already")
	}
	bin, err := program()
	if err != nil {
		b.t.Fatal(err)
	}
	args := []string{"dev", "--data", b.Opts.DataDir, "--listen", b.Addr, "--admin", b.Admin}
	if b.Opts.Store != "" {
		args = append(args, "--object-store", b.Opts.Store)
	}
	for _, set := range b.Opts.Set {
		args = append(args, "--set", set)
	}
	cmd := exec.CommandContext(context.Background(), bin, args...)
	cmd.Env = append(os.Environ(), b.Opts.Env...)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("start %s: %v", bin, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the outcome is in cmd.ProcessState
		close(p.exited)
	}()
	b.proc = p
}

// AwaitReady waits until /readyz says ok.
func (b *Broker) AwaitReady(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		status, body, err := b.get(ctx, "/readyz")
		if err == nil && status == http.StatusOK {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		select {
		case <-b.Exited():
			return fmt.Errorf("the broker ended while it started: %v", b.proc.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("the broker was not ready within %v: %w", limit, err)
		case <-tick.C:
		}
	}
}

// Exited is closed when the process of this life has ended.
func (b *Broker) Exited() <-chan struct{} { return b.proc.exited }

// Pid is the process of this life.
func (b *Broker) Pid() int { return b.proc.cmd.Process.Pid }

// Kill ends the process as kill -9 does, if one runs.
func (b *Broker) Kill() {
	if b.proc == nil {
		return
	}
	if err := b.proc.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		b.t.Errorf("kill the broker: %v", err)
	}
	<-b.proc.exited
	b.proc = nil
}

// Stop asks the broker to shut down and holds that it ends in order.
func (b *Broker) Stop() {
	b.t.Helper()
	if err := b.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.t.Fatalf("stop the broker: %v", err)
	}
	select {
	case <-b.proc.exited:
	case <-time.After(stopLimit):
		b.t.Fatalf("the broker did not stop within %v", stopLimit)
	}
	state := b.proc.cmd.ProcessState
	b.proc = nil
	if !state.Success() {
		b.t.Fatalf("the broker stopped with %v", state)
	}
}

// Restart stops the broker in order and starts it again.
func (b *Broker) Restart() {
	b.t.Helper()
	b.Stop()
	b.Start()
}

// LogContains tells whether the log, of all lives, has the text.
func (b *Broker) LogContains(text string) bool { return b.log.contains(text) }

// lowest and highest bound the ports handed out. They lie below the range that
// Linux takes outgoing connections' ports from (32768 and up): otherwise a
// client that dials while the broker is down could be given the broker's own
// port and keep it from starting again.
const lowest, highest = 12000, 32000

// FreeAddr is a loopback address that nobody listened at a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest))
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("harness: no free port on loopback")
	return ""
}

// build is the program under test, made on first use.
var build struct {
	once sync.Once
	dir  string // to be removed; empty for a program that was given
	path string
	err  error
}

// Binary is the path of the program under test.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func program() (string, error) {
	build.once.Do(func() {
		if build.path = os.Getenv(EnvBinary); build.path != "" {
			return
		}
		if build.dir, build.err = os.MkdirTemp("", "firn-test-"); build.err != nil {
			return
		}
		build.path = filepath.Join(build.dir, "firn")
		// -buildvcs: the stamp would cost a look at the whole checkout.
		cmd := exec.CommandContext(context.Background(), "go", "build", "-buildvcs=false", "-o", build.path, "github.com/firnlog/firn/cmd/firn")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("build firn: %w\n%s", err, out)
		}
	})
	return build.path, build.err
}

// Main runs a package's tests, then the steps after them, and removes what was
// built.
func Main(m *testing.M, after ...func() error) {
	code := m.Run()
	if build.dir != "" {
		after = append(after, func() error { return os.RemoveAll(build.dir) })
	}
	for _, f := range after {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// logBuffer keeps what a broker writes.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) contains(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.buf.Bytes(), []byte(text))
}

// panicked looks for panics that are not excused.
func (l *logBuffer) panicked(excused string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.buf.Bytes()) {
		if excused != "" && bytes.HasPrefix(line, []byte(excused)) {
			continue
		}
		if bytes.HasPrefix(line, []byte("panic: ")) || bytes.HasPrefix(line, []byte("fatal error: ")) {
			return true
		}
	}
	return false
}

func (l *logBuffer) tail(lines int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Split(strings.TrimRight(l.buf.String(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
