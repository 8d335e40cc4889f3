package config

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClusterDefaults(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	serve := Default()
	require.True(t, serve.Clustered())
	require.Equal(t, "0.0.0.0:9094", serve.ClusterListen)
	require.Equal(t, net.JoinHostPort(host, "9094"), serve.ClusterAdvertised)
	require.Equal(t, "0.0.0.0:7946", serve.GossipListen)
	require.Empty(t, serve.Join)
	require.Nil(t, serve.GossipKey())
	secure, err := serve.ClusterTLS()
	require.NoError(t, err)
	require.Nil(t, secure)

	dev := Dev()
	require.False(t, dev.Clustered())
	require.Empty(t, dev.ClusterAdvertised+dev.GossipListen)
}

func TestClusterSettings(t *testing.T) {
	c, err := Load(Source{File: write(t, `cluster.listen: 10.0.0.1:9094
cluster.join: [broker-2, "10.0.0.3:7000", "::1", "[fe80::1]:5"]
gossip.key: AAECAwQFBgcICQoLDA0ODw==
`)})
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1:9094", c.ClusterAdvertised)
	require.Equal(t, []string{"broker-2:7946", "10.0.0.3:7000", "[::1]:7946", "[fe80::1]:5"}, c.Join)
	require.Equal(t, []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, c.GossipKey())
}

func TestClusterMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"gossip.key: secret!":                     `firn.yaml:1: gossip.key: got "7 characters", want base64 of 16, 24 or 32 bytes, as ` + "`openssl rand -base64 32` writes it",
		"gossip.key: c2VjcmV0":                    `firn.yaml:1: gossip.key: got "8 characters", want base64 of 16, 24 or 32 bytes, and this is 6: ` + "`openssl rand -base64 32` writes one",
		"cluster.join: [a, ':1']":                 `firn.yaml:1: cluster.join: got "a,:1", want ":1": expected HOST or HOST:PORT of a peer's gossip, such as 10.0.0.1:7946`,
		"cluster.join: 0.0.0.0":                   `firn.yaml:1: cluster.join: got "0.0.0.0", want "0.0.0.0": expected an address of a peer: 0.0.0.0 is every address of this machine`,
		"cluster.listen: ''":                      `firn.yaml:1: cluster.listen: got "nothing", want HOST:PORT because of bootstrap.expect 3`,
		"gossip.listen: ''":                       `firn.yaml:1: gossip.listen: got "nothing", want HOST:PORT because of cluster.listen`,
		"cluster.listen: 9094":                    `firn.yaml:1: cluster.listen: got "9094", want HOST:PORT, such as 127.0.0.1:9644`,
		"cluster.advertised: :9094":               `firn.yaml:1: cluster.advertised: got ":9094", want an address and port that the other brokers can reach`,
		"gossip.listen: h:1\ncluster.listen: h:1": `firn.yaml:1: gossip.listen: got "h:1", want an address of its own: it is that of cluster.listen`,
		"cluster.listen: :9092":                   `firn.yaml:1: cluster.listen: got ":9092", want an address of its own: it is that of listener PLAINTEXT`,
		"cluster.tls.ca: ca.pem": "2 mistakes:\n  cluster.tls.cert: got \"nothing\", want a PEM file: certificate, key and authorities go together\n" +
			"  cluster.tls.key: got \"nothing\", want a PEM file: certificate, key and authorities go together",
		"cluster.tls.ca: a\ncluster.tls.key: b\ncluster.tls.cert: c": `firn.yaml:3: cluster.tls.cert: got "c", want a usable PEM file: no such file or directory`,
	} {
		_, err := Load(Source{File: write(t, text)})
		require.EqualError(t, err, "configuration: "+want, text)
	}
	_, err := Load(Source{Profile: ProfileDev, File: write(t, "cluster.join: a")})
	require.EqualError(t, err, `configuration: cluster.listen: got "nothing", want HOST:PORT because of cluster.join`)
}

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func sign(t *testing.T, name string, by *authority, usages ...x509.ExtKeyUsage) (certPEM, keyPEM []byte, made *authority) {
	t.Helper()
	return signUntil(t, time.Now().Add(time.Hour), name, by, usages...)
}

func signUntil(t *testing.T, end time.Time, name string, by *authority, usages ...x509.ExtKeyUsage) (certPEM, keyPEM []byte, made *authority) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages, DNSNames: []string{name},
	}
	parent, signer := template, key
	if by == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), &authority{cert, key}
}

const tlsFiles = "cluster.tls.cert: cert.pem\ncluster.tls.key: key.pem\ncluster.tls.ca: ca.pem\ncluster.advertised: broker-1:9094\n"

