package object

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// FuzzOpen gives arbitrary objects to Open. The fuzzer cannot guess CRCs, so
// those of the trailer, directory and sections are put right first.
func FuzzOpen(f *testing.F) {
	for i := range 3 {
		l := randomLog(rand.New(rand.NewPCG(uint64(i), 0)), i, 10, 30)
		b, err := Build(f.Context(), l.src, testMeta())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(readAll(f, b))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		repair(data)
		rd, _, err := openData(data, nil)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("unnamed failure: %v", err)
			}
			return
		}
		ft := rd.Footer()
		if ft.Memory() > 100*int64(len(data))+10_000 {
			t.Fatalf("%d bytes became a footer of %d", len(data), ft.Memory())
		}
		for run := range ft.Runs {
			ft.FindOffset(run, ft.Runs[run].Start)
			ft.FindTime(run, 0, 0)
		}
		if _, err := allChunks(rd); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatalf("unnamed failure: %v", err)
		}
	})
}

// repair computes the checksums anew as far as the structure allows.
func repair(data []byte) {
	n := len(data)
	if n < headerSize+trailerSize {
		return
	}
	be, tr := binary.BigEndian, data[n-trailerSize:]
	dirPos, dirLen := int64(be.Uint64(tr[8:])), int64(be.Uint32(tr[16:]))
	if dirPos >= 0 && dirPos <= int64(n) && dirLen <= int64(n)-dirPos {
		dir := data[dirPos : dirPos+dirLen]
		for e := dir; len(e) >= dirEntrySize; e = e[dirEntrySize:] {
			pos, l := int64(be.Uint64(e[4:])), int64(be.Uint64(e[12:]))
			if pos >= 0 && l >= 0 && pos <= int64(n) && l <= int64(n)-pos {
				be.PutUint32(e[20:], crcOf(data[pos:pos+l]))
			}
		}
		be.PutUint32(tr[20:], crcOf(dir))
	}
	be.PutUint32(tr[52:], crcOf(tr[:52]))
	copy(tr[56:], trailerMagic[:])
}

// FuzzSections gives arbitrary bytes to the parser of each section.
func FuzzSections(f *testing.F) {
	l := randomLog(rand.New(rand.NewPCG(1, 0)), 2, 10, 30)
	b, err := Build(f.Context(), l.src, testMeta())
	if err != nil {
		f.Fatal(err)
	}
	runs := b.Footer().Runs
	f.Add(uint8(0), appendRuns(nil, runs))
	f.Add(uint8(1), appendChunks(nil, b.Footer().Chunks))
	f.Add(uint8(2), appendAborted(nil, runs))
	f.Add(uint8(3), appendEpochs(nil, runs))
	f.Add(uint8(4), appendProducers(nil, [][]byte{{1}, {2, 3}}))
	f.Add(uint8(5), appendTopics(nil, runs))
	f.Add(uint8(6), appendProvenance(nil, &Provenance{ClusterID: "c"}, runs))
	f.Add(uint8(7), appendKeys(nil, []keySlot{{ID: "k"}}))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		runs := make([]Run, 2)
		runs[0].Chunks = len(b.Footer().Chunks)
		runs[1].FirstChunk = runs[0].Chunks
		var err error
		switch which % 8 {
		case 0:
			_, err = parseRuns(data)
		case 1:
			_, err = parseChunks(data, runs, 1, b.Footer().Position)
		case 2:
			err = parseAborted(data, runs)
		case 3:
			err = parseEpochs(data, runs)
		case 4:
			_, err = parseProducers(data, 2)
		case 5:
			err = parseTopics(data, runs)
		case 6:
			err = parseProvenance(data, &Provenance{}, runs)
		case 7:
			_, err = parseKeys(data)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("unnamed failure: %v", err)
		}
	})
}
