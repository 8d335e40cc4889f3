package fsm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
)

func known(err error) bool {
	return errors.Is(err, command.ErrCorrupt) || errors.Is(err, command.ErrUnknownVersion)
}

// FuzzValue decodes any bytes as each stored value: a typed error or a value that
// encodes and decodes to itself.
func FuzzValue(f *testing.F) {
	for _, g := range goldenValues() {
		b, err := encodeValue(g.msg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte{valueVersion + 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range messages {
			msg := m.make()
			if err := decodeValue(b, msg); err != nil {
				if !known(err) {
					t.Fatalf("%T: %v", msg, err)
				}
				continue
			}
			again, err := encodeValue(msg)
			if err != nil {
				t.Fatal(err)
			}
			copied := m.make()
			if err := decodeValue(again, copied); err != nil || !proto.Equal(msg, copied) {
				t.Fatalf("%T: %v: does not survive encoding", msg, err)
			}
			checkConversions(t, msg)
		}
	})
}

func checkConversions(t *testing.T, msg proto.Message) {
	var err error
	switch m := msg.(type) {
	case *statepb.Topic:
		_, err = topicFromProto([16]byte{1}, m)
	case *statepb.Broker:
		_, err = brokerFromProto(1, m)
	case *statepb.Object:
		_, err = objectFromProto([16]byte{1}, m)
	case *statepb.Entry:
		_, err = entryFromProto(0, m)
	case *statepb.Request:
		_, err = outcomeFromProto(m)
	}
	if err != nil && !known(err) {
		t.Fatalf("%T: %v", msg, err)
	}
}

// FuzzSnapshot reads any bytes as a snapshot: a typed error, or pairs that are
// written back as a snapshot of the same pairs. Restore takes neither for a state
// that it is not.
func FuzzSnapshot(f *testing.F) {
	fsm := openFSM(f, vfs.NewMem(), nil)
	_, next := begin(f, fsm)
	fsm.ApplyBatch([]Entry{encode(f, next, &command.CreateTopics{Topics: []command.NewTopic{newTopic("a", 3)}})})
	snap, err := fsm.Snapshot()
	require.NoError(f, err)
	var stream bytes.Buffer
	_, err = snap.WriteTo(&stream)
	require.NoError(f, err)
	require.NoError(f, snap.Release())
	require.NoError(f, fsm.Close())
	f.Add(stream.Bytes())
	f.Add(stream.Bytes()[:40])
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		var pairs int
		size := 0
		_, err := ReadSnapshot(bytes.NewReader(b), func(k, v []byte) error {
			pairs++
			size += len(k) + len(v)
			return nil
		})
		if err != nil && !known(err) {
			t.Fatal(err)
		}
		if size > len(b) {
			t.Fatalf("%d bytes out of %d", size, len(b))
		}
		target, oerr := Open(Options{FS: vfs.NewMem(), Dir: "state"})
		require.NoError(t, oerr)
		rerr := target.Restore(bytes.NewReader(b))
		if err != nil && rerr == nil {
			t.Fatal("restored a corrupt snapshot")
		}
		require.NoError(t, target.Close())
	})
}
