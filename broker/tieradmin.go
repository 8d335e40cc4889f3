package broker

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/reclaim"
)

func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// lag is how long ago t was, in seconds; 0 for no time.
func lag(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return time.Since(t).Seconds()
}

// tierStatus answers what is where, in sum.
func (b *Broker) tierStatus(w http.ResponseWriter, r *http.Request) {
	img := b.meta.Image()
	out := adminapi.TierStatus{ClusterID: img.ClusterID(), NodeID: b.cfg.ID, Enabled: b.tier != nil, Topics: []adminapi.TopicTiers{}}
	if t := b.tier; t != nil {
		out.Store = t.health.status()
		cs := t.cache.Stats()
		out.Cache = adminapi.CacheStatus{MemoryBytes: cs.MemoryBytes, MemoryLimit: b.cfg.CacheMemoryBytes,
			DiskBytes: cs.DiskBytes, DiskLimit: b.cfg.CacheDiskBytes,
			Hits: int64(cs.MemoryHits + cs.DiskHits), Misses: int64(cs.Misses)}
		as := t.archiver.Stats()
		out.PendingSegments, out.PendingBytes, out.UploadsRunning = as.LagSegments, as.LagBytes, as.InFlight
		if !as.Oldest.IsZero() {
			out.UploadLagMs = time.Since(as.Oldest).Milliseconds()
		}
		for o, err := range b.meta.PendingObjects(r.Context()) {
			if err != nil {
				writeError(w, http.StatusInternalServerError, err)
				return
			}
			if o.State == metadata.ObjectDeleting {
				out.PendingDeletes++
			}
		}
	}
	for topic := range img.Topics() {
		row, err := b.topicTiers(r, topic)
		if err != nil {
			writeError(w, http.StatusInternalServerError, err)
			return
		}
		if row.Partitions > 0 {
			out.Topics = append(out.Topics, row)
		}
	}
	writeJSON(w, http.StatusOK, out)
}

func (b *Broker) topicTiers(r *http.Request, topic *metadata.Topic) (adminapi.TopicTiers, error) {
	row := adminapi.TopicTiers{Topic: topic.Name}
	for n := range topic.Partitions {
		p := b.parts.Get(record.TopicPartition{Topic: topic.ID, Partition: n})
		if p == nil || p.State().Role != replica.Leader {
			continue
		}
		row.Partitions++
		row.Tiered, row.Ladder = p.Config().RemoteStorage, p.Config().Ladder().String()
		row.LocalBytes += p.Log().Size()
		if p.State().RemoteEnd > 0 {
			m, err := b.meta.Entries(r.Context(), p.TP())
			if err != nil {
				return row, fmt.Errorf("entries of %s-%d: %w", topic.Name, n, err)
			}
			row.RemoteBytes += m.LiveBytes()
			row.Objects += len(m.Live())
		}
		if b.tier == nil {
			continue
		}
		if st, ok := b.tier.archiver.Status(p.TP()); ok {
			row.PendingBytes += st.LagBytes
			if st.LagBytes > 0 && !st.Since.IsZero() {
				row.UploadLagMs = max(row.UploadLagMs, time.Since(st.Since).Milliseconds())
			}
		}
	}
	return row, nil
}

// askedTopic finds the topic that a request names.
func (b *Broker) askedTopic(r *http.Request) (*metadata.Topic, error) {
	name := r.URL.Query().Get("topic")
	if name == "" {
		return nil, errors.New("name a topic: ?topic=NAME")
	}
	t := b.meta.Image().TopicByName(name)
	if t == nil {
		return nil, fmt.Errorf("there is no topic %q", name)
	}
	return t, nil
}

// tierMap answers, offset by offset, where a topic's records are and why.
func (b *Broker) tierMap(w http.ResponseWriter, r *http.Request) {
	topic, err := b.askedTopic(r)
	if err != nil {
		writeError(w, http.StatusNotFound, err)
		return
	}
	only := int64(-1)
	if text := r.URL.Query().Get("partition"); text != "" {
		if only, err = strconv.ParseInt(text, 10, 32); err != nil || only < 0 || only >= int64(topic.Partitions) {
			writeError(w, http.StatusBadRequest, fmt.Errorf("partition %q: topic %s has the partitions 0 to %d", text, topic.Name, topic.Partitions-1))
			return
		}
	}
	out := adminapi.TierMap{Topic: topic.Name, TopicID: topic.ID.String(), PartitionCount: int(topic.Partitions), Partitions: []adminapi.PartitionMap{}}
	for n := range topic.Partitions {
		p := b.parts.Get(record.TopicPartition{Topic: topic.ID, Partition: n})
		if p == nil || (only >= 0 && int64(n) != only) {
			continue
		}
		out.Ladder = p.Config().Ladder().String()
		pm, err := b.partitionMap(r, p)
		if err != nil {
			writeError(w, http.StatusInternalServerError, err)
			return
		}
		out.Partitions = append(out.Partitions, pm)
	}
	writeJSON(w, http.StatusOK, out)
}

