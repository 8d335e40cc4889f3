package record

// FilterOptions say how compaction rebuilds a batch.
type FilterOptions struct {
	// KeepEmpty leaves a batch without records where none is kept: the last
	// batch of a producer carries its sequence (Kafka's RETAIN_EMPTY).
	KeepEmpty bool
	// SetHorizon stamps DeleteHorizon, in milliseconds, on a batch that has
	// none and keeps a record (KIP-534).
	SetHorizon    bool
	DeleteHorizon int64
}

// FilterStats counts what Filter did. Bytes are those appended.
type FilterStats struct {
	Kept, Dropped int
	Bytes         int
}

// Filter appends to dst the batch with those records for which keep returns
// true. Base offset, last offset, leader epoch, producer fields, codec and
// other attributes stay; offsets of the kept records too. A batch that need
// not change is appended as it is. Errors are those of Records, or of keep.
func (b *Batch) Filter(dst []byte, o FilterOptions, keep func(*Record) (bool, error)) ([]byte, FilterStats, error) {
	h := b.Header
	stamp := o.SetHorizon && !h.HasDeleteHorizon()
	if stamp {
		h.Attributes |= attrDeleteHorizon
		h.BaseTimestamp = o.DeleteHorizon
	}

	var (
		stats   FilterStats
		records []byte
		latest  int64
		keepErr error // apart, so that even ErrStop cannot cut the batch short
	)
	err := b.Records(func(r *Record) error {
		var ok bool
		if ok, keepErr = keep(r); keepErr != nil {
			return keepErr
		}
		if !ok {
			stats.Dropped++
			return nil
		}
		if stats.Kept == 0 || r.Timestamp > latest {
			latest = r.Timestamp
		}
		stats.Kept++
		records = appendRecord(records, r.Timestamp-h.BaseTimestamp, int32(r.Offset-h.BaseOffset), r)
		return nil
	})
	if keepErr != nil {
		return dst, FilterStats{}, keepErr
	}
	if err != nil {
		return dst, FilterStats{}, err
	}

	var raw []byte
	switch {
	case stats.Kept == 0 && !o.KeepEmpty:
		return dst, stats, nil
	case stats.Kept == 0:
		raw = b.emptied()
	case stats.Dropped == 0 && !stamp:
		raw = b.Raw
	default:
		h.NumRecords = int32(stats.Kept)
		if !h.IsLogAppendTime() {
			h.MaxTimestamp = latest
		}
		if raw, err = encodeBatch(h, records, 0); err != nil {
			return dst, FilterStats{}, err
		}
	}
	stats.Bytes = len(raw)
	return append(dst, raw...), stats, nil
}

// emptied returns the header of b as a batch of no record and no codec.
func (b *Batch) emptied() []byte {
	e := Batch{Header: b.Header, Raw: make([]byte, HeaderSize)}
	e.Attributes &^= codecMask | attrDeleteHorizon
	e.BaseTimestamp = e.MaxTimestamp
	e.NumRecords = 0
	e.seal()
	return e.Raw
}
