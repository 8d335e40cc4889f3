package api

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

// The metadata refuses a target by the topic's id, which nobody knows by heart.
func TestARefusedReassignmentNamesTheTopic(t *testing.T) {
	tp := record.TopicPartition{Topic: record.NewTopicID(), Partition: 7}
	text := "partition " + tp.String() + " names broker 2 twice"
	require.Equal(t, "partition orders-7 names broker 2 twice", *withName(&text, tp, "orders"))
	require.Nil(t, withName(nil, tp, "orders"))
}
