"""kafka-python: codecs, acks, headers, timestamps, seeking by time, offsets, admin."""

import sys
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

broker, topic = sys.argv[1:]
base = int(time.time() * 1000) - 100_000

total = 0
for codec in (None, "gzip"):
    for acks in (0, 1, "all"):
        producer = KafkaProducer(bootstrap_servers=broker, compression_type=codec, acks=acks, linger_ms=5)
        for n in range(50):
            producer.send(topic, value=f"{codec} {acks} {n}".encode() * 10, key=b"k" if n % 2 else None,
                          headers=[("n", str(n).encode())], timestamp_ms=base + total, partition=0)
            total += 1
        producer.flush()
        producer.close()

tp = TopicPartition(topic, 0)
consumer = KafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest", consumer_timeout_ms=10000)
consumer.assign([tp])
consumer.seek_to_beginning(tp)
got = []
for m in consumer:
    got.append(m)
    if len(got) == total:
        break
assert [m.offset for m in got] == list(range(total)), len(got)
assert all(m.timestamp == base + i for i, m in enumerate(got))
assert all(dict(m.headers)["n"] == str(i % 50).encode() for i, m in enumerate(got))
assert consumer.beginning_offsets([tp])[tp] == 0
assert consumer.end_offsets([tp])[tp] == total
found = consumer.offsets_for_times({tp: base + 123})[tp]
assert (found.offset, found.timestamp) == (123, base + 123), found
assert consumer.offsets_for_times({tp: base + 10_000_000})[tp] is None
consumer.seek(tp, 123)
assert next(consumer).offset == 123
consumer.close()

admin = KafkaAdminClient(bootstrap_servers=broker)
assert topic in admin.list_topics()
assert admin.describe_cluster()["cluster_id"]
admin.delete_topics([topic])
deadline = time.time() + 10
while topic in admin.list_topics():
    assert time.time() < deadline, "the topic is still there after its deletion"
    time.sleep(0.1)
admin.close()
print("done")
