package wire

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// selfSigned returns configurations of a server and of a client that trusts it.
func selfSigned(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "firn"},
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
}

func startTLS(t testing.TB, h handlerFunc) (ts *testServer, dial func() *client) {
	t.Helper()
	serverConfig, clientConfig := selfSigned(t)
	ts = start(t, h, func(o *Options) { o.Listeners[0].TLS = serverConfig })
	return ts, func() *client {
		t.Helper()
		c := ts.dial()
		session := tls.Client(c.nc, clientConfig)
		require.NoError(t, session.Handshake())
		c.nc = session
		return c
	}
}

// memFile is a file without a descriptor.
type memFile struct{ *bytes.Reader }

func (memFile) Fd() uintptr { return ^uintptr(0) }

// randomFile returns a file's content and the file, opened once for all.
func randomFile(t testing.TB, size int) ([]byte, *os.File) {
	t.Helper()
	content := make([]byte, size)
	_, err := rand.Read(content)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "segment")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return content, f
}

// Answers made of bytes and file ranges arrive as they should: by sendfile, by
// TLS, from files without a descriptor, and concurrently from one descriptor.
func TestRawAnswers(t *testing.T) {
	const fileSize = 8 << 20
	content, file := randomFile(t, fileSize)
	var files atomic.Int64
	var released atomic.Int64
	// The request's group name says what to send: "seed".
	plan := func(seed uint64) (sections []Section, want []byte) {
		rng := mathrand.New(mathrand.NewPCG(seed, 0))
		for range rng.IntN(80) {
			if rng.IntN(2) == 0 {
				b := content[:rng.IntN(2000)]
				sections = append(sections, Section{Bytes: b})
				want = append(want, b...)
				continue
			}
			n := rng.Int64N(200_000)
			if rng.IntN(20) == 0 {
				n = rng.Int64N(3 << 20)
			}
			off := rng.Int64N(fileSize - n)
			r := FileRange{File: file, Off: off, Len: n}
			if rng.IntN(3) == 0 {
				r.File = memFile{bytes.NewReader(content)}
			}
			files.Add(1)
			sections = append(sections, Section{Range: r})
			want = append(want, content[off:off+n]...)
		}
		return sections, want
	}
	handler := func(r *Request) {
		seed, err := strconv.ParseUint(strings.TrimSpace(groupOf(r)), 10, 64)
		if err != nil {
			r.CloseConn(err)
			return
		}
		answer := func() {
			sections, _ := plan(seed)
			r.ReplyRaw(&Payload{Sections: sections, Release: func() { released.Add(1) }})
		}
		if seed%2 == 0 {
			answer()
			return
		}
		go answer()
	}
	run := func(t *testing.T, dial func() *client) {
		released.Store(0)
		const clients, requests = 4, 12
		var wg sync.WaitGroup
		for k := range clients {
			c := dial()
			wg.Go(func() {
				for i := range requests {
					c.corr = int32(i)
					if _, err := c.nc.Write(frame(int32(i), heartbeat(strconv.Itoa(k*1000+i)))); err != nil {
						t.Error(err)
						return
					}
				}
				for i := range requests {
					_, want := plan(uint64(k*1000 + i))
					got, err := c.readFrame()
					if err != nil || !bytes.Equal(got[5:], want) {
						t.Errorf("client %d, answer %d: %d bytes for %d, %v", k, i, len(got)-5, len(want), err)
						return
					}
				}
			})
		}
		wg.Wait()
		poll(t, "payloads released", func() bool { return released.Load() == clients*requests })
	}
	t.Run("plaintext", func(t *testing.T) { run(t, start(t, handler, nil).dial) })
	t.Run("tls", func(t *testing.T) {
		_, dial := startTLS(t, handler)
		run(t, dial)
	})
	require.Positive(t, files.Load())
}

// A file that is shorter than its range ends the connection: the length of the
// frame was promised already.
func TestTruncatedFileClosesConnection(t *testing.T) {
	_, file := randomFile(t, 100_000)
	released := make(chan struct{}, 2)
	handler := func(r *Request) {
		r.ReplyRaw(&Payload{
			Sections: []Section{{Bytes: []byte("head")}, {Range: FileRange{File: file, Off: 50_000, Len: 60_000}}},
			Release:  func() { released <- struct{}{} },
		})
	}
	run := func(t *testing.T, ts *testServer, c *client) {
		c.send(heartbeat("a"))
		_, err := c.readFrame()
		require.Error(t, err)
		<-released
		ts.eventually(func(s Stats) bool { return s.Closed["truncated"] == 1 })
	}
	t.Run("plaintext", func(t *testing.T) {
		ts := start(t, handler, nil)
		run(t, ts, ts.dial())
	})
	t.Run("tls", func(t *testing.T) {
		ts, dial := startTLS(t, handler)
		run(t, ts, dial())
	})
}

func TestAnswerTooLargeForAFrameCloses(t *testing.T) {
	released := make(chan struct{})
	ts := start(t, func(r *Request) {
		r.ReplyRaw(&Payload{
			Sections: []Section{{Range: FileRange{File: memFile{}, Len: 1 << 31}}},
			Release:  func() { close(released) },
		})
	}, nil)
	c := ts.dial()
	c.send(heartbeat("a"))
	c.closed()
	<-released
	ts.eventually(func(s Stats) bool { return s.Closed["handler"] == 1 })
}

func TestTLS(t *testing.T) {
	held := make(chan *Request, 100)
	ts, dial := startTLS(t, func(r *Request) {
		if groupOf(r) == "hold" {
			held <- r
			return
		}
		if r.Conn.TLS() == nil || !r.Conn.TLS().HandshakeComplete {
			r.CloseConn(os.ErrInvalid)
			return
		}
		answerHeartbeat(r)
	})
	c := dial()
	for i := range 20 {
		c.receive(c.send(heartbeat(strings.Repeat("g", i*1500))), heartbeatAnswer(0))
	}
	// A long poll notices that the client went away.
	d := dial()
	d.send(heartbeat("hold"))
	r := <-held
	ctx := r.Context()
	require.NoError(t, d.nc.Close())
	<-ctx.Done()
	answerHeartbeat(r)

	// An orderly end is told from a cut.
	e := dial()
	e.write([]byte{0, 0, 0, 9, 0, 99, 0, 0, 0})
	_, err := e.nc.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)

	// Kafka frames where TLS is spoken.
	plain := ts.dial()
	plain.write(frame(1, heartbeat("g")))
	ts.eventually(func(s Stats) bool { return s.Closed["tls"] == 1 })

	// A handshake that never comes does not hold up a shutdown.
	ts.dial()
	ts.eventually(func(s Stats) bool { return s.Connections == 2 })
	require.NoError(t, ts.Shutdown(context.Background()))
}

func TestHandshakeTimeout(t *testing.T) {
	serverConfig, _ := selfSigned(t)
	ts := start(t, answerHeartbeat, func(o *Options) {
		o.Listeners[0].TLS = serverConfig
		o.HandshakeTimeout = 20 * time.Millisecond
	})
	ts.dial()
	ts.eventually(func(s Stats) bool { return s.Closed["tls"] == 1 })
}
