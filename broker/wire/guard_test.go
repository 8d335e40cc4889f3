package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

// fullTable serves every key and version that has a layout.
func fullTable(t testing.TB) *Table {
	t.Helper()
	var apis []API
	for _, l := range layouts() {
		apis = append(apis, API{Key: l.key, Max: l.max})
	}
	table, err := NewTable(apis...)
	require.NoError(t, err)
	return table
}

// eachVersion calls fn for every served key and version.
func eachVersion(table *Table, fn func(e *apiEntry, version int16, p *program)) {
	for _, e := range table.apis {
		if e == nil {
			continue
		}
		for v := e.Min; v <= e.Max; v++ {
			fn(e, v, e.at(v))
		}
	}
}

func TestTableRefusesWhatCannotBeGuarded(t *testing.T) {
	for _, a := range []API{
		{Key: 3, Max: 99}, {Key: 4}, {Key: -1}, {Key: 999}, {Key: 3, Min: 2, Max: 1}, {Key: 3, MaxFrame: -1},
	} {
		_, err := NewTable(a)
		require.Error(t, err, "%+v", a)
	}
	_, err := NewTable(API{Key: 3}, API{Key: 3})
	require.Error(t, err)
}

// The layouts are our own data; their names, struct sizes, versions and first
// flexible versions are held to kmsg's types.
func TestLayoutsAgreeWithTypes(t *testing.T) {
	var check func(path string, fields []field, typ reflect.Type)
	check = func(path string, fields []field, typ reflect.Type) {
		known := 0
		for i := range typ.NumField() {
			if name := typ.Field(i).Name; name != "Version" && name != "UnknownTags" {
				known++
			}
		}
		require.Len(t, fields, known, path)
		for _, f := range fields {
			at := path + "." + f.name
			sf, ok := typ.FieldByName(f.name)
			require.True(t, ok, at)
			elem := sf.Type
			if f.array {
				require.Equal(t, reflect.Slice, elem.Kind(), at)
				elem = elem.Elem()
			}
			if elem.Kind() == reflect.Pointer {
				require.NotEqual(t, int16(never), f.nullable, at)
				elem = elem.Elem()
			}
			switch f.kind {
			case "struct":
				require.Equal(t, int(elem.Size()), f.size, at)
				check(at, f.fields, elem)
			case "string":
				require.Equal(t, reflect.String, elem.Kind(), at)
			case "bytes":
				require.Equal(t, "[]uint8", elem.String(), at)
			default:
				require.Equal(t, fixedSize[f.kind], int(elem.Size()), at)
			}
		}
	}
	for key, l := range layouts() {
		req := kmsg.RequestForKey(key)
		require.Equal(t, req.MaxVersion(), l.max, "key %d", key)
		for v := int16(0); v <= l.max; v++ {
			req.SetVersion(v)
			require.Equal(t, req.IsFlexible(), v >= l.flexible, "key %d version %d", key, v)
		}
		check(fmt.Sprint(key), l.fields, reflect.TypeOf(req).Elem())
	}
}

func TestParseLayoutsNamesTheLine(t *testing.T) {
	for _, text := range []string{
		"x A 0-1 1", "1 A 0-1", "1 A 0-z 1", "1 A 0-1 1\n  F", "1 A 0-1 1\n  F int99", "1 A 0-1 1\n    F int8",
		"1 A 0-1 1\n  F []struct", "1 A 0-1 1\n  F ?x+int8", "1 A 0-1 1\n  F int8 tagx", "1 A 0-1 1\n  F struct:x",
	} {
		_, err := parseLayouts(text)
		require.ErrorContains(t, err, "layouts line", text)
	}
}

