package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

var testHello = hello{what: helloRefuses, kind: KindKafka, reason: "other cluster",
	peer: Peer{NodeID: -1, DirectoryID: uuid.MustParse("6f1a6b0e-8a52-4f0e-9b5c-0d2f3a4b5c6d"), ClusterID: testCluster, Version: "1.2.3", Addr: "host:9094"}}

func TestHelloReadsBack(t *testing.T) {
	b := encodeHello(testHello)
	r := bytes.NewReader(append(b, "what follows"...))
	got, err := readHello(r)
	require.NoError(t, err)
	require.Equal(t, testHello, got)
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "what follows", string(rest), "the hello took bytes that are not its own")

	for n := range len(b) {
		_, err := readHello(bytes.NewReader(b[:n]))
		require.ErrorIs(t, err, errHello, "cut to %d bytes", n)
	}
}

func TestHelloOfLaterVersionIsRead(t *testing.T) {
	b := encodeHello(testHello)
	binary.BigEndian.PutUint16(b[8:], helloVersion+1)
	b = append(b, "a field of later"...)
	binary.BigEndian.PutUint16(b[helloFixed-2:], uint16(len(b)-helloFixed))
	got, err := readHello(bytes.NewReader(b))
	require.NoError(t, err)
	require.Equal(t, testHello, got)
}

func TestHelloLongReasonIsCutAtARune(t *testing.T) {
	h := testHello
	h.reason = strings.Repeat("ü", 200)
	got, err := readHello(bytes.NewReader(encodeHello(h)))
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("ü", maxText/2), got.reason)
}

func FuzzHello(f *testing.F) {
	f.Add(encodeHello(testHello))
	f.Add(encodeHello(hello{what: helloOpens, kind: KindRaft}))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte(helloMagic + "\x00\x01\x00\x01\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, errHello) {
				t.Fatalf("not a typed error: %v", err)
			}
			return
		}
		for _, s := range []string{h.peer.ClusterID, h.peer.Version, h.peer.Addr, h.reason} {
			if !utf8.ValidString(s) || len(s) > maxText {
				t.Fatalf("bad text %q", s)
			}
		}
		again, err := readHello(bytes.NewReader(encodeHello(h)))
		if err != nil || again != h {
			t.Fatalf("%v read back as %v: %v", h, again, err)
		}
	})
}
