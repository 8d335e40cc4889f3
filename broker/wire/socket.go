package wire

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// peerClosed tells whether the peer closed its side or the connection is dead; on
// Linux even where unread bytes stand before the end.
func peerClosed(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: pollPeerClosed}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0 && fds[0].Revents&(pollPeerClosed|unix.POLLHUP|unix.POLLERR) != 0
	}
}

// readFD reads what there is; again says that there is nothing yet.
func readFD(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		n, err = unix.Read(int(fd), b)
		if err != unix.EINTR {
			return readResult(n, err)
		}
	}
}

// peekFD tells what readFD would: n is 1 when there is something.
func peekFD(fd uintptr) (n int, again bool, err error) {
	var b [1]byte
	for {
		n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK)
		if err != unix.EINTR {
			return readResult(n, err)
		}
	}
}

func readResult(n int, err error) (int, bool, error) {
	switch {
	case err == nil:
		return n, false, nil
	case errors.Is(err, unix.EAGAIN):
		return 0, true, nil
	}
	return 0, false, os.NewSyscallError("read", err)
}
