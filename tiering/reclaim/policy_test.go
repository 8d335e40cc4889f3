package reclaim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/reclaim"
)

const now = int64(1_000_000)

func at(ms int64) time.Time { return time.UnixMilli(ms) }

// tiered is a partition of six segments of ten records and 100 bytes, whose
// newest records are 600, 500, … 100 ms old; three are in the bucket, and the
// first one only there.
func tiered() reclaim.State {
	s := reclaim.State{RemoteEnd: 30, Stable: 60, ClockTrusted: true}
	for i := range int64(6) {
		ts := now - 600 + 100*i
		if i < 3 {
			s.Remote = append(s.Remote, manifest.Entry{Start: record.Offset(10 * i), End: record.Offset(10*i + 10), Bytes: 100,
				MaxTimestamp: ts, Object: uuid.UUID{15: byte(i + 1)}})
		}
		if i > 0 {
			s.Local = append(s.Local, reclaim.Segment{Base: record.Offset(10 * i), End: record.Offset(10*i + 10), Bytes: 100, MaxTimestamp: ts, Sealed: i < 5})
		}
	}
	return s
}

func TestDecide(t *testing.T) {
	const no = reclaim.Unlimited
	for _, c := range []struct {
		name     string
		policy   reclaim.Policy
		change   func(*reclaim.State)
		logStart record.Offset
		local    record.Offset
		roll     bool
	}{
		{"nothing bounds", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 0, 10, false},
		{"total age takes a remote segment", reclaim.Policy{Delete: true, TotalMs: 550, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 10, 10, false},
		{"exactly as old as the bound stays", reclaim.Policy{Delete: true, TotalMs: 600, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 0, 10, false},
		{"total age takes local ones with it", reclaim.Policy{Delete: true, TotalMs: 250, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 40, 40, false},
		{"total age reaches the active one: roll it", reclaim.Policy{Delete: true, TotalMs: 50, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 50, 50, true},
		{"total size counts each record once", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: 500, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 10, 10, false},
		{"total size, one byte more", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: 501, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 0, 10, false},
		{"total size never takes the active one", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: 0, Tiered: true, LocalMs: no, LocalBytes: no}, nil, 50, 50, false},
		{"local age ends at the remote end", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: no, Tiered: true, LocalMs: 0, LocalBytes: no}, nil, 0, 30, false},
		{"local age", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: no, Tiered: true, LocalMs: 450, LocalBytes: no}, nil, 0, 20, false},
		{"local size", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: 400}, nil, 0, 20, false},
		{"local size ends at the remote end", reclaim.Policy{Delete: true, TotalMs: no, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: 0}, nil, 0, 30, false},
		{"compacted only", reclaim.Policy{TotalMs: 0, TotalBytes: 0, Tiered: true, LocalMs: 0, LocalBytes: 0}, nil, 0, 10, false},
		{"nothing above the stable end", reclaim.Policy{Delete: true, TotalMs: 0, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no},
			func(s *reclaim.State) { s.Stable = 45 }, 40, 40, false},
		{"a clock in doubt deletes nothing by age", reclaim.Policy{Delete: true, TotalMs: 0, TotalBytes: no, Tiered: true, LocalMs: 0, LocalBytes: no},
			func(s *reclaim.State) { s.ClockTrusted = false }, 0, 10, false},
		{"a clock in doubt deletes by size", reclaim.Policy{Delete: true, TotalMs: 0, TotalBytes: 300, Tiered: true, LocalMs: 0, LocalBytes: no},
			func(s *reclaim.State) { s.ClockTrusted = false }, 30, 30, false},
		{"a young segment protects those after it", reclaim.Policy{Delete: true, TotalMs: 250, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no},
			func(s *reclaim.State) { s.Remote[1].MaxTimestamp = now }, 10, 10, false},
		{"a log start of others trims", reclaim.Policy{TotalMs: no, TotalBytes: no, LocalMs: no, LocalBytes: no},
			func(s *reclaim.State) { s.LogStart = 42; s.Remote = nil; s.RemoteEnd = 0 }, 42, 40, false},
		{"not tiered: only the log start trims", reclaim.Policy{Delete: true, TotalMs: 250, TotalBytes: no, LocalMs: 0, LocalBytes: 0},
			func(s *reclaim.State) { s.Remote = nil; s.RemoteEnd = 0; s.LogStart = 10 }, 40, 40, false},
		{"tiering was switched off: the bucket's part still ages", reclaim.Policy{Delete: true, TotalMs: 550, TotalBytes: no, LocalMs: 0, LocalBytes: 0}, nil, 10, 10, false},
		{"no timestamp is never too old", reclaim.Policy{Delete: true, TotalMs: 0, TotalBytes: no, Tiered: true, LocalMs: no, LocalBytes: no},
			func(s *reclaim.State) { s.Remote[0].MaxTimestamp = -1 }, 0, 10, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := tiered()
			if c.change != nil {
				c.change(&s)
			}
			d := reclaim.Decide(at(now), c.policy, s)
			require.Equal(t, c.logStart, d.LogStart, "log start")
			require.Equal(t, c.local, d.LocalStart, "local start")
			require.Equal(t, c.roll, d.Roll, "roll")
		})
	}
}

