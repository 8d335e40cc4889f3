package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/firnlog/firn/metadata/configdef"
)

// Cluster says how this node finds the other brokers and talks to them.
type Cluster struct {
	// ClusterListen is HOST:PORT of the port between brokers; empty is a node that
	// stays alone, and then GossipListen is empty too.
	ClusterListen string `koanf:"cluster.listen"`
	// ClusterAdvertised is HOST:PORT that the others connect to. Never empty where
	// ClusterListen is set; port 0 stands for the port that was bound.
	ClusterAdvertised string `koanf:"cluster.advertised"`
	// Join are peers' gossip addresses, each HOST:PORT.
	Join         []string `koanf:"cluster.join"`
	GossipListen string   `koanf:"gossip.listen"`
	// GossipAdvertised is empty, or HOST:PORT.
	GossipAdvertised string `koanf:"gossip.advertised"`
	// GossipKeyText is base64, checked: see GossipKey.
	GossipKeyText string `koanf:"gossip.key"`
	TLSCert       string `koanf:"cluster.tls.cert"`
	TLSKey        string `koanf:"cluster.tls.key"`
	TLSCA         string `koanf:"cluster.tls.ca"`
}

// Clustered reports whether the node serves other brokers.
func (c *Cluster) Clustered() bool { return c.ClusterListen != "" }

// GossipKey is the key of 16, 24 or 32 bytes, nil for none.
func (c *Cluster) GossipKey() []byte {
	key, err := configdef.GossipKey(c.GossipKeyText)
	if err != nil {
		panic("config: a key that Load let pass: " + err.Error())
	}
	return key
}

// tlsProblem is what is wrong with one of the TLS files.
type tlsProblem struct {
	key, path string
	err       error
}

func (e *tlsProblem) Error() string { return e.key + ": " + e.path + ": " + e.err.Error() }
func (e *tlsProblem) Unwrap() error { return e.err }

// ClusterTLS reads the certificate files into what both ends of a connection
// between brokers use: each shows its certificate and verifies the other's. A
// dialler sets ServerName on a clone. nil without TLS.
func (c *Cluster) ClusterTLS() (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil //nolint:nilnil // no TLS is no mistake
	}
	certificate, err := os.ReadFile(c.TLSCert)
	if err != nil {
		return nil, &tlsProblem{"cluster.tls.cert", c.TLSCert, unwrapPath(err)}
	}
	key, err := os.ReadFile(c.TLSKey)
	if err != nil {
		return nil, &tlsProblem{"cluster.tls.key", c.TLSKey, unwrapPath(err)}
	}
	authorities, err := os.ReadFile(c.TLSCA)
	if err != nil {
		return nil, &tlsProblem{"cluster.tls.ca", c.TLSCA, unwrapPath(err)}
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, &tlsProblem{"cluster.tls.cert", c.TLSCert, fmt.Errorf("with cluster.tls.key %s: %w", c.TLSKey, err)}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return nil, &tlsProblem{"cluster.tls.ca", c.TLSCA, errors.New("no certificate in PEM form")}
	}
	if err := errors.Join(verifyOwn(&pair, pool), c.verifyName(&pair)); err != nil {
		return nil, &tlsProblem{"cluster.tls.cert", c.TLSCert, err}
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}

// verifyOwn sees that the other brokers, who have the same authorities, will take
// this certificate from a server and from a client.
func verifyOwn(pair *tls.Certificate, authorities *x509.CertPool) error {
	between, err := intermediates(pair)
	if err != nil {
		return err
	}
	for _, role := range []struct {
		name  string
		usage x509.ExtKeyUsage
	}{{"server", x509.ExtKeyUsageServerAuth}, {"client", x509.ExtKeyUsageClientAuth}} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: authorities, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{role.usage}})
		if err != nil {
			return fmt.Errorf("the other brokers will refuse it from a %s: %w", role.name, err)
		}
	}
	return nil
}

// intermediates are the certificates that come along with one.
func intermediates(pair *tls.Certificate) (*x509.CertPool, error) {
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		between.AddCert(cert)
	}
	return between, nil
}

