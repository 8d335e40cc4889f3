package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// space is a network namespace, held by a descriptor.
type space struct {
	file *os.File
}

// newSpace makes an empty namespace.
func newSpace() (s space, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("%w: make a network namespace: %w", ErrCannot, err)
		}
		s.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return s, err
}

// do runs fn on a thread inside the namespace. Sockets that it makes and
// processes that it starts belong there.
func (s space) do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns: enter a namespace: %w", err)
		}
		return fn()
	})
}

// onThread runs fn with a thread of its own, which it brings back to where it was.
func onThread(fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("netns: %w", err)
	}
	defer home.Close()
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread must not run anything else. It stays locked and ends with its
		// goroutine.
		panic(fmt.Sprintf("netns: leave a namespace: %v", back))
	}
	runtime.UnlockOSThread()
	return err
}

// run runs commands inside, one a line, each to its end.
func (s space) run(extra []*os.File, lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		cmd := exec.CommandContext(context.Background(), words[0], words[1:]...)
		cmd.ExtraFiles = extra
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := s.do(cmd.Start); err != nil {
			return fmt.Errorf("netns: %s: %w", line, err)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("netns: %s: %w: %s", line, err, strings.TrimSpace(out.String()))
		}
	}
	return nil
}

// ErrCannot is wrapped by the errors of machines that have no namespaces to give.
var ErrCannot = errors.New("netns: not possible here")