// drawState draws any partition that can be.
func drawState(t *rapid.T) (reclaim.Policy, reclaim.State) {
	bound := rapid.SampledFrom([]int64{-1, 0, 1, 50, 100, 300, 1000})
	p := reclaim.Policy{
		Delete: rapid.Bool().Draw(t, "delete"), Tiered: rapid.Bool().Draw(t, "tiered"),
		TotalMs: bound.Draw(t, "totalMs"), TotalBytes: bound.Draw(t, "totalBytes"),
		LocalMs: bound.Draw(t, "localMs"), LocalBytes: bound.Draw(t, "localBytes"),
	}
	s := reclaim.State{ClockTrusted: rapid.Float64().Draw(t, "trust") > 0.1}
	n := rapid.IntRange(0, 8).Draw(t, "segments")
	remote := 0
	if p.Tiered {
		remote = rapid.IntRange(0, n).Draw(t, "remote")
	}
	firstLocal := rapid.IntRange(0, remote).Draw(t, "firstLocal")
	for i := range n + 1 {
		start, end := record.Offset(10*i), record.Offset(10*i+10)
		size := rapid.Int64Range(1, 200).Draw(t, "bytes")
		ts := rapid.Int64Range(now-1200, now+100).Draw(t, "ts")
		if i < remote {
			s.Remote = append(s.Remote, manifest.Entry{Start: start, End: end, Bytes: size, MaxTimestamp: ts})
			s.RemoteEnd = end
		}
		if i >= firstLocal {
			s.Local = append(s.Local, reclaim.Segment{Base: start, End: end, Bytes: size, MaxTimestamp: ts, Sealed: i < n})
		}
	}
	s.Stable = record.Offset(rapid.IntRange(int(s.RemoteEnd), 10*n+10).Draw(t, "stable"))
	s.LogStart = record.Offset(rapid.IntRange(0, min(int(s.Stable), 15)).Draw(t, "logStart"))
	for len(s.Remote) > 0 && s.Remote[0].End <= s.LogStart {
		s.Remote = s.Remote[1:]
	}
	return p, s
}

// Decide against what must always hold, and against a naive reading of the
// rules, one record at a time.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, s := drawState(t)
		d := reclaim.Decide(at(now), p, s)
		require.GreaterOrEqual(t, d.LogStart, s.LogStart)
		require.LessOrEqual(t, d.LogStart, max(s.Stable, s.LogStart))
		bound := d.LogStart
		if p.Tiered {
			bound = max(bound, s.RemoteEnd)
		}
		require.LessOrEqual(t, d.LocalStart, max(bound, s.Local[0].Base), "local data beyond what is remote or dead")
		if !p.Delete {
			require.Equal(t, s.LogStart, d.LogStart)
		}
		require.Equal(t, naiveLogStart(p, s), d.LogStart)
		again := s
		again.LogStart = d.LogStart
		if rest := reclaim.Decide(at(now), p, again); !d.Roll {
			require.Equal(t, d.LogStart, rest.LogStart, "a second pass finds more")
		}
		follower := reclaim.DecideFollower(at(now), p, s)
		require.Equal(t, s.LogStart, follower.LogStart)
		require.LessOrEqual(t, follower.LocalStart, d.LocalStart)
	})
}

