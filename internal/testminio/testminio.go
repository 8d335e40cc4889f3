// Package testminio runs a real MinIO server for tests.
//
// One server serves a test process: Server starts it on first use, on a free
// loopback port and a temporary directory, and Main (called from TestMain)
// stops it and removes the directory. A test that cannot have the server
// fails; it is never skipped.
package testminio

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Server is a running MinIO.
type Server struct {
	Addr      string // host:port on loopback
	AccessKey string
	SecretKey string

	dir    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process ended
	log    lockedBuffer
}

var (
	sharedOnce sync.Once
	shared     *Server
	sharedErr  error
)

// Main runs a package's tests and stops the shared server after them:
// func TestMain(m *testing.M) { testminio.Main(m) }.
func Main(m *testing.M) {
	code := m.Run()
	if err := StopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// StopShared stops the shared server, if one was started, for a TestMain that
// has more to do than Main does.
func StopShared() error {
	if shared == nil {
		return nil
	}
	return shared.Stop()
}

// Shared gives the process's server. The package's TestMain must call Main.
func Shared(t testing.TB) *Server {
	t.Helper()
	sharedOnce.Do(func() { shared, sharedErr = Start() })
	if sharedErr != nil {
		t.Fatal(sharedErr)
	}
	return shared
}

// Bucket makes a fresh bucket on the server and returns its name.
func (s *Server) Bucket(t testing.TB) string {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text()[:16])
	// MinIO takes a directory of its drive for a bucket; that is how its own
	// single-drive mode makes one, and needs no client here.
	if err := os.Mkdir(filepath.Join(s.dir, name), 0o750); err != nil {
		t.Fatal(err)
	}
	return name
}

// Start starts a server of the caller's own; the caller stops it.
func Start() (*Server, error) {
	bin, err := Binary()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "firn-minio-")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: addr, AccessKey: "firn-test", SecretKey: rand.Text(), dir: dir, exited: make(chan struct{})}
	// No context: Stop ends it, after the tests.
	s.cmd = exec.CommandContext(context.Background(), bin, "server", dir, "--address", addr, "--console-address", "127.0.0.1:0", "--quiet")
	s.cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1", "HOME="+dir)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	// The server dies with the test process, also when that is killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", bin, err)
	}
	go func() {
		_ = s.cmd.Wait() // the state is in cmd.ProcessState
		close(s.exited)
	}()
	if err := s.awaitReady(time.Minute); err != nil {
		return nil, fmt.Errorf("%w; its log:\n%s", errors.Join(err, s.Stop()), s.log.String())
	}
	return s, nil
}

func freeAddr() (string, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// awaitReady polls until the server answers a signed request: its health
// page says "ready" while requests are still refused.
func (s *Server) awaitReady(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	client, err := minio.New(s.Addr, &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: "us-east-1", MaxRetries: 1,
	})
	if err != nil {
		return err
	}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := client.BucketExists(ctx, "probe"); err == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-s.exited:
			return fmt.Errorf("MinIO ended at once: %v", s.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("MinIO was not ready within %v", limit)
		}
	}
}

// Pause stops the server from answering without closing its connections, as a
// hung store; Resume lets it go on.
func (s *Server) Pause() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Stop kills the server and removes its data.
func (s *Server) Stop() error {
	select {
	case <-s.exited:
	default:
		if err := s.cmd.Process.Kill(); err != nil {
			return fmt.Errorf("stop MinIO: %w", err)
		}
		<-s.exited
	}
	return os.RemoveAll(s.dir)
}

// lockedBuffer collects the server's log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
