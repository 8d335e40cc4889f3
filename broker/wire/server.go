package wire

import (
	"context"
	"net"
)

// Server accepts connections and reads requests. Make one with NewServer, then
// Listen, then Serve.
type Server struct {
	opts Options
}

// NewServer checks opts; it opens nothing.
func NewServer(opts Options) (*Server, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	return &Server{opts: opts}, nil
}

// Listen binds all listeners, so that their addresses are known and connections
// queue in the kernel before Serve.
func (s *Server) Listen() error { return nil }

// Addr is the bound address of the named listener, nil before Listen.
func (s *Server) Addr(listener string) net.Addr { return nil }

// Serve accepts connections until Shutdown, and returns nil then. It calls
// Listen if nobody did.
func (s *Server) Serve() error { return nil }

// Draining is closed when Shutdown begins: long polls should answer.
func (s *Server) Draining() <-chan struct{} { return nil }

// Shutdown stops accepting and reading, lets pending requests be answered until
// ctx ends, then cancels their contexts and closes every connection. All
// goroutines of the server have ended when it returns. Its error is ctx's when
// connections had to be cut.
func (s *Server) Shutdown(ctx context.Context) error { return nil }

// Stats returns the counters as of now.
func (s *Server) Stats() Stats { return Stats{} }
