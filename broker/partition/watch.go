package partition

import "slices"

// Watcher is told when there may be more to read, or when the partition's
// leadership changed. Moved must not block. It is called off the partition's
// lock, after what it tells of has happened, and may watch and unwatch.
type Watcher interface{ Moved() }

// Marker is a Watcher that is told twice: by Mark before the appends that moved
// the partition are answered, so that whoever was acked finds its records, and by
// Moved after, where the work is done. Mark only takes note.
type Marker interface {
	Watcher
	Mark()
}

// Watch registers a watcher of what clients may read: it is told when the
// watermark, and with it perhaps the last stable offset, has moved, when the
// log has failed, and of each change of the assignment. It stays until Unwatch.
func (p *Partition) Watch(w Watcher) {
	p.mu.Lock()
	p.watch.readers = append(p.watch.readers, w)
	p.mu.Unlock()
}

// WatchEnd registers a watcher that reads to the log's end, as followers do: it
// is told of appends too.
func (p *Partition) WatchEnd(w Watcher) {
	p.mu.Lock()
	p.watch.followers = append(p.watch.followers, w)
	p.mu.Unlock()
}

// Unwatch forgets a watcher. It may be told once more by a delivery that is
// under way.
func (p *Partition) Unwatch(w Watcher) {
	p.mu.Lock()
	if !drop(&p.watch.readers, w) {
		drop(&p.watch.followers, w)
	}
	p.mu.Unlock()
}

// drop takes one entry for w out of a list without order.
func drop(from *[]Watcher, w Watcher) bool {
	list := *from
	i := slices.Index(list, w)
	if i < 0 {
		return false
	}
	last := len(list) - 1
	list[i], list[last] = list[last], nil
	*from = list[:last]
	if last == 0 {
		*from = nil // an idle partition holds nothing
	}
	return true
}

// watchList is who watches a partition and what they are to be told. It is
// guarded by Partition.mu.
type watchList struct {
	readers, followers []Watcher
	moved              bool // all are to be told
	grown              bool // the followers are
	// told is the array of the last delivery, used again: appends to a partition
	// that is watched should not allocate for it.
	told []Watcher
}

// movedLocked: the watermark, the assignment or the log's health changed.
func (l *watchList) movedLocked() {
	l.moved = l.moved || len(l.readers)+len(l.followers) > 0
}

// grownLocked: the log has a new end.
func (l *watchList) grownLocked() { l.grown = l.grown || len(l.followers) > 0 }

func (l *watchList) dueLocked() bool { return l.moved || l.grown }

// takeLocked returns those to be told now; the deliverer gives the list back by
// toldLocked. One delivers at a time.
func (l *watchList) takeLocked() []Watcher {
	if !l.dueLocked() {
		return nil
	}
	out := l.told[:0]
	l.told = nil
	if l.moved {
		out = append(out, l.readers...)
	}
	out = append(out, l.followers...)
	l.moved, l.grown = false, false
	return out
}

func (l *watchList) toldLocked(out []Watcher) {
	clear(out)
	if out != nil && cap(out) <= maxScratch {
		l.told = out[:0]
	}
}
