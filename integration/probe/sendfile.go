package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// sendfileStep bounds the bytes of one sendfile call, as Firn does.
const sendfileStep = 1 << 20

// drainBuffer is the size in bytes of what Drain reads into.
const drainBuffer = 256 << 10

// FileServer sends whole files, one after the other, to everyone who connects,
// by sendfile, and closes the connection. It is the floor under the figure of a
// hot fetch.
type FileServer struct {
	srv   *server
	files []servedFile
}

// servedFile is one of the files.
type servedFile struct {
	file *os.File
	size int64 // bytes, when the server started
}

// StartFileServer serves the files at paths on addr until Close.
func StartFileServer(addr string, paths ...string) (*FileServer, error) {
	f := &FileServer{}
	err := f.open(paths)
	if err == nil {
		f.srv, err = listen(addr, f.serve)
	}
	if err != nil {
		return nil, errors.Join(err, f.closeFiles())
	}
	return f, nil
}

func (f *FileServer) open(paths []string) error {
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		f.files = append(f.files, servedFile{file: file})
		info, err := file.Stat()
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		f.files[len(f.files)-1].size = info.Size()
	}
	return nil
}

func (f *FileServer) closeFiles() error {
	var err error
	for _, s := range f.files {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// Addr returns the address that clients connect to.
func (f *FileServer) Addr() string { return f.srv.ln.Addr().String() }

// Size returns the bytes that each client gets.
func (f *FileServer) Size() int64 {
	var n int64
	for _, s := range f.files {
		n += s.size
	}
	return n
}

// Close ends the server and returns the first error of a connection.
func (f *FileServer) Close() error { return errors.Join(f.srv.close(), f.closeFiles()) }

// serve sends each file once.
func (f *FileServer) serve(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	for i := range f.files {
		if err := f.files[i].send(raw); err != nil {
			return err
		}
	}
	return nil
}

// send sends one file.
func (f *servedFile) send(raw syscall.RawConn) error {
	var (
		pos     int64
		sendErr error
		src     = int(f.file.Fd())
	)
	err := raw.Write(func(fd uintptr) bool {
		for pos < f.size {
			var n int
			n, sendErr = unix.Sendfile(int(fd), src, &pos, int(min(f.size-pos, sendfileStep)))
			switch {
			case errors.Is(sendErr, unix.EAGAIN):
				sendErr = nil
				return false // wait until the socket takes more
			case errors.Is(sendErr, unix.EINTR):
				sendErr = nil
			case sendErr == nil && n == 0:
				sendErr = io.ErrUnexpectedEOF // the file became shorter
				return true
			case sendErr != nil:
				return true
			}
		}
		return true
	})
	if err == nil && sendErr != nil {
		err = fmt.Errorf("probe: sendfile: %w", sendErr)
	}
	return err
}

// Drain connects to a FileServer over connections at the same time, passes
// times each, and reads everything. It returns how many bytes came.
func Drain(ctx context.Context, addr string, connections, passes int) (int64, error) {
	g, ctx := errgroup.WithContext(ctx)
	counts := make([]int64, connections)
	for i := range connections {
		g.Go(func() error {
			buf := make([]byte, drainBuffer)
			for range passes {
				n, err := drainOnce(ctx, addr, buf)
				counts[i] += n
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	var total int64
	for _, n := range counts {
		total += n
	}
	return total, err
}

// drainOnce reads one connection to its end.
func drainOnce(ctx context.Context, addr string, buf []byte) (int64, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var total int64
	for {
		n, err := conn.Read(buf)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("probe: %w", err)
		}
	}
}
