package producer

import (
	"encoding/binary"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares b with a file that earlier versions wrote.
func golden(t *testing.T, name string, b []byte) {
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, b, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, b)
}

func TestGoldenSnapshot(t *testing.T) {
	s := &State{}
	s.Apply(header(0, 7, 2, 10, 3, false), nil, 1700000000000)
	s.Apply(header(3, 7, 2, 13, 1, false), nil, 1700000000001)
	s.Apply(header(4, 9, 0, 0, 2, true), nil, 1700000000002)
	s.Apply(end(6, 11, 1), &record.EndTxnMarker{CoordinatorEpoch: 4}, 1700000000003)
	golden(t, "v1.snapshot", s.AppendSnapshot(nil, 7))
}

func TestGoldenTxnIndex(t *testing.T) {
	golden(t, "v1.txnindex", AppendTxnIndex(nil, []Aborted{{7, 10, 20, 15}, {8, 15, 30, 31}}))
}

// reseal fixes the checksum, so that the fuzzer reaches what lies behind it.
func reseal(b []byte) []byte {
	if len(b) < crcSize {
		return b
	}
	b = append([]byte(nil), b...)
	binary.BigEndian.PutUint32(b[len(b)-crcSize:], crc32.Checksum(b[:len(b)-crcSize], castagnoli))
	return b
}

func FuzzParseSnapshot(f *testing.F) {
	for seed := range uint64(3) {
		s, at := randomState(seed)
		f.Add(s.AppendSnapshot(nil, at))
	}
	f.Add((&State{}).AppendSnapshot(nil, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, reseal(b)} {
			s, at, err := ParseSnapshot(b)
			if err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
				continue
			}
			// What is accepted is whole: it means the same when written again, and
			// each open transaction can end.
			again, at2, err := ParseSnapshot(s.AppendSnapshot(nil, at))
			require.NoError(t, err)
			require.Equal(t, at, at2)
			require.Equal(t, s.Infos(), again.Infos())
			for i, p := range s.Infos() {
				_, ended := s.Apply(end(at+record.Offset(i), p.ProducerID, p.Epoch), &record.EndTxnMarker{}, 0)
				require.Equal(t, p.TxnStart != record.NoOffset, ended)
			}
			require.Equal(t, record.NoOffset, s.FirstOpen())
		}
	})
}

func FuzzParseTxnIndex(f *testing.F) {
	f.Add(AppendTxnIndex(nil, nil))
	f.Add(AppendTxnIndex(nil, []Aborted{{1, 2, 3, 4}, {5, 6, 7, 8}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, reseal(b)} {
			txns, err := ParseTxnIndex(b)
			if err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
				continue
			}
			again, err := ParseTxnIndex(AppendTxnIndex(nil, txns))
			require.NoError(t, err)
			require.Equal(t, txns, again)
		}
	})
}