// naiveLogStart removes segments one by one from a list until nothing forces
// the first one out.
func naiveLogStart(p reclaim.Policy, s reclaim.State) record.Offset {
	type seg struct {
		end       record.Offset
		bytes, ts int64
		sealed    bool
	}
	byEnd := map[record.Offset]seg{}
	for _, l := range s.Local {
		byEnd[l.End] = seg{l.End, l.Bytes, l.MaxTimestamp, l.Sealed}
	}
	for _, e := range s.Remote {
		byEnd[e.End] = seg{e.End, e.Bytes, e.MaxTimestamp, true}
	}
	start := s.LogStart
	for p.Delete {
		total := int64(0)
		first := seg{}
		for end := record.Offset(0); end <= 200; end += 10 {
			if g, ok := byEnd[end]; ok && (end > start || !g.sealed) {
				if first.end == 0 {
					first = g
				}
				total += g.bytes
			}
		}
		old := s.ClockTrusted && p.TotalMs >= 0 && first.ts < now-p.TotalMs
		large := p.TotalBytes >= 0 && total-first.bytes >= p.TotalBytes
		if first.end == 0 || !first.sealed || first.end > s.Stable || (!old && !large) {
			break
		}
		start = first.end
	}
	return start
}

// What Explain says fits what Decide does: exactly what is due goes, and every
// segment has a reason.
func TestExplainFitsDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, s := drawState(t)
		d := reclaim.Decide(at(now), p, s)
		reasons := reclaim.Explain(at(now), p, s, nil)
		require.Len(t, reasons, len(s.Remote)+len(s.Local))
		for _, r := range reasons {
			require.NotEmpty(t, r.Text)
			require.NotEmpty(t, r.Code)
			goes := r.End <= d.LocalStart
			if r.Remote {
				goes = r.End <= d.LogStart
			}
			require.Equal(t, goes, r.Code == reclaim.Due, "%+v under %+v", r, d)
			if r.Code == reclaim.WithinAge {
				require.False(t, r.Until.Before(at(now)))
			}
		}
	})
}

func TestExplain(t *testing.T) {
	s := tiered()
	p := reclaim.Policy{Delete: true, TotalMs: 550, TotalBytes: reclaim.Unlimited, Tiered: true, LocalMs: 450, LocalBytes: reclaim.Unlimited}
	s.Stable = 45
	var got []string
	for _, r := range reclaim.Explain(at(now), p, s, []uuid.UUID{{15: 9}}) {
		got = append(got, fmt.Sprintf("remote=%v [%d, %d) %s", r.Remote, r.Start, r.End, r.Code))
	}
	require.Equal(t, []string{
		"remote=true [0, 0) grace-period",
		"remote=true [0, 10) due",
		"remote=true [10, 20) within-age",
		"remote=true [20, 30) within-age",
		"remote=false [10, 20) due",
		"remote=false [20, 30) within-age",
		"remote=false [30, 40) not-copied",
		"remote=false [40, 50) uncommitted",
		"remote=false [50, 60) active",
	}, got)
	require.Equal(t, at(now-500+550), reclaim.Explain(at(now), p, s, nil)[1].Until)
	s.ClockTrusted = false
	require.Equal(t, reclaim.ClockInDoubt, reclaim.Explain(at(now), p, s, nil)[0].Code)
}

// The ladder and Kafka's settings say the same.
func TestPolicyOf(t *testing.T) {
	ladder, errs := configdef.ParseTopic(map[string]string{"retention.tiers": "hot:1d,warm:30d"}, nil)
	require.Empty(t, errs)
	kafka, errs := configdef.ParseTopic(map[string]string{
		"remote.storage.enable": "true", "retention.ms": "2592000000", "local.retention.ms": "86400000"}, nil)
	require.Empty(t, errs)
	require.Equal(t, reclaim.PolicyOf(kafka), reclaim.PolicyOf(ladder))
	require.Equal(t, reclaim.Policy{Delete: true, TotalMs: 30 * 86400_000, TotalBytes: -1, Tiered: true, LocalMs: 86400_000, LocalBytes: -1},
		reclaim.PolicyOf(ladder))
}
