package wire

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// sendChunk bounds one system call, so that the write deadline, which asks
	// for progress, sees some.
	sendChunk = 1 << 20
	// copyChunk is the size of the buffers that files go through where sendfile
	// cannot serve.
	copyChunk = 64 << 10
	// maxVector is how many slices are gathered for one system call.
	maxVector = 64
)

// errTruncated says that a file ended inside the range to send. Its length was
// promised to the client, so the connection is lost.
var errTruncated = errors.New("file ends before the range to send")

var copyPool = sync.Pool{New: func() any {
	b := make([]byte, copyChunk)
	return &b
}}

// sender gathers bytes to send and sends them. It belongs to one goroutine at a
// time; nothing it holds stays after reset.
type sender struct {
	vector [][]byte
	bytes  int
}

// reset lets go of what was gathered, also of its array if it grew: an idle
// connection holds nothing.
func (s *sender) reset() {
	clear(s.vector)
	s.vector = s.vector[:0]
	if cap(s.vector) > 4 {
		s.vector = nil
	}
	s.bytes = 0
}

// add gathers an answer, sending what cannot wait. The answer must stay until
// the next flush.
func (s *sender) add(c *Conn, a *answer) (closeReason, error) {
	if a.encoded == nil {
		return 0, nil
	}
	if reason, err := s.gather(c, *a.encoded); err != nil {
		return reason, err
	}
	if a.payload == nil {
		return 0, nil
	}
	for i := range a.payload.Sections {
		section := &a.payload.Sections[i]
		if section.Range.File == nil {
			if reason, err := s.gather(c, section.Bytes); err != nil {
				return reason, err
			}
			continue
		}
		if section.Range.Len == 0 {
			continue
		}
		if reason, err := s.flush(c, true); err != nil {
			return reason, err
		}
		if reason, err := c.sendFile(section.Range); err != nil {
			return reason, err
		}
	}
	return 0, nil
}

func (s *sender) gather(c *Conn, b []byte) (closeReason, error) {
	if len(b) == 0 {
		return 0, nil
	}
	s.vector = append(s.vector, b)
	s.bytes += len(b)
	if len(s.vector) >= maxVector || s.bytes >= sendChunk {
		return s.flush(c, false)
	}
	return 0, nil
}

// flush sends what was gathered. more says that a file follows at once, so that
// its first bytes share a segment with the last of these.
func (s *sender) flush(c *Conn, more bool) (closeReason, error) {
	if len(s.vector) == 0 {
		return 0, nil
	}
	c.srv.counters.bytesOut.Add(uint64(s.bytes))
	c.wrote()
	err := c.sendBytes(s.vector, more)
	c.writeSince.Store(0)
	clear(s.vector)
	s.vector = s.vector[:0]
	s.bytes = 0
	return closedIO, err
}

// wrote says that a write begins or has made progress.
func (c *Conn) wrote() {
	now := c.srv.now.Load()
	c.writeSince.Store(now)
	c.active.Store(now)
}

func (c *Conn) sendBytes(vector [][]byte, more bool) error {
	if c.tls == nil {
		if len(vector) == 1 && !more && len(vector[0]) <= sendChunk {
			_, err := c.tcp.Write(vector[0])
			return err
		}
		return c.sendVector(vector, more)
	}
	for _, b := range vector {
		for len(b) > 0 {
			n, err := c.tls.Write(b[:min(len(b), sendChunk)])
			if err != nil {
				return err
			}
			b = b[n:]
			c.wrote()
		}
	}
	return nil
}

// sendVector is writev with flags.
func (c *Conn) sendVector(vector [][]byte, more bool) error {
	flags := unix.MSG_NOSIGNAL
	if more {
		flags |= sendMore
	}
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		for len(vector) > 0 {
			n, err := unix.SendmsgBuffers(int(fd), vector, nil, nil, flags)
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false
			case err != nil:
				failed = os.NewSyscallError("sendmsg", err)
				return true
			}
			c.wrote()
			for n > 0 || len(vector) > 0 && len(vector[0]) == 0 {
				k := min(n, len(vector[0]))
				vector[0] = vector[0][k:]
				n -= k
				if len(vector[0]) == 0 {
					vector = vector[1:]
				}
			}
		}
		return true
	})
	return errors.Join(err, failed)
}

// sendFile sends a range of a file: by sendfile with an offset of its own, so
// that any number of connections may send from one descriptor, and by copying
// where the file has no descriptor or the bytes must be encrypted.
func (c *Conn) sendFile(r FileRange) (closeReason, error) {
	c.srv.counters.bytesOut.Add(uint64(r.Len))
	c.wrote()
	defer c.writeSince.Store(0)
	var err error
	if fd := r.File.Fd(); hasSendfile && c.tls == nil && fd != ^uintptr(0) {
		err = c.sendfile(int(fd), r.Off, r.Len)
	} else {
		err = c.copyFile(r)
	}
	if errors.Is(err, errTruncated) {
		return closedTruncated, err
	}
	return closedIO, err
}

func (c *Conn) sendfile(file int, off, n int64) error {
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		for n > 0 {
			sent, err := unix.Sendfile(int(fd), file, &off, int(min(n, sendChunk)))
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false
			case err != nil:
				failed = os.NewSyscallError("sendfile", err)
				return true
			case sent == 0:
				failed = errTruncated
				return true
			}
			n -= int64(sent)
			c.wrote()
		}
		return true
	})
	return errors.Join(err, failed)
}

func (c *Conn) copyFile(r FileRange) error {
	buf := copyPool.Get().(*[]byte)
	defer copyPool.Put(buf)
	for r.Len > 0 {
		b := (*buf)[:min(r.Len, copyChunk)]
		n, err := r.File.ReadAt(b, r.Off)
		if n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = errTruncated
			}
			return fmt.Errorf("read to send: %w", err)
		}
		r.Off += int64(n)
		r.Len -= int64(n)
		if err := c.sendBytes([][]byte{b}, r.Len > 0); err != nil {
			return err
		}
		c.wrote()
	}
	return nil
}
