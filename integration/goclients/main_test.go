package goclients

import (
	"context"
	"testing"
	"time"

	"github.com/firnlog/firn/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// start runs a broker for one test.
func start(t *testing.T) *harness.Broker {
	t.Helper()
	t.Parallel()
	return harness.Start(t, harness.Options{Set: []string{"offsets.topic.num.partitions=5"}})
}

// deadline bounds a test's waits.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}
