package faultproxy

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

// Run holds a driver, behind objstore.Retrying, against every fault on the
// wire. Direct is a store on the server itself, through is one by way of the
// proxy, on the same empty bucket; its large objects are of multipart bytes
// and more.
func (p *Proxy) Run(t *testing.T, direct, through objstore.Store, multipart int64) {
	body := storetest.Body(1, 200_000)
	sum := objstore.ChecksumOf(body)
	n := 0
	retrying := func(t *testing.T) objstore.Store {
		return objstore.WithRetries(through, objstore.RetryOptions{
			BaseDelay: time.Millisecond, Timeout: time.Second, StallTimeout: 800 * time.Millisecond,
			MinRate: 20 << 20, Budget: objstore.NewBudget(1000),
			Observe: func(a objstore.Attempt) {
				if a.Err != nil && a.Retrying && !objstore.Retryable(a.Err) {
					t.Errorf("retried for nothing: %v", a.Err)
				}
			},
		})
	}
	for _, f := range []Fault{Unavailable, Throttled, Internal, Hang, ResetBefore, ResetAfter, HangAfter, ResetMid, StallMid, FlipUp} {
		n++
		key := fmt.Sprintf("k%d", n)
		t.Run(fmt.Sprint("Put ", f), func(t *testing.T) {
			p.First(2, http.MethodPut, f)
			info, err := retrying(t).Put(t.Context(), key, bytes.NewReader(body), int64(len(body)), objstore.PutOptions{IfAbsent: true, Checksum: sum})
			require.NoError(t, err)
			require.Equal(t, sum, info.Checksum)
			p.met(t)
			_, err = objstore.Verify(t.Context(), direct, key, int64(len(body)), sum, true)
			require.NoError(t, err)
		})
	}
	p.SetPlan(nil)
	storetest.Put(t, direct, "get", body)
	for _, f := range []Fault{Unavailable, Throttled, Internal, Hang, ResetBefore, ResetAfter, HangAfter, ResetMid, StallMid} {
		t.Run(fmt.Sprint("Get ", f), func(t *testing.T) {
			p.First(2, http.MethodGet, f)
			got, err := storetest.Get(t.Context(), retrying(t), "get", 100, 150_000)
			require.NoError(t, err)
			require.True(t, bytes.Equal(body[100:150_100], got))
			p.met(t)
		})
	}
	t.Run("Get flipped", func(t *testing.T) {
		p.First(1, http.MethodGet, FlipDown)
		_, err := objstore.Verify(t.Context(), retrying(t), "get", int64(len(body)), sum, true)
		require.ErrorIs(t, err, objstore.ErrChecksum)
	})
	t.Run("Head 503 and reset", func(t *testing.T) {
		for _, f := range []Fault{Unavailable, ResetAfter} {
			p.First(2, http.MethodHead, f)
			info, err := retrying(t).Head(t.Context(), "get")
			require.NoError(t, err)
			require.Equal(t, sum, info.Checksum)
			p.met(t)
		}
	})
	t.Run("Delete", func(t *testing.T) {
		for _, f := range []Fault{Unavailable, ResetAfter, Hang} {
			p.SetPlan(nil)
			storetest.Put(t, direct, "delete", body[:10])
			p.First(2, http.MethodDelete, f)
			require.NoError(t, retrying(t).Delete(t.Context(), "delete")[0])
			_, err := direct.Head(t.Context(), "delete")
			require.ErrorIs(t, err, objstore.ErrNotExist)
		}
	})
	t.Run("List", func(t *testing.T) {
		for _, f := range []Fault{Unavailable, ResetMid, StallMid, Hang} {
			p.First(2, http.MethodGet, f)
			keys, err := storetest.Keys(t.Context(), retrying(t), "k", "k1")
			require.NoError(t, err)
			require.Len(t, keys, n-1)
			p.met(t)
		}
	})
	large := storetest.Body(2, multipart*2+1000)
	for i, f := range []Fault{Unavailable, ResetBefore, ResetAfter, FlipUp} {
		key := fmt.Sprintf("large%d", i)
		for _, method := range []string{http.MethodPut, http.MethodPost} {
			t.Run(fmt.Sprintf("Multipart %s %v", method, f), func(t *testing.T) {
				if method == http.MethodPost && f == FlipUp {
					return // its body is XML, under a signature
				}
				key := key + method
				p.First(1, method, f)
				_, err := retrying(t).Put(t.Context(), key, bytes.NewReader(large), int64(len(large)),
					objstore.PutOptions{IfAbsent: true, Checksum: objstore.ChecksumOf(large)})
				require.NoError(t, err)
				p.met(t)
				_, err = objstore.Verify(t.Context(), direct, key, int64(len(large)), objstore.ChecksumOf(large), true)
				require.NoError(t, err)
			})
		}
	}
}

// met holds that the fault happened: otherwise the test shows nothing.
func (p *Proxy) met(t *testing.T) {
	t.Helper()
	require.Positive(t, p.Hits(), "no request met the fault")
}
