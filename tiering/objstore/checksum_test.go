package objstore_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/tiering/objstore"
)

func TestChecksum(t *testing.T) {
	sum := objstore.ChecksumOf([]byte("123456789"))
	require.Equal(t, "crc32c:e3069283", sum.String(), "the check value of RFC 3720")
	require.Equal(t, "4waSgw==", sum.Base64())
	back, err := objstore.ParseChecksum(sum.String())
	require.NoError(t, err)
	require.Equal(t, sum, back)
	require.Equal(t, sum, objstore.ParseBase64(sum.Base64()))
	require.False(t, objstore.ParseBase64("4waSgw==-3").Valid(), "composite")
	require.False(t, objstore.Checksum{}.Valid())
	require.Empty(t, objstore.Checksum{}.String())
	require.Empty(t, objstore.Checksum{}.Base64())
	for _, bad := range []string{"crc32c:", "crc32c:123", "md5:12345678", "crc32c:1234567g", "e3069283"} {
		_, err := objstore.ParseChecksum(bad)
		require.Error(t, err, bad)
	}
	_, _, err = objstore.ChecksumReader(strings.NewReader("x"))
	require.NoError(t, err)
}

// Join against hashing the whole.
func TestChecksumJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "a")
		b := rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "b")
		whole := objstore.ChecksumOf(append(append([]byte{}, a...), b...))
		require.Equal(t, whole, objstore.ChecksumOf(a).Join(objstore.ChecksumOf(b), int64(len(b))))
	})
	require.False(t, objstore.Checksum{}.Join(objstore.ChecksumOf(nil), 0).Valid())
}
