package wire

import (
	"context"
	"crypto/tls"
	"net/netip"
	"time"
)

// Conn is one client connection. All methods may be called from any goroutine.
type Conn struct {
	id       uint64
	listener string
	remote   netip.AddrPort
	local    netip.AddrPort
}

// ID is unique in the life of the Server.
func (c *Conn) ID() uint64 { return c.id }

// Listener is the name of the listener that accepted the connection.
func (c *Conn) Listener() string { return c.listener }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// LocalAddr is the address that the peer connected to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// TLS is the state of the TLS session, nil on plaintext.
func (c *Conn) TLS() *tls.ConnectionState { return nil }

// SetClientSoftware records the name and version that the client gave in
// ApiVersions (KIP-511); the caller validates them.
func (c *Conn) SetClientSoftware(name, version string) {}

// ClientSoftware returns what SetClientSoftware recorded, "" before.
func (c *Conn) ClientSoftware() (name, version string) { return "", "" }

// Throttle stops reading the connection until d from now (KIP-219: the answer
// goes out at once and carries the same time).
func (c *Conn) Throttle(d time.Duration) {}

// Close closes the connection now; unsent answers are dropped. err says why;
// it is logged.
func (c *Conn) Close(err error) {}

func (c *Conn) context() context.Context { return context.Background() }
