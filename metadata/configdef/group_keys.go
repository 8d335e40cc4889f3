package configdef

import (
	"errors"
	"regexp"
	"strings"
)

// isoDuration is PnDTnHnMn.nS without a sign, at least one part.
var isoDuration = regexp.MustCompile(`^P(?:[0-9]+D)?(?:T(?:[0-9]+H)?(?:[0-9]+M)?(?:[0-9]+(?:\.[0-9]{1,9})?S)?)?$`)

func validShareReset(value string) error {
	if value == "earliest" || value == "latest" {
		return nil
	}
	d, ok := strings.CutPrefix(value, "by_duration:")
	if ok && isoDuration.MatchString(d) && !strings.HasSuffix(d, "P") && !strings.HasSuffix(d, "T") {
		return nil
	}
	return errors.New("expected latest, earliest or by_duration:PnDTnHnMn.nS")
}

// groupTable holds what kafka-configs --entity-type groups may set (KIP-848,
// KIP-932, KIP-1071, KIP-1240). Values lie between the broker's own bounds.
var groupTable = newTable(
	integer("consumer.assignment.interval.ms", "1000", "Time, in ms, between two assignments of a consumer group.").atLeast(0).
		from("group.consumer.assignment.interval.ms").
		within("group.consumer.min.assignment.interval.ms", "group.consumer.max.assignment.interval.ms"),
	integer("consumer.session.timeout.ms", "45000", "The session timeout, in ms, of a group under the consumer protocol.").atLeast(1).
		from("group.consumer.session.timeout.ms").
		within("group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
	integer("consumer.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of a group under the consumer protocol.").atLeast(1).
		from("group.consumer.heartbeat.interval.ms").
		within("group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
	integer("share.assignment.interval.ms", "1000", "Time, in ms, between two assignments of a share group.").atLeast(0).
		from("group.share.assignment.interval.ms").
		within("group.share.min.assignment.interval.ms", "group.share.max.assignment.interval.ms"),
	integer("share.session.timeout.ms", "45000", "The session timeout, in ms, of a share group.").atLeast(1).
		from("group.share.session.timeout.ms").
		within("group.share.min.session.timeout.ms", "group.share.max.session.timeout.ms"),
	integer("share.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of a share group.").atLeast(1).
		from("group.share.heartbeat.interval.ms").
		within("group.share.min.heartbeat.interval.ms", "group.share.max.heartbeat.interval.ms"),
	integer("share.record.lock.duration.ms", "30000", "How long, in ms, a share group's record stays locked to one member.").atLeast(1000).
		from("group.share.record.lock.duration.ms").
		within("group.share.min.record.lock.duration.ms", "group.share.max.record.lock.duration.ms"),
	text("share.auto.offset.reset", "latest", "Where a share group begins: latest, earliest or by_duration:PnDTnHnMn.nS.").checked(validShareReset),
	text("share.isolation.level", "read_uncommitted", "Whether a share group waits for transactions to commit.").
		in("read_uncommitted", "read_committed"),
	integer("share.delivery.count.limit", "5", "How often a share group delivers a record before giving it up.").atLeast(2).
		from("group.share.delivery.count.limit").
		within("group.share.min.delivery.count.limit", "group.share.max.delivery.count.limit"),
	integer("share.partition.max.record.locks", "2000", "The most records of a partition that a share group locks.").atLeast(100).
		from("group.share.partition.max.record.locks").
		within("group.share.min.partition.max.record.locks", "group.share.max.partition.max.record.locks"),
	text("errors.deadletterqueue.topic.name", "", "The topic that takes the records which a share group gave up; empty for none (KIP-1191)."),
	boolean("errors.deadletterqueue.copy.record.enable", "false", "Whether such a record is copied whole, or only its whereabouts."),
	boolean("share.renew.acknowledge.enable", "true", "Whether members of a share group may renew the lock on a record."),
	integer("streams.assignment.interval.ms", "1000", "Time, in ms, between two assignments of a streams group.").atLeast(0).
		from("group.streams.assignment.interval.ms").
		within("group.streams.min.assignment.interval.ms", "group.streams.max.assignment.interval.ms"),
	integer("streams.session.timeout.ms", "45000", "The session timeout, in ms, of a streams group.").atLeast(1).
		from("group.streams.session.timeout.ms").
		within("group.streams.min.session.timeout.ms", "group.streams.max.session.timeout.ms"),
	integer("streams.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of a streams group.").atLeast(1).
		from("group.streams.heartbeat.interval.ms").
		within("group.streams.min.heartbeat.interval.ms", "group.streams.max.heartbeat.interval.ms"),
	integer("streams.initial.rebalance.delay.ms", "3000", "How long, in ms, an empty streams group waits for more members before its first assignment.").atLeast(0).
		from("group.streams.initial.rebalance.delay.ms"),
	text("streams.assignor.name", "", "The assignor of a streams group; unset, the broker's first.").null(),
	list("streams.rack.aware.assignment.tags", "", "The client tags that standby replicas of a streams group are spread over."),
	integer("streams.num.standby.replicas", "0", "Standby replicas of a streams group's tasks.").atLeast(0).
		from("group.streams.num.standby.replicas").within("", "group.streams.max.standby.replicas"),
)
