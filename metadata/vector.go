package metadata

// chunkLen is the number of partitions that one change copies: with ten thousand
// partitions a change copies 64 pointers and a spine of 157 slices.
const chunkLen = 64

// partVector is an immutable vector of partitions in chunks.
//
// INVARIANT: every chunk but the last is full.
type partVector struct {
	chunks [][]*Partition
}

func (v partVector) len() int32 {
	if len(v.chunks) == 0 {
		return 0
	}
	last := len(v.chunks) - 1
	return int32(last*chunkLen + len(v.chunks[last]))
}

// get returns nil outside the vector.
func (v partVector) get(i int32) *Partition {
	if i < 0 || i >= v.len() {
		return nil
	}
	return v.chunks[i/chunkLen][i%chunkLen]
}

func (v partVector) each(yield func(int32, *Partition) bool) {
	for c, chunk := range v.chunks {
		for i, p := range chunk {
			if !yield(int32(c*chunkLen+i), p) {
				return
			}
		}
	}
}

// vectorEdit changes a private copy of a vector: the spine is copied at once, a
// chunk when it is first written.
type vectorEdit struct {
	vec   partVector
	owned map[int32]bool
}

func (v partVector) edit() *vectorEdit {
	return &vectorEdit{vec: partVector{chunks: append([][]*Partition(nil), v.chunks...)}, owned: map[int32]bool{}}
}

// set replaces partition i, or appends it.
//
// REQUIRES: 0 ≤ i ≤ len.
func (e *vectorEdit) set(i int32, p *Partition) {
	c := i / chunkLen
	if int(c) == len(e.vec.chunks) {
		e.vec.chunks = append(e.vec.chunks, make([]*Partition, 0, chunkLen))
		e.owned[c] = true
	}
	if !e.owned[c] {
		chunk := make([]*Partition, len(e.vec.chunks[c]), chunkLen)
		copy(chunk, e.vec.chunks[c])
		e.vec.chunks[c] = chunk
		e.owned[c] = true
	}
	if at := int(i % chunkLen); at == len(e.vec.chunks[c]) {
		e.vec.chunks[c] = append(e.vec.chunks[c], p)
	} else {
		e.vec.chunks[c][at] = p
	}
}