func TestClusterTLS(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	caPEM, _, ca := sign(t, "our authority", nil)
	otherPEM, _, otherCA := sign(t, "another", nil)
	certPEM, keyPEM, _ := sign(t, "broker-1", ca, both...)
	strangerPEM, strangerKeyPEM, _ := sign(t, "broker-1", otherCA, both...)
	onlyServer, onlyServerKey, _ := sign(t, "broker-1", ca, x509.ExtKeyUsageServerAuth)
	misnamed, misnamedKey, _ := sign(t, "broker-2", ca, both...)
	load := func(t *testing.T, cert, key, ca []byte) (Config, error) {
		t.Helper()
		file := write(t, tlsFiles)
		for name, text := range map[string][]byte{"cert.pem": cert, "key.pem": key, "ca.pem": ca} {
			require.NoError(t, os.WriteFile(name, text, 0o600))
		}
		return Load(Source{File: file})
	}
	c, err := load(t, certPEM, keyPEM, caPEM)
	require.NoError(t, err)
	ours, err := c.ClusterTLS()
	require.NoError(t, err)

	for want, files := range map[string][3][]byte{
		"firn.yaml:1: cluster.tls.cert: got \"cert.pem\", want a usable PEM file: with cluster.tls.key key.pem: tls: private key does not match public key":                                                                            {certPEM, strangerKeyPEM, caPEM},
		"firn.yaml:3: cluster.tls.ca: got \"ca.pem\", want a usable PEM file: no certificate in PEM form":                                                                                                                              {certPEM, keyPEM, keyPEM},
		"firn.yaml:1: cluster.tls.cert: got \"cert.pem\", want a usable PEM file: the other brokers will refuse it from a server: x509: certificate signed by unknown authority":                                                       {certPEM, keyPEM, otherPEM},
		"firn.yaml:1: cluster.tls.cert: got \"cert.pem\", want a usable PEM file: the other brokers will refuse it from a client: x509: certificate specifies an incompatible key usage":                                               {onlyServer, onlyServerKey, caPEM},
		"firn.yaml:1: cluster.tls.cert: got \"cert.pem\", want a usable PEM file: the other brokers will refuse it, since they reach this one as broker-1 (cluster.advertised): x509: certificate is valid for broker-2, not broker-1": {misnamed, misnamedKey, caPEM},
	} {
		_, err := load(t, files[0], files[1], files[2])
		require.EqualError(t, err, "configuration: "+want)
	}

	// Mutual: a client without a certificate of our authority is refused.
	require.NoError(t, handshake(t, ours, ours))
	stranger := ours.Clone()
	pair, err := tls.X509KeyPair(strangerPEM, strangerKeyPEM)
	require.NoError(t, err)
	stranger.Certificates = []tls.Certificate{pair}
	require.Error(t, handshake(t, ours, stranger))
	stranger.Certificates = nil
	require.Error(t, handshake(t, ours, stranger))
}

// Files that are replaced, as by a mount whose symbolic link moves, are read at the next
// handshake; what is wrong with them is said once, and the old ones stay in force.
func TestClusterTLSFollowsItsFiles(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	caPEM, _, ca := sign(t, "our authority", nil)
	version := func(name string) (cert []byte) {
		certPEM, keyPEM, _ := sign(t, "broker-1", ca, both...)
		require.NoError(t, os.Mkdir(name, 0o700))
		for file, text := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM, "ca.pem": caPEM} {
			require.NoError(t, os.WriteFile(name+"/"+file, text, 0o600))
		}
		return certPEM
	}
	file := write(t, "cluster.tls.cert: data/cert.pem\ncluster.tls.key: data/key.pem\ncluster.tls.ca: data/ca.pem\ncluster.advertised: broker-1:9094\n")
	pointAt := func(name string) {
		require.NoError(t, os.Symlink(name, "next"))
		require.NoError(t, os.Rename("next", "data"))
	}
	first, second := version("v1"), version("v2")
	pointAt("v1")
	c, err := Load(Source{File: file})
	require.NoError(t, err)
	var logged strings.Builder
	w, err := c.WatchClusterTLS(slog.New(slog.NewTextHandler(&logged, nil)))
	require.NoError(t, err)
	now := time.Now()
	w.now = func() time.Time { return now }
	shows := func(want []byte) {
		t.Helper()
		got := w.Config()
		require.NoError(t, handshake(t, got, got))
		require.Equal(t, string(want), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: got.Certificates[0].Certificate[0]})))
		require.Same(t, got, w.Config())
	}
	shows(first)
	pointAt("v2")
	shows(first) // not looked at within a second
	for range 3 {
		now = now.Add(tlsLook)
		shows(second)
	}
	require.Equal(t, 1, strings.Count(logged.String(), "read anew"), logged.String())

	require.NoError(t, os.WriteFile("v2/cert.pem", []byte("half of it"), 0o600))
	for range 3 {
		now = now.Add(tlsLook)
		shows(second)
	}
	require.NoError(t, os.Remove("data"))
	for range 3 {
		now = now.Add(tlsLook)
		shows(second)
	}
	require.Equal(t, 2, strings.Count(logged.String(), "the old ones stay in force"), logged.String())
	pointAt("v1")
	now = now.Add(tlsLook)
	shows(first)
	require.Equal(t, 2, strings.Count(logged.String(), "read anew"))
}

