package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// server accepts connections and runs one goroutine for each.
type server struct {
	ln     net.Listener
	handle func(*net.TCPConn) error
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[*net.TCPConn]struct{} // guarded by mu
	closed bool                      // guarded by mu
	err    error                     // guarded by mu: the first of a connection or of accept
}

// listen starts a server on addr. handle owns its connection until it returns;
// its error is what close returns.
func listen(addr string, handle func(*net.TCPConn) error) (*server, error) {
	var cfg net.ListenConfig
	ln, err := cfg.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	s := &server{ln: ln, handle: handle, conns: map[*net.TCPConn]struct{}{}}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			s.fail(err)
			return
		}
		conn, ok := c.(*net.TCPConn)
		if !ok || !s.add(conn) {
			_ = c.Close() // nothing was said on it
			continue
		}
		s.wg.Go(func() {
			defer s.remove(conn)
			s.fail(s.handle(conn))
		})
	}
}

// add notes a connection, unless the server is closed.
func (s *server) add(c *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *server) remove(c *net.TCPConn) {
	_ = c.Close() // what was to be sent was sent
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// fail keeps the first error that is not the server's own end.
func (s *server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.err == nil && !s.closed && !errors.Is(err, net.ErrClosed) {
		s.err = err
	}
}

// close ends all connections, waits for their goroutines and returns the first
// error that one of them met.
func (s *server) close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close() // cut off, whatever it says
	}
	s.mu.Unlock()
	err := s.ln.Close()
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return err
}
