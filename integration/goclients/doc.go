// Package goclients has tests alone: unmodified Go clients of Kafka (franz-go,
// sarama, segmentio/kafka-go) against a real broker process. Other languages'
// clients are in integration/clients.
package goclients
