package layout_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore/layout"
)

var id = uuid.MustParse("0192a3b4-c5d6-7e8f-9012-3456789abcde")

func TestKeys(t *testing.T) {
	l, err := layout.New("team/firn", "q-Fn0XJmTHeZ1cZ_yNe4gA")
	require.NoError(t, err)
	require.Equal(t, "team/firn/q-Fn0XJmTHeZ1cZ_yNe4gA/data/de/0192a3b4-c5d6-7e8f-9012-3456789abcde", l.Object(id))
	require.Equal(t, "team/firn/q-Fn0XJmTHeZ1cZ_yNe4gA/owner/0000000000000000012", l.Owner(12))
	generation, ok := l.ParseOwner(l.Owner(12))
	require.True(t, ok)
	require.EqualValues(t, 12, generation)
	for _, bad := range []string{l.OwnerPrefix(), l.OwnerPrefix() + "12", l.Owner(0), l.Owner(5) + "1", "x", l.OwnerPrefix() + "-000000000000000012"} {
		_, ok := l.ParseOwner(bad)
		require.False(t, ok, bad)
	}
	got, ok := l.ParseObject(l.Object(id))
	require.True(t, ok)
	require.Equal(t, id, got)
	require.Equal(t, "team/firn/q-Fn0XJmTHeZ1cZ_yNe4gA/probe/"+id.String(), l.Probe(id))
	plain, err := layout.New("", "c")
	require.NoError(t, err)
	require.Equal(t, "c/data/", plain.DataPrefix())
}

func TestForeignKeysAreNotOurs(t *testing.T) {
	l, err := layout.New("", "c")
	require.NoError(t, err)
	key := l.Object(id)
	for _, bad := range []string{
		"", "c/owner", "d" + key[1:], strings.ToUpper(key), key + "x", key[:len(key)-1],
		strings.Replace(key, "/de/", "/df/", 1), "c/data/de/readme", strings.Replace(key, "-", "", 1) + "0",
	} {
		_, ok := l.ParseObject(bad)
		require.False(t, ok, bad)
	}
}

func TestBadPrefix(t *testing.T) {
	for _, bad := range [][2]string{{"", ""}, {"a/", "c"}, {"/a", "c"}, {"", "a/b"}, {"..", "c"}, {strings.Repeat("x", 600), "c"}} {
		_, err := layout.New(bad[0], bad[1])
		require.Error(t, err, bad)
	}
}

func FuzzParseObject(f *testing.F) {
	l, err := layout.New("p", "c")
	require.NoError(f, err)
	f.Add(l.Object(id))
	f.Add("p/c/data/de/{0192a3b4-c5d6-7e8f-9012-3456789abcde}")
	f.Fuzz(func(t *testing.T, key string) {
		if got, ok := l.ParseObject(key); ok && l.Object(got) != key {
			t.Fatalf("%q names %v, whose key is %q", key, got, l.Object(got))
		}
	})
}
