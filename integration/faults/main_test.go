package faults

import (
	"testing"

	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/internal/testminio"
)

func TestMain(m *testing.M) { harness.Main(m, testminio.StopShared) }

// tiered are the settings of a topic whose segments soon leave the disk.
func tiered(more ...string) []string {
	return append([]string{"remote.storage.enable", "true", "segment.bytes", "1048576", "local.retention.bytes", "1048576"}, more...)
}
