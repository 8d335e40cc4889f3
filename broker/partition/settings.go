package partition

import (
	"math/rand/v2"
	"time"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
)

// newSettings turns a topic's configuration into what an append needs.
func newSettings(c *configdef.TopicConfig) *settings {
	codec, err := record.ParseCodec(c.CompressionType)
	if err != nil {
		codec = record.CodecProducer // configdef has validated it
	}
	rules := record.Rules{
		MaxBytes: c.MaxMessageBytes, Compression: codec, CompressionLevel: compressionLevel(c, codec),
		TimestampBeforeMax: c.TimestampBeforeMaxMs, TimestampAfterMax: c.TimestampAfterMaxMs,
		Compacted: c.CleanupCompact, HeaderOnly: c.HeaderOnly, MaxDecompressed: int64(c.MaxDecompressedBytes),
	}
	if c.LogAppendTime {
		rules.TimestampType = record.LogAppendTime
	}
	return &settings{topic: c, rules: rules}
}

// logConfig turns a topic's configuration into what a log needs.
func logConfig(c *configdef.TopicConfig, producers time.Duration) commitlog.Config {
	age := configdef.Duration(c.SegmentMs)
	if j := configdef.Duration(c.SegmentJitterMs); j > 0 {
		age -= min(time.Duration(rand.Int64N(int64(j))), age-1)
	}
	return commitlog.Config{
		ProducerExpiration: producers,
		SegmentBytes:       c.SegmentBytes, SegmentAge: age, IndexIntervalBytes: int64(c.IndexIntervalBytes),
		IndexBytes: int64(c.SegmentIndexBytes), Lazy: !c.Fsync, Compact: c.CleanupCompact,
		MinCleanableRatio: orNegative(c.MinCleanableDirtyRatio),
		MinCompactionLag:  configdef.Duration(c.MinCompactionLagMs),
		MaxCompactionLag:  configdef.Duration(c.MaxCompactionLagMs),
		DeleteRetention:   orNegativeDuration(configdef.Duration(c.DeleteRetentionMs)),
	}
}

// orNegative passes on a zero that is meant: the log takes 0 for its default.
func orNegative(v float64) float64 {
	if v == 0 {
		return -1
	}
	return v
}

func orNegativeDuration(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// compressionLevel is the topic's level for the codec that it compresses with.
func compressionLevel(c *configdef.TopicConfig, codec record.Codec) int {
	switch codec {
	case record.CodecGzip:
		return c.GzipLevel
	case record.CodecLz4:
		return c.Lz4Level
	case record.CodecZstd:
		return c.ZstdLevel
	default:
		return 0
	}
}