func (b *Broker) partitionMap(r *http.Request, p *partition.Partition) (adminapi.PartitionMap, error) {
	reasons, err := b.retention.Explain(r.Context(), tierLogs{b}.replica(p))
	if err != nil {
		return adminapi.PartitionMap{}, fmt.Errorf("explain %s-%d: %w", p.Topic(), p.TP().Partition, err)
	}
	// The offsets after the ranges: a log start that rises takes entries with it,
	// and with the one from before, the map would begin with a hole. What was
	// appended meanwhile is in the active segment, or behind it.
	if err := b.meta.Delivered(r.Context(), b.meta.Image().Index()); err != nil {
		return adminapi.PartitionMap{}, fmt.Errorf("wait for the metadata: %w", err)
	}
	st := p.State()
	pm := adminapi.PartitionMap{Partition: p.TP().Partition, Leader: st.Leader, LogStart: int64(st.LogStart), LocalStart: int64(st.LocalStart),
		RemoteEnd: int64(st.RemoteEnd), LastStable: int64(st.LastStable), HighWatermark: int64(st.HighWatermark), LogEnd: int64(st.LogEnd),
		Ranges: []adminapi.Range{}}
	for _, x := range reasons {
		rg := adminapi.Range{Start: int64(x.Start), End: int64(x.End), Bytes: x.Bytes}
		if x.Code == reclaim.Active {
			rg.End = pm.LogEnd
		}
		if x.Remote {
			rg.InBucket, rg.Tier, rg.Object = true, storeName, b.tier.layout.Object(x.Object)
			rg.CachedBytes = b.tier.cache.ObjectBytes(x.Object)
		} else {
			rg.OnDisk = true
			rg.Why, rg.Detail = b.whyLocal(p, st, x)
			rg.UntilMs = ms(x.Until)
		}
		pm.Ranges = append(pm.Ranges, rg)
	}
	slices.SortStableFunc(pm.Ranges, func(a, c adminapi.Range) int {
		return cmp.Or(cmp.Compare(a.Start, c.Start), cmp.Compare(a.End, c.End))
	})
	return pm, nil
}

// whyLocal says why a local segment is still on disk, with what retention does
// not know: the state of its copy.
func (b *Broker) whyLocal(p *partition.Partition, st partition.State, x reclaim.Reason) (adminapi.Reason, string) {
	cfg := p.Config()
	switch x.Code {
	case reclaim.Active:
		return adminapi.ReasonActive, ""
	case reclaim.Uncommitted:
		return adminapi.ReasonNotCommitted, ""
	case reclaim.NotCopied:
		return b.whyNotCopied(p, st, x)
	default: // retention's own reasons, told below
	}
	if !cfg.RemoteStorage {
		return adminapi.ReasonNotTiered, x.Text
	}
	if x.Code == reclaim.Due || x.Code == reclaim.BelowLogStart {
		return adminapi.ReasonDue, strings.TrimSuffix(x.Text, "; goes with the next pass") // the reason says so
	}
	return adminapi.ReasonLocalRetention, x.Text
}

func (b *Broker) whyNotCopied(p *partition.Partition, st partition.State, x reclaim.Reason) (adminapi.Reason, string) {
	if p.Config().RemoteCopyDisable {
		return adminapi.ReasonCopyDisabled, ""
	}
	copying, ok := b.tier.archiver.Status(p.TP())
	switch {
	case !ok:
		return adminapi.ReasonQueued, ""
	case copying.Err != nil && copying.Phase == archive.Idle:
		return adminapi.ReasonStoreDown, copying.Err.Error()
	case copying.Phase != archive.Idle && x.Start < copying.End && x.End > max(copying.Start, st.RemoteEnd):
		return adminapi.ReasonUploading, copying.Phase.String()
	}
	return adminapi.ReasonQueued, ""
}

// tierVerify reads every object of a topic, or of all, back and holds it against
// the metadata, reporting as it goes.
func (b *Broker) tierVerify(w http.ResponseWriter, r *http.Request) {
	if b.tier == nil {
		writeError(w, http.StatusBadRequest, errors.New("this broker has no object store: set remote.log.storage.system.enable=true and object.store.url"))
		return
	}
	opts := reclaim.CheckOptions{Metadata: reclaim.FromClient(b.meta), Stores: map[string]objstore.Store{storeName: b.tier.store},
		Layout: b.tier.layout, Deep: true}
	if r.URL.Query().Get("topic") != "" {
		topic, err := b.askedTopic(r)
		if err != nil {
			writeError(w, http.StatusNotFound, err)
			return
		}
		for n := range topic.Partitions {
			opts.Partitions = append(opts.Partitions, record.TopicPartition{Topic: topic.ID, Partition: n})
		}
	}
	total, err := b.liveObjects(r, opts.Partitions)
	if err != nil {
		writeError(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	flush, _ := w.(http.Flusher)
	send := func(e adminapi.VerifyEvent) {
		_ = enc.Encode(e) // a client that has gone ends the request's context
		if flush != nil {
			flush.Flush()
		}
	}
	last := adminapi.VerifyEvent{Total: total}
	opts.Progress = func(objects int, bytes int64) {
		last.Done, last.DoneBytes = objects, bytes
		send(last)
	}
	report, err := reclaim.Check(r.Context(), opts)
	for _, f := range report.Findings {
		e := last
		e.Object, e.Topic, e.Partition = b.tier.layout.Object(f.Object), topicName(b.meta.Image(), f.Partition), f.Partition.Partition
		e.Start, e.End, e.Problem = int64(f.Start), int64(f.End), f.Err.Error()
		send(e)
	}
	last.Done, last.DoneBytes, last.Finished = report.Objects, report.Bytes, true
	if err != nil {
		last.Problem = "the check was cut short: " + err.Error()
	}
	send(last)
}

func topicName(img *metadata.Image, tp record.TopicPartition) string {
	if t := img.Topic(tp.Topic); t != nil {
		return t.Name
	}
	return tp.Topic.String()
}

// liveObjects counts what a check will look at.
func (b *Broker) liveObjects(r *http.Request, only []record.TopicPartition) (int, error) {
	if only == nil {
		for tp := range b.meta.Image().AllPartitions() {
			only = append(only, tp)
		}
	}
	n := 0
	for _, tp := range only {
		m, err := b.meta.Entries(r.Context(), tp)
		if err != nil {
			return 0, fmt.Errorf("entries of %s: %w", tp, err)
		}
		n += len(m.Live())
	}
	return n, nil
}
