package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/fleet"
)

// authority signs the brokers' certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func serial(t *testing.T) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	require.NoError(t, err)
	return n
}

// identity is a certificate with its key.
type identity struct {
	cert, key []byte // PEM
	serial    *big.Int
}

// sign makes an identity for hosts, which ends at a time.
func (a *authority) sign(ends time.Time, hosts ...string) identity {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{SerialNumber: serial(a.t), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: ends,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(a.t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(a.t, err)
	return identity{serial: template.SerialNumber, cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})}
}

// good is an identity for a broker on loopback.
func (a *authority) good() identity { return a.sign(time.Now().Add(12*time.Hour), "127.0.0.1") }

// bundle is the PEM file of several authorities.
func bundle(authorities ...*authority) []byte {
	var text bytes.Buffer
	for _, a := range authorities {
		text.Write(a.pem)
	}
	return text.Bytes()
}

// tlsFiles are the files of a broker's settings cluster.tls.*.
type tlsFiles struct {
	t             *testing.T
	cert, key, ca string
}

func newTLSFiles(t *testing.T) *tlsFiles {
	t.Helper()
	dir := t.TempDir()
	return &tlsFiles{t: t, cert: filepath.Join(dir, "broker.pem"), key: filepath.Join(dir, "broker-key.pem"), ca: filepath.Join(dir, "ca.pem")}
}

// settings name the files to a broker.
func (f *tlsFiles) settings() []string {
	return []string{"cluster.tls.cert=" + f.cert, "cluster.tls.key=" + f.key, "cluster.tls.ca=" + f.ca}
}

// identify replaces certificate and key, trust the authorities. A file is replaced
// as a whole, as those who renew certificates do.
func (f *tlsFiles) identify(id identity) {
	f.t.Helper()
	f.replace(f.key, id.key)
	f.replace(f.cert, id.cert)
}

func (f *tlsFiles) trust(authorities ...*authority) {
	f.t.Helper()
	f.replace(f.ca, bundle(authorities...))
}

func (f *tlsFiles) replace(path string, text []byte) {
	f.t.Helper()
	require.NoError(f.t, os.WriteFile(path+".new", text, 0o600))
	require.NoError(f.t, os.Rename(path+".new", path))
}

// shake makes a TLS connection to a broker's cluster port as somebody with an
// identity, or nobody, who takes whatever certificate the broker shows; it returns
// that and the connection, which is no more than the client's view: a server that
// refuses the client says so later.
func shake(t *testing.T, b *fleet.Broker, id *identity) (*tls.Conn, *x509.Certificate) {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} // what the server thinks is what is asked
	if id != nil {
		pair, err := tls.X509KeyPair(id.cert, id.key)
		require.NoError(t, err)
		// Also where the server's list of authorities does not name the signer.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	raw, err := net.DialTimeout("tcp", b.Cluster, 5*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { raw.Close() })
	require.NoError(t, raw.SetDeadline(time.Now().Add(10*time.Second)))
	conn := tls.Client(raw, config)
	require.NoError(t, conn.HandshakeContext(t.Context()))
	return conn, conn.ConnectionState().PeerCertificates[0]
}
