package api

import (
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/wire"
)

// route is one served API. The order of the list is Kafka's numbering; the
// ranges are those of kafka-compat §1 and never kmsg's own maximum, so that a
// newer library advertises nothing that is not served.
type route struct {
	key      int16
	min, max int16
	maxFrame int32 // bytes; of Produce by configuration
	serve    func(*Server, *wire.Request)
}

const (
	mib        = 1 << 20
	produceKey = 0
)

// routes returns the list.
func routes() []route {
	return []route{
		{key: 0, min: 3, max: 13, serve: on((*Server).produce)},
		{key: 1, min: 4, max: 18, maxFrame: 8 * mib, serve: on((*Server).fetch)},
		{key: 2, min: 1, max: 11, maxFrame: 4 * mib, serve: on((*Server).listOffsets)},
		{key: 3, min: 0, max: 13, maxFrame: 4 * mib, serve: on((*Server).metadata)},
		{key: 8, min: 2, max: 10, maxFrame: 4 * mib, serve: on((*Server).offsetCommit)},
		{key: 9, min: 1, max: 10, maxFrame: 4 * mib, serve: on((*Server).offsetFetch)},
		{key: 10, min: 0, max: 6, maxFrame: mib, serve: on((*Server).findCoordinator)},
		{key: 11, min: 0, max: 9, maxFrame: 4 * mib, serve: on((*Server).joinGroup)},
		{key: 12, min: 0, max: 4, maxFrame: mib, serve: on((*Server).heartbeat)},
		{key: 13, min: 0, max: 5, maxFrame: mib, serve: on((*Server).leaveGroup)},
		{key: 14, min: 0, max: 5, maxFrame: 8 * mib, serve: on((*Server).syncGroup)},
		{key: 15, min: 0, max: 6, maxFrame: mib, serve: on((*Server).describeGroups)},
		{key: 16, min: 0, max: 5, maxFrame: mib, serve: on((*Server).listGroups)},
		{key: 17, min: 0, max: 1, maxFrame: mib, serve: on((*Server).saslHandshake)},
		{key: 18, min: 0, max: 5, maxFrame: mib, serve: on((*Server).apiVersions)},
		{key: 19, min: 2, max: 7, maxFrame: 4 * mib, serve: on((*Server).createTopics)},
		{key: 20, min: 1, max: 6, maxFrame: mib, serve: on((*Server).deleteTopics)},
		{key: 21, min: 0, max: 2, maxFrame: 4 * mib, serve: on((*Server).deleteRecords)},
		{key: 22, min: 0, max: 5, maxFrame: mib, serve: on((*Server).initProducerID)},
		{key: 23, min: 2, max: 4, maxFrame: 4 * mib, serve: on((*Server).offsetForLeaderEpoch)},
		{key: 29, min: 1, max: 3, maxFrame: mib, serve: on((*Server).describeACLs)},
		{key: 30, min: 1, max: 3, maxFrame: mib, serve: on((*Server).createACLs)},
		{key: 31, min: 1, max: 3, maxFrame: mib, serve: on((*Server).deleteACLs)},
		{key: 32, min: 1, max: 4, maxFrame: mib, serve: on((*Server).describeConfigs)},
		{key: 33, min: 0, max: 2, maxFrame: 2 * mib, serve: on((*Server).alterConfigs)},
		{key: 34, min: 1, max: 2, maxFrame: mib, serve: on((*Server).alterReplicaLogDirs)},
		{key: 35, min: 1, max: 5, maxFrame: 4 * mib, serve: on((*Server).describeLogDirs)},
		{key: 36, min: 0, max: 2, maxFrame: mib, serve: on((*Server).saslAuthenticate)},
		{key: 37, min: 0, max: 3, maxFrame: 4 * mib, serve: on((*Server).createPartitions)},
		{key: 38, min: 1, max: 3, maxFrame: mib, serve: on((*Server).createDelegationToken)},
		{key: 39, min: 1, max: 2, maxFrame: mib, serve: on((*Server).renewDelegationToken)},
		{key: 40, min: 1, max: 2, maxFrame: mib, serve: on((*Server).expireDelegationToken)},
		{key: 41, min: 1, max: 3, maxFrame: mib, serve: on((*Server).describeDelegationToken)},
		{key: 42, min: 0, max: 3, maxFrame: mib, serve: on((*Server).deleteGroups)},
		{key: 43, min: 0, max: 2, maxFrame: 4 * mib, serve: on((*Server).electLeaders)},
		{key: 44, min: 0, max: 1, maxFrame: 2 * mib, serve: on((*Server).incrementalAlterConfigs)},
		{key: 45, min: 0, max: 1, maxFrame: 4 * mib, serve: on((*Server).alterReassignments)},
		{key: 46, min: 0, max: 0, maxFrame: 4 * mib, serve: on((*Server).listReassignments)},
		{key: 47, min: 0, max: 0, maxFrame: mib, serve: on((*Server).offsetDelete)},
		{key: 48, min: 0, max: 1, maxFrame: mib, serve: on((*Server).describeClientQuotas)},
		{key: 49, min: 0, max: 1, maxFrame: mib, serve: on((*Server).alterClientQuotas)},
		{key: 50, min: 0, max: 0, maxFrame: mib, serve: on((*Server).describeScram)},
		{key: 51, min: 0, max: 0, maxFrame: mib, serve: on((*Server).alterScram)},
		{key: 55, min: 0, max: 2, maxFrame: mib, serve: on((*Server).describeQuorum)},
		{key: 57, min: 0, max: 2, maxFrame: mib, serve: on((*Server).updateFeatures)},
		{key: 60, min: 0, max: 2, maxFrame: mib, serve: on((*Server).describeCluster)},
		{key: 64, min: 0, max: 0, maxFrame: mib, serve: on((*Server).unregisterBroker)},
		{key: 75, min: 0, max: 0, maxFrame: mib, serve: on((*Server).describeTopicPartitions)},
		{key: 80, min: 0, max: 1, maxFrame: mib, serve: on((*Server).addRaftVoter)},
		{key: 81, min: 0, max: 0, maxFrame: mib, serve: on((*Server).removeRaftVoter)},
		{key: 94, min: 0, max: 0, maxFrame: mib, serve: on((*Server).unregisterController)},
	}
}

// Table is what the wire layer checks frames against. maxProduce bounds a Produce
// request in bytes (socket.request.max.bytes); the others have limits of their
// own, since a decoded struct takes many times its bytes.
func Table(maxProduce int64) (*wire.Table, error) {
	all := routes()
	apis := make([]wire.API, len(all))
	for i, r := range all {
		apis[i] = wire.API{Key: r.key, Min: r.min, Max: r.max, MaxFrame: r.maxFrame}
		if r.key == produceKey {
			apis[i].MaxFrame = int32(min(maxProduce, math.MaxInt32))
		}
	}
	return wire.NewTable(apis...)
}

// advertise lists the served keys as ApiVersions tells them.
func advertise(all []route) []kmsg.ApiVersionsResponseApiKey {
	keys := make([]kmsg.ApiVersionsResponseApiKey, len(all))
	for i, r := range all {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = r.key, r.min, r.max
		if r.key == produceKey {
			// As Kafka does, for librdkafka, which takes a minimum above 0 for a
			// broker without compression. A real v0 closes the connection.
			k.MinVersion = 0
		}
		keys[i] = k
	}
	return keys
}