// fill sets every field of v to something random. Unknown tags are left out.
func fill(rng *rand.Rand, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			if rng.IntN(4) == 0 {
				tags := v.Addr().Interface().(*kmsg.Tags)
				for range rng.IntN(4) {
					tags.Set(uint32(100+rng.IntN(1000)), make([]byte, rng.IntN(200)))
				}
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" {
				fill(rng, v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			if d, ok := v.Interface().(interface{ Default() }); ok {
				d.Default()
			}
			fill(rng, v.Elem(), depth)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, rng.IntN(300))
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			v.SetBytes(b)
			return
		}
		if rng.IntN(6) == 0 {
			return
		}
		n := rng.IntN(max(5-depth, 2))
		s := reflect.MakeSlice(v.Type(), n, n)
		for i := range n {
			if d, ok := s.Index(i).Addr().Interface().(interface{ Default() }); ok {
				d.Default()
			}
			fill(rng, s.Index(i), depth)
		}
		v.Set(s)
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(byte(rng.Uint32())))
		}
	case reflect.String:
		b := make([]byte, rng.IntN(20))
		for i := range b {
			b[i] = 'a' + byte(rng.IntN(26))
		}
		v.SetString(string(b))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Float64:
		v.SetFloat(rng.NormFloat64())
	case reflect.Uint16:
		v.SetUint(uint64(uint16(rng.Uint32())))
	default:
		v.SetInt(int64(rng.Uint64()) >> (64 - v.Type().Bits()))
	}
}

func randomBody(rng *rand.Rand, key, version int16) []byte {
	req := kmsg.RequestForKey(key)
	fill(rng, reflect.ValueOf(req).Elem(), 0)
	req.SetVersion(version)
	return req.AppendTo(nil)
}

// checkPassed holds what the guard let pass to its promise: kmsg decodes it,
// and encodes it to the same bytes.
func checkPassed(t *testing.T, key, version int16, body []byte) {
	t.Helper()
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	require.NoError(t, req.ReadFrom(body), "key %d version %d: %x", key, version, body)
	again := req.AppendTo(nil)
	if len(again) == len(body) {
		require.True(t, bytes.Equal(body, again), "key %d version %d: %x became %x", key, version, body, again)
		return
	}
	// A client may send a tagged field whose value is the default; kmsg leaves
	// such a field out.
	require.Less(t, len(again), len(body), "key %d version %d: %x", key, version, body)
	require.True(t, hasKnownTags(key), "key %d version %d: %x", key, version, body)
	req2 := kmsg.RequestForKey(key)
	req2.SetVersion(version)
	require.NoError(t, req2.ReadFrom(again))
	require.Equal(t, again, req2.AppendTo(nil))
}

func hasKnownTags(key int16) bool {
	var any func(fields []field) bool
	any = func(fields []field) bool {
		return slices.ContainsFunc(fields, func(f field) bool { return f.tag >= 0 || any(f.fields) })
	}
	return any(layouts()[key].fields)
}

func TestGuardPassesWhatClientsEncode(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	eachVersion(fullTable(t), func(e *apiEntry, version int16, p *program) {
		for range 60 {
			body := randomBody(rng, e.Key, version)
			_, err := p.walk(body, e.MaxElements)
			require.NoError(t, err, "key %d version %d: %x", e.Key, version, body)
			checkPassed(t, e.Key, version, body)
			req, _, _, err := e.decode(p, version, body)
			require.NoError(t, err)
			if e.Key == keyAPIVersions { // decoded by hand
				want := kmsg.NewPtrApiVersionsRequest()
				want.Version = version
				require.NoError(t, want.ReadFrom(body))
				want.UnknownTags = kmsg.Tags{}
				require.Equal(t, want, req)
			}
		}
	})
}

