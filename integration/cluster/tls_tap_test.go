package cluster

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// tap is a relay in front of a broker's cluster port that reads along: all that
// crosses must be TLS records.
type tap struct {
	Addr string

	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu      sync.Mutex
	open    map[net.Conn]bool
	streams int   // that were dialled
	bytes   int64 // of records that were whole
	err     error // the first thing that is no TLS
}

// newTap begins to relay to an address.
func newTap(t *testing.T, target string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &tap{Addr: l.Addr().String(), listener: l, target: target, open: map[net.Conn]bool{}}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *tap) close() {
	p.listener.Close()
	p.mu.Lock()
	for c := range p.open {
		c.Close()
	}
	p.open = nil
	p.mu.Unlock()
	p.running.Wait()
}

// track notes a connection that close must end; false if it is closed already.
func (p *tap) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		c.Close()
		return false
	}
	p.open[c] = true
	return true
}

func (p *tap) untrack(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func (p *tap) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		if !p.track(in) {
			return
		}
		p.running.Go(func() {
			defer p.untrack(in)
			out, err := net.Dial("tcp", p.target)
			if err != nil {
				return // the broker is down, which its peers are to see
			}
			if !p.track(out) {
				return
			}
			defer p.untrack(out)
			p.mu.Lock()
			p.streams++
			p.mu.Unlock()
			var both sync.WaitGroup
			for _, way := range [][2]net.Conn{{out, in}, {in, out}} {
				both.Go(func() {
					p.relay(way[0], way[1])
					way[0].Close() // a reset in one direction is one in both
					way[1].Close()
				})
			}
			both.Wait()
		})
	}
}

// The types of TLS records (RFC 8446, 5.1), and how long one may be.
const (
	changeCipherSpec, applicationData = 20, 23
	maxTLSRecord                      = 1<<14 + 256
)

// relay copies one direction record by record.
func (p *tap) relay(to io.Writer, from io.Reader) {
	record := make([]byte, 5+maxTLSRecord)
	for first := true; ; first = false {
		if _, err := io.ReadFull(from, record[:5]); err != nil {
			return // a connection may end anywhere
		}
		kind, major, size := record[0], record[1], int(record[3])<<8|int(record[4])
		if kind < changeCipherSpec || kind > applicationData || major != 3 || size > maxTLSRecord || first && kind == applicationData {
			p.mu.Lock()
			if p.err == nil {
				p.err = fmt.Errorf("no record of TLS: %x", record[:5])
			}
			p.mu.Unlock()
			return
		}
		if _, err := io.ReadFull(from, record[5:5+size]); err != nil {
			return
		}
		if _, err := to.Write(record[:5+size]); err != nil {
			return
		}
		p.mu.Lock()
		p.bytes += int64(5 + size)
		p.mu.Unlock()
	}
}

// seen are the streams and bytes so far, all of them TLS.
func (p *tap) seen(t *testing.T) (streams int, bytes int64) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NoError(t, p.err)
	return p.streams, p.bytes
}