// When certificates end is told before they do: of the own one that is in force, and of
// the authority that vouches longest for it.
func TestClusterTLSEnds(t *testing.T) {
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	day := func(n int) time.Time { return time.Now().Add(time.Duration(n) * 24 * time.Hour).Truncate(time.Second) }
	put := func(certPEM, keyPEM, caPEM []byte) {
		for name, text := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM, "ca.pem": caPEM} {
			require.NoError(t, os.WriteFile(name, text, 0o600))
		}
	}
	oldPEM, _, old := signUntil(t, day(10), "our authority", nil)
	newPEM, _, _ := signUntil(t, day(3650), "another", nil)
	certPEM, keyPEM, _ := signUntil(t, day(5), "broker-1", old, both...)
	file := write(t, tlsFiles)
	put(certPEM, keyPEM, append(oldPEM, newPEM...))
	c, err := Load(Source{File: file})
	require.NoError(t, err)
	w, err := c.WatchClusterTLS(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	now := time.Now()
	w.now = func() time.Time { return now }
	own, above := w.NotAfter()
	require.WithinDuration(t, day(5), own, 2*time.Second)
	require.WithinDuration(t, day(10), above, 2*time.Second, "an authority that does not vouch for it does not count")

	certPEM, keyPEM, _ = signUntil(t, day(90), "broker-1", old, both...)
	put(certPEM, keyPEM, oldPEM)
	now = now.Add(tlsLook)
	own, above = w.NotAfter()
	require.WithinDuration(t, day(90), own, 2*time.Second)
	require.WithinDuration(t, day(10), above, 2*time.Second, "an authority may end before what it signed")
}

// handshake returns what the server says of the client, or the client of the server.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	client = client.Clone()
	client.ServerName = "broker-1"
	served := make(chan error, 1)
	go func() { served <- tls.Server(a, server).HandshakeContext(ctx) }()
	dialled := tls.Client(b, client)
	if err := dialled.HandshakeContext(ctx); err != nil {
		return err
	}
	go func() { _, _ = dialled.Read(make([]byte, 1)) }() // takes the server's alert or its tickets
	return <-served
}

// A key in the settings is never shown.
func TestGossipKeyIsSecret(t *testing.T) {
	const key = "AAECAwQFBgcICQoLDA0ODw"
	_, err := Load(Source{Env: []string{"FIRN_GOSSIP_KEY=" + key}})
	require.Error(t, err)
	require.False(t, strings.Contains(err.Error(), key))
}

// The way to a store may change; what it holds may not be left behind.
func TestStoreIdentity(t *testing.T) {
	for url, want := range map[string][2]string{
		"":                  {"data.dir", ""},
		"fs:///srv/objects": {"fs:/srv/objects", "fs:/srv/objects"},
		"mem:":              {"", ""},
		"s3://bbb/p?endpoint=http://h:1&region=x": {"bucket:bbb/p", "bucket:bbb/p"},
		"s3://bbb/p":               {"bucket:bbb/p", "bucket:bbb/p"},
		"minio://other:9000/bbb/p": {"bucket:bbb/p", "bucket:bbb/p"},
		"minio://other:9000/bbb":   {"bucket:bbb", "bucket:bbb"},
	} {
		text := "num.partitions: 1"
		if url != "" {
			text = "object.store.url: '" + url + "'"
		}
		c, err := Load(Source{File: write(t, text)})
		require.NoError(t, err, url)
		require.Equal(t, want, [2]string{c.StoreIdentity(), c.SharedStore()}, url)
	}
	c, err := Load(Source{File: write(t, "remote.log.storage.system.enable: false")})
	require.NoError(t, err)
	require.Empty(t, c.StoreIdentity())
}