func TestGuardRefusesWhatIsCutOrLonger(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	eachVersion(fullTable(t), func(e *apiEntry, version int16, p *program) {
		for range 5 {
			body := randomBody(rng, e.Key, version)
			for n := range body {
				_, err := p.walk(body[:n], e.MaxElements)
				require.ErrorIs(t, err, ErrMalformed, "key %d version %d cut at %d: %x", e.Key, version, n, body)
			}
			_, err := p.walk(append(body[:len(body):len(body)], 0), e.MaxElements)
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}

// mutate flips, inserts, overwrites or cuts.
func mutate(rng *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range 1 + rng.IntN(3) {
		if len(b) == 0 {
			return b
		}
		i := rng.IntN(len(b))
		switch rng.IntN(5) {
		case 0:
			b[i] ^= 1 << rng.IntN(8)
		case 1:
			b[i] = []byte{0, 1, 2, 0x7f, 0x80, 0xff}[rng.IntN(6)]
		case 2:
			b = append(b[:i], b[i+1:]...)
		case 3:
			b = append(b[:i], append([]byte{byte(rng.Uint32())}, b[i:]...)...)
		case 4:
			copy(b[i:], []byte{0xff, 0xff, 0xff, 0xff, 0x0f})
		}
	}
	return b
}

func TestWhatPassesTheGuardIsDecoded(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 2))
	t.Logf("seed %d", seed)
	passed, refused := 0, 0
	eachVersion(fullTable(t), func(e *apiEntry, version int16, p *program) {
		for range 150 {
			body := mutate(rng, randomBody(rng, e.Key, version))
			if _, err := p.walk(body, e.MaxElements); err != nil {
				require.ErrorIs(t, err, ErrMalformed)
				refused++
				continue
			}
			passed++
			checkPassed(t, e.Key, version, body)
		}
	})
	require.Positive(t, passed)
	require.Positive(t, refused)
}

// Eight bytes that claim 2²⁸ tags cost kmsg seconds (kafka-compat.md §3).
func TestGuardRefusesTagBomb(t *testing.T) {
	table := fullTable(t)
	bomb := append([]byte{2, 'a', 2, 'b'}, binary.AppendUvarint(nil, 1<<28)...)
	begin := time.Now()
	_, _, _, err := table.entry(keyAPIVersions).decode(table.entry(keyAPIVersions).at(3), 3, bomb)
	require.ErrorIs(t, err, ErrMalformed)
	require.Less(t, time.Since(begin), 100*time.Millisecond)

	eachVersion(table, func(e *apiEntry, version int16, p *program) {
		if !p.flexible {
			return
		}
		req := kmsg.RequestForKey(e.Key)
		req.SetVersion(version)
		body := req.AppendTo(nil)
		body = append(body[:len(body)-1], binary.AppendUvarint(nil, 1<<28)...)
		_, err := p.walk(body, e.MaxElements)
		require.ErrorIs(t, err, ErrMalformed)
	})
}

// hostile builds the dearest bodies that a layout allows: the field at path
// repeated until the frame is full.
func hostile(e *apiEntry, version int16, flexible bool) [][]byte {
	var out [][]byte
	typ := reflect.TypeOf(kmsg.RequestForKey(e.Key)).Elem()
	size := int(min(e.MaxFrame, 1<<20))
	if version < e.Max || raceEnabled {
		size = min(size, 64<<10)
	}
	var walk func(t reflect.Type, path []int)
	build := func(path []int, leaf func(reflect.Value), n int) []byte {
		req := kmsg.RequestForKey(e.Key)
		req.SetVersion(version)
		v := reflect.ValueOf(req).Elem()
		for d, i := range path {
			v = v.Field(i)
			if v.Kind() == reflect.Pointer {
				v.Set(reflect.New(v.Type().Elem()))
				v = v.Elem()
			}
			if v.Kind() == reflect.Slice {
				k := 1
				if d == len(path)-1 {
					k = n
				}
				v.Set(reflect.MakeSlice(v.Type(), k, k))
				if d == len(path)-1 && leaf != nil {
					for j := range k {
						leaf(v.Index(j))
					}
				}
				v = v.Index(0)
			}
		}
		return req.AppendTo(nil)
	}
	try := func(path []int, leaf func(reflect.Value)) {
		one := len(build(path, leaf, 1))
		each := len(build(path, leaf, 2)) - one
		if each == 0 { // not at this version
			return
		}
		for _, limit := range []int{size, 16 << 10} {
			out = append(out, build(path, leaf, (limit-one-8)/each))
		}
	}
	walk = func(t reflect.Type, path []int) {
		for i := range t.NumField() {
			f := t.Field(i)
			at := append(slices.Clone(path), i)
			ft := f.Type
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			switch {
			case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct:
				try(at, nil)
				// One unknown tag in each: a map for three bytes.
				if tags, ok := ft.Elem().FieldByName("UnknownTags"); ok && flexible {
					try(at, func(v reflect.Value) {
						v.FieldByIndex(tags.Index).Addr().Interface().(*kmsg.Tags).Set(200, nil)
					})
				}
				walk(ft.Elem(), at)
			case ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.String:
				try(at, nil)
				try(at, func(v reflect.Value) { v.SetString("x") })
			case ft.Kind() == reflect.Slice && ft.Elem().Kind() != reflect.Uint8:
				try(at, nil)
			}
		}
	}
	walk(typ, nil)
	if flexible {
		req := kmsg.RequestForKey(e.Key)
		req.SetVersion(version)
		body := req.AppendTo(nil)
		for _, n := range []uint32{100, 300, 1000, 50_000} {
			b := append(bytes.Clone(body[:len(body)-1]), binary.AppendUvarint(nil, uint64(n))...)
			for tag := range n {
				b = append(binary.AppendUvarint(b, uint64(100+tag)), 0)
			}
			out = append(out, b)
		}
	}
	return out
}

// The promise of the guard: no frame costs more than 100 ms of CPU or ten times
// its length in memory and a constant, whether it passes or not.
func TestHostileFramesAreCheap(t *testing.T) {
	passed, refused := 0, 0
	worst, worstTime := 0.0, time.Duration(0)
	var before, after runtime.MemStats
	limit := 100 * time.Millisecond
	runtime.LockOSThread() // whose CPU time is taken
	defer runtime.UnlockOSThread()
	if raceEnabled {
		limit *= 10
	}
	eachVersion(fullTable(t), func(e *apiEntry, version int16, p *program) {
		if version != e.Max && version != 0 {
			return
		}
		for _, body := range hostile(e, version, p.flexible) {
			runtime.ReadMemStats(&before)
			begin := threadTime(t)
			_, memory, _, err := e.decode(p, version, body)
			took := threadTime(t) - begin
			runtime.ReadMemStats(&after)
			spent := int(after.TotalAlloc - before.TotalAlloc)
			if raceEnabled { // append(a, make(…)…) allocates twice
				spent /= 2
			}
			if err == nil {
				passed++
				// What was accounted is what was spent, but for rounding.
				require.LessOrEqual(t, spent, memory*5/4+8<<10, "key %d version %d, %d bytes", e.Key, version, len(body))
			} else {
				refused++
			}
			require.LessOrEqual(t, spent, 10*len(body)+decodeSlack+8<<10, "key %d version %d, %d bytes", e.Key, version, len(body))
			worst = max(worst, float64(spent-decodeSlack)/float64(len(body)))
			worstTime = max(worstTime, took)
			require.Less(t, took, limit, "key %d version %d, %d bytes, error %v", e.Key, version, len(body), err)
		}
	})
	t.Logf("%d passed, %d refused, worst %.1f bytes a byte, %v", passed, refused, worst, worstTime)
	require.Positive(t, passed)
	require.Positive(t, refused)
}

// threadTime is the CPU time that this thread has used. Unlike the clock on the wall
// it does not count what other programs do.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var at unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at))
	return time.Duration(at.Nano())
}

