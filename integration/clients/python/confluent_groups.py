"""confluent-kafka: two members share three partitions (eager, then cooperative),
a static member comes back, and admin sees the group."""

import sys
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

broker, topic = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": broker})
for future in admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=1)]).values():
    future.result(30)
producer = Producer({"bootstrap.servers": broker})
for n in range(300):
    producer.produce(topic, str(n), partition=n % 3)
assert producer.flush(30) == 0


def member(group, strategy, name=None):
    conf = {"bootstrap.servers": broker, "group.id": group, "auto.offset.reset": "earliest",
            "partition.assignment.strategy": strategy, "enable.auto.commit": False, "session.timeout.ms": 10000}
    if name:
        conf["group.instance.id"] = name
    c = Consumer(conf)
    c.subscribe([topic])
    return c


def until(what, consumers, done, seconds=40):
    values, end = [], time.time() + seconds
    while not done(values):
        assert time.time() < end, f"{what}: not after {seconds} s; {[c.assignment() for c in consumers]}"
        for c in consumers:
            m = c.poll(0.1)
            if m is not None and m.error() is None:
                values.append(int(m.value()))
    return values


for strategy in ("range", "cooperative-sticky"):
    group = f"{topic}-{strategy}"
    a = member(group, strategy)
    seen = until("one member reads all", [a], lambda v: len(v) >= 300)
    assert sorted(seen) == list(range(300))
    b = member(group, strategy)
    until("the second gets its share", [a, b],
          lambda _: len(a.assignment()) + len(b.assignment()) == 3 and a.assignment() and b.assignment())
    a.commit(offsets=[TopicPartition(topic, p.partition, 100) for p in a.assignment()], asynchronous=False)
    a.close()
    until("the second gets all", [b], lambda _: len(b.assignment()) == 3)
    described = admin.describe_consumer_groups([group])[group].result(30)
    assert len(described.members) == 1 and described.state.name == "STABLE", described.state
    b.commit(offsets=[TopicPartition(topic, p, 42) for p in range(3)], asynchronous=False)
    b.close()
    committed = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(30)
    assert {p.offset for p in committed.topic_partitions} == {42}, committed.topic_partitions
    admin.delete_consumer_groups([group])[group].result(30)

static = member(topic + "-static", "range", "instance-1")
until("the static member is assigned", [static], lambda _: len(static.assignment()) == 3)
static.close()
static = member(topic + "-static", "range", "instance-1")
until("the static member is back", [static], lambda _: len(static.assignment()) == 3)
static.close()
print("done")
