package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metadata/configdef"
)

// position is a place in a topic as a person writes it: "earliest", "latest",
// an offset, "-N" (N records before the end), a time, or an age such as "1h".
type position struct {
	kind  positionKind
	value int64 // offset, count before the end, or ms since 1970
}

type positionKind int8

const (
	atEarliest positionKind = iota
	atLatest
	atOffset
	beforeEnd
	atTime
)

const positionHelp = "earliest, latest, an offset, -N for N before the end, a time (2026-01-31, 2026-01-31T10:00:00Z) or an age (90s, 15m, 2h, 7d)"

var timeLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02"}

// parsePosition reads a place. Times without a zone are local, ages count back
// from now; "@" before a number makes it milliseconds since 1970.
func parsePosition(text string, now time.Time) (position, error) {
	switch text {
	case "earliest", "beginning", "start":
		return position{kind: atEarliest}, nil
	case "latest", "end":
		return position{kind: atLatest}, nil
	}
	if ms, ok := strings.CutPrefix(text, "@"); ok {
		if n, err := strconv.ParseInt(ms, 10, 64); err == nil && n >= 0 {
			return position{kind: atTime, value: n}, nil
		}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n < 0 {
			return position{kind: beforeEnd, value: -n}, nil
		}
		return position{kind: atOffset, value: n}, nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return position{kind: atTime, value: t.UnixMilli()}, nil
		}
	}
	if age, err := configdef.ParseAge(text); err == nil && age != configdef.Forever {
		return position{kind: atTime, value: max(now.UnixMilli()-age, 0)}, nil
	}
	return position{}, fmt.Errorf("%q is no place in a topic: write %s", text, positionHelp)
}

// bounds are the first offset and the end of each partition of a topic.
type bounds struct {
	start, end map[int32]int64
}

// readBounds asks for them. isolation decides which end counts.
func readBounds(ctx context.Context, admin *kadm.Client, topic string, committed bool) (bounds, error) {
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return bounds{}, fmt.Errorf("ask for the first offsets of %s: %w", topic, err)
	}
	listEnds := admin.ListEndOffsets
	if committed {
		listEnds = admin.ListCommittedOffsets
	}
	ends, err := listEnds(ctx, topic)
	if err != nil {
		return bounds{}, fmt.Errorf("ask for the end offsets of %s: %w", topic, err)
	}
	b := bounds{start: map[int32]int64{}, end: map[int32]int64{}}
	for _, side := range []struct {
		from kadm.ListedOffsets
		to   map[int32]int64
	}{{starts, b.start}, {ends, b.end}} {
		if len(side.from[topic]) == 0 {
			return bounds{}, refused("topic "+topic, kerr.UnknownTopicOrPartition, "")
		}
		for p, o := range side.from[topic] {
			if o.Err != nil {
				return bounds{}, refused(subjectOf(topic, p), o.Err, "")
			}
			side.to[p] = o.Offset
		}
	}
	return b, nil
}

func subjectOf(topic string, partition int32) string {
	if partition < 0 {
		return "topic " + topic
	}
	return fmt.Sprintf("topic %s partition %d", topic, partition)
}

// resolve turns a place into an offset of each partition, inside its bounds.
func (p position) resolve(ctx context.Context, admin *kadm.Client, topic string, b bounds) (map[int32]int64, error) {
	at := make(map[int32]int64, len(b.start))
	var byTime kadm.ListedOffsets
	if p.kind == atTime {
		var err error
		if byTime, err = admin.ListOffsetsAfterMilli(ctx, p.value, topic); err != nil {
			return nil, fmt.Errorf("ask %s for offsets by time: %w", topic, err)
		}
	}
	for part, start := range b.start {
		offset := start
		switch p.kind {
		case atEarliest:
		case atLatest:
			offset = b.end[part]
		case atOffset:
			offset = p.value
		case beforeEnd:
			offset = b.end[part] - p.value
		case atTime:
			found := byTime[topic][part]
			if found.Err != nil {
				return nil, refused(subjectOf(topic, part), found.Err, "")
			}
			if offset = found.Offset; offset < 0 { // no record so young
				offset = b.end[part]
			}
		}
		at[part] = min(max(offset, start), b.end[part])
	}
	return at, nil
}