func TestHeader(t *testing.T) {
	frame := []byte{0, 3, 0, 12, 0, 0, 0, 7, 0, 2, 'm', 'e'}
	h := parsePrefix(frame)
	body, err := h.parseRest(append(frame, 0, 0xaa), true)
	require.NoError(t, err)
	require.Equal(t, []byte{0xaa}, body)
	require.Equal(t, "me", string(h.clientID))
	require.Equal(t, header{key: 3, version: 12, correlationID: 7, clientID: h.clientID}, h)

	// Null client id, and tags that nobody knows.
	h = parsePrefix(frame)
	body, err = h.parseRest([]byte{0, 3, 0, 12, 0, 0, 0, 7, 0xff, 0xff, 2, 0, 1, 'x', 9, 0, 0xbb}, true)
	require.NoError(t, err)
	require.Empty(t, h.clientID)
	require.Equal(t, []byte{0xbb}, body)

	for _, bad := range [][]byte{
		frame[:8], frame[:9], frame[:11],
		{0, 3, 0, 12, 0, 0, 0, 7, 0xff, 0xfe},
		{0, 3, 0, 12, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f},
	} {
		_, err := h.parseRest(bad, true)
		require.ErrorIs(t, err, ErrMalformed, "% x", bad)
	}
}

func FuzzGuard(f *testing.F) {
	table := fullTable(f)
	rng := rand.New(rand.NewPCG(3, 3))
	eachVersion(table, func(e *apiEntry, version int16, _ *program) {
		f.Add(e.Key, version, randomBody(rng, e.Key, version))
	})
	f.Add(int16(keyAPIVersions), int16(3), []byte{1, 1, 0x80, 0x80, 0x80, 0x80, 0x01})
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		e := table.entry(key)
		if e == nil || e.at(version) == nil || len(body) > int(e.MaxFrame) {
			return
		}
		if _, err := e.at(version).walk(body, e.MaxElements); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		checkPassed(t, key, version, body)
		if _, _, _, err := e.decode(e.at(version), version, body); err != nil {
			t.Fatal(err)
		}
	})
}
