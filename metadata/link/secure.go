package link

import (
	"crypto/tls"
	"errors"
	"net"
)

// secured is one TLS configuration, in the forms that the two ends of a stream need.
type secured struct {
	from           *tls.Config // as it was given
	server, client *tls.Config
}

func secure(c *tls.Config) (*secured, error) {
	if len(c.Certificates) == 0 && (c.GetCertificate == nil || c.GetClientCertificate == nil) {
		return nil, errors.New("cluster port: TLS needs a certificate for both roles")
	}
	if c.RootCAs == nil {
		return nil, errors.New("cluster port: TLS needs the certificate authority of the cluster")
	}
	s := &secured{from: c, server: c.Clone(), client: c.Clone()}
	s.server.ClientAuth = tls.RequireAndVerifyClientCert
	if s.server.ClientCAs == nil {
		s.server.ClientCAs = c.RootCAs
	}
	for _, side := range []*tls.Config{s.server, s.client} {
		side.MinVersion = max(side.MinVersion, tls.VersionTLS13)
		side.NextProtos = nil // the hello says what a stream is for
	}
	return s, nil
}

// secured is what the next handshake goes by, nil without TLS.
func (l *Link) secured() *secured {
	now := l.tls.Load()
	if now == nil || l.opts.NewTLS == nil {
		return now
	}
	c := l.opts.NewTLS()
	if c == nil || c == now.from {
		return now
	}
	next, err := secure(c)
	if err != nil {
		l.opts.Logger.Warn("cluster port: a new TLS configuration cannot be used", "error", err)
		return now
	}
	l.tls.Store(next)
	return next
}

// to is the client's configuration for one address.
func (s *secured) to(addr string) *tls.Config {
	c := s.client.Clone()
	if c.ServerName == "" {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			c.ServerName = host
		}
	}
	return c
}
