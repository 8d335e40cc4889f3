"""confluent-kafka (newest librdkafka): codecs, idempotence, time, admin."""

import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, OffsetSpec

broker, topic = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": broker})
for future in admin.create_topics([NewTopic(topic, num_partitions=2, replication_factor=1, config={"retention.ms": "7200000"})]).values():
    future.result(30)

failures = []
base = int(time.time() * 1000) - 100_000
sent = 0
for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
    producer = Producer({"bootstrap.servers": broker, "compression.type": codec, "enable.idempotence": True, "linger.ms": 5})
    for n in range(500):
        producer.produce(topic, f"{codec}-{n}" * 20, key=str(n), partition=0, timestamp=base + sent, headers={"codec": codec},
                         on_delivery=lambda err, _: failures.append(err) if err else None)
        sent += 1
        producer.poll(0)
    assert producer.flush(30) == 0
assert not failures, failures[:3]

consumer = Consumer({"bootstrap.servers": broker, "group.id": topic, "enable.auto.commit": False})
consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
offsets = []
while len(offsets) < sent:
    m = consumer.poll(10)
    assert m is not None, f"nothing after {len(offsets)} records"
    assert m.error() is None, m.error()
    offsets.append(m.offset())
assert offsets == list(range(sent))
assert consumer.get_watermark_offsets(TopicPartition(topic, 0)) == (0, sent)
at = consumer.offsets_for_times([TopicPartition(topic, 0, base + 1234)], timeout=10)[0]
assert at.offset == 1234, at
consumer.close()

res = ConfigResource(ConfigResource.Type.TOPIC, topic)
conf = admin.describe_configs([res])[res].result(30)
assert conf["retention.ms"].value == "7200000" and not conf["retention.ms"].is_default
for future in admin.create_partitions([NewPartitions(topic, 4)]).values():
    future.result(30)
deadline = time.time() + 10
while len(admin.list_topics(topic, timeout=10).topics[topic].partitions) != 4:
    assert time.time() < deadline
    time.sleep(0.1)
latest = admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.latest()})
assert next(iter(latest.values())).result(30).offset == sent
deleted = admin.delete_records([TopicPartition(topic, 0, 100)])
assert next(iter(deleted.values())).result(30).low_watermark == 100
cluster = admin.describe_cluster().result(30)
assert cluster.cluster_id and cluster.nodes
for future in admin.delete_topics([topic]).values():
    future.result(30)
print("done")