// verifyName sees that the certificate has the name that the other brokers reach this
// one by: nobody would connect to it otherwise.
func (c *Cluster) verifyName(pair *tls.Certificate) error {
	host, _, err := net.SplitHostPort(c.ClusterAdvertised)
	if err != nil || host == "" {
		return nil //nolint:nilerr // no port between brokers, or a mistake that is told elsewhere
	}
	if err := pair.Leaf.VerifyHostname(host); err != nil {
		return fmt.Errorf("the other brokers will refuse it, since they reach this one as %s (cluster.advertised): %w", host, err)
	}
	return nil
}

// checkCluster holds the rules between the cluster's settings and completes them.
func (l *loader) checkCluster(c *Config) {
	wrong := func(key, got, want string) {
		l.wrong(Problem{Where: l.where[key], Key: key, Got: got, Want: want})
	}
	switch {
	case c.ClusterListen == "" && c.BootstrapExpect > 1:
		wrong("cluster.listen", "nothing", fmt.Sprintf("HOST:PORT because of bootstrap.expect %d", c.BootstrapExpect))
	case c.ClusterListen == "" && len(c.Join) > 0:
		wrong("cluster.listen", "nothing", "HOST:PORT because of cluster.join")
	case c.ClusterListen != "" && c.GossipListen == "":
		wrong("gossip.listen", "nothing", "HOST:PORT because of cluster.listen")
	case c.ClusterListen == "":
		c.GossipListen = ""
	}
	l.checkClusterAddresses(c, wrong)
	for i, text := range c.Join {
		if address, err := configdef.JoinAddress(text); err == nil { // else said already
			c.Join[i] = address
		}
	}
	files := map[string]string{"cluster.tls.cert": c.TLSCert, "cluster.tls.key": c.TLSKey, "cluster.tls.ca": c.TLSCA}
	missing := false
	for _, key := range []string{"cluster.tls.cert", "cluster.tls.key", "cluster.tls.ca"} {
		if files[key] == "" && c.TLSCert+c.TLSKey+c.TLSCA != "" {
			wrong(key, "nothing", "a PEM file: certificate, key and authorities go together")
			missing = true
		}
	}
	if missing {
		return
	}
	var bad *tlsProblem
	if _, err := c.ClusterTLS(); errors.As(err, &bad) {
		wrong(bad.key, bad.path, "a usable PEM file: "+bad.err.Error())
	}
}

// checkClusterAddresses sees that ports differ, and fills in what is advertised.
func (l *loader) checkClusterAddresses(c *Config, wrong func(key, got, want string)) {
	taken := map[string]string{}
	for _, listener := range c.Listeners {
		taken[listener.Address] = "listener " + listener.Name
	}
	for _, a := range []struct{ key, address string }{
		{"admin.address", c.AdminAddress}, {"cluster.listen", c.ClusterListen}, {"gossip.listen", c.GossipListen},
	} {
		_, port, err := net.SplitHostPort(a.address)
		if err != nil || port == "0" {
			continue
		}
		if other := taken[a.address]; other != "" && a.key != "admin.address" { // its clash is told elsewhere
			wrong(a.key, a.address, "an address of its own: it is that of "+other)
		}
		taken[a.address] = a.key
	}
	if c.ClusterListen == "" || c.ClusterAdvertised != "" {
		return
	}
	host, portText, err := net.SplitHostPort(c.ClusterListen)
	if err != nil {
		return // said already
	}
	port, err := parsePort(portText)
	if err != nil {
		return // said already
	}
	own, err := listenerSettings{hostname: os.Hostname}.ownAddress(endpoint{host: host, port: port})
	if err != nil {
		wrong("cluster.listen", c.ClusterListen, "cluster.advertised to say what the other brokers connect to, since the host's name cannot be read: "+err.Error())
		return
	}
	c.ClusterAdvertised = net.JoinHostPort(own.host, strconv.Itoa(int(own.port)))
}
