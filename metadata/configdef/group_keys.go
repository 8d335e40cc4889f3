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
	integer("consumer.session.timeout.ms", "45000", "The session timeout, in ms, of a group under the consumer protocol.").atLeast(1).
		from("group.consumer.session.timeout.ms").
		within("group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"),
	integer("consumer.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of a group under the consumer protocol.").atLeast(1).
		from("group.consumer.heartbeat.interval.ms").
		within("group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"),
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
	integer("share.delivery.count.limit", "5", "How often a share group delivers a record before giving it up.").between(2, 10).
		from("group.share.delivery.count.limit"),
	integer("share.partition.max.record.locks", "2000", "The most records of a partition that a share group locks.").between(100, 10000).
		from("group.share.partition.max.record.locks"),
	boolean("share.renew.acknowledge.enable", "true", "Whether members of a share group may renew the lock on a record."),
	integer("streams.session.timeout.ms", "45000", "The session timeout, in ms, of a streams group.").atLeast(1).
		from("group.streams.session.timeout.ms").
		within("group.streams.min.session.timeout.ms", "group.streams.max.session.timeout.ms"),
	integer("streams.heartbeat.interval.ms", "5000", "The heartbeat interval, in ms, of a streams group.").atLeast(1).
		from("group.streams.heartbeat.interval.ms").
		within("group.streams.min.heartbeat.interval.ms", "group.streams.max.heartbeat.interval.ms"),
	integer("streams.num.standby.replicas", "0", "Standby replicas of a streams group's tasks.").atLeast(0).
		from("group.streams.num.standby.replicas").within("", "group.streams.max.standby.replicas"),
)
