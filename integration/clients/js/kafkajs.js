// kafkajs: admin, producer with keys, headers, gzip and idempotence, a consumer
// group, seek, offsets by time.
const assert = require('node:assert')
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')

const [broker, topic] = process.argv.slice(2)
const kafka = new Kafka({ clientId: 'checks', brokers: [broker], logLevel: logLevel.NOTHING })

async function read(groupId, count, from) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10000 })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  const got = []
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`only ${got.length} of ${count} messages came`)), 40000)
    consumer
      .run({
        eachMessage: async ({ partition, message }) => {
          got.push({ partition, ...message })
          if (got.length === count) {
            clearTimeout(timer)
            resolve()
          }
        },
      })
      .catch(reject)
    if (from) consumer.seek({ topic, ...from })
  })
  await consumer.stop()
  await consumer.disconnect()
  return got
}

async function main() {
  const admin = kafka.admin()
  await admin.connect()
  assert(await admin.createTopics({ topics: [{ topic, numPartitions: 3 }] }))
  const base = Date.now() - 100000

  const plain = kafka.producer()
  await plain.connect()
  for (let i = 0; i < 10; i++) {
    await plain.send({
      topic,
      compression: i % 2 ? CompressionTypes.GZIP : CompressionTypes.None,
      messages: Array.from({ length: 20 }, (_, n) => ({
        key: `k${n % 5}`, value: `v${i * 20 + n}`, headers: { n: String(n) }, timestamp: String(base + i * 20 + n),
      })),
    })
  }
  await plain.disconnect()

  const idempotent = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await idempotent.connect()
  await idempotent.send({ topic, messages: [{ key: 'k0', value: 'v200', partition: 0 }] })
  await idempotent.disconnect()

  const got = await read(`${topic}-group`, 201)
  assert.deepStrictEqual(new Set(got.map((m) => m.value.toString())), new Set(Array.from({ length: 201 }, (_, i) => `v${i}`)))
  assert(got.some((m) => m.headers.n && m.headers.n.toString() === '7'))

  const ends = await admin.fetchTopicOffsets(topic)
  assert.strictEqual(ends.reduce((sum, p) => sum + Number(p.high), 0), 201)
  const later = await admin.fetchTopicOffsetsByTimestamp(topic, base + 100)
  assert(later.some((p) => Number(p.offset) > 0))
  const groups = await admin.describeGroups([`${topic}-group`])
  assert.strictEqual(groups.groups[0].protocolType, 'consumer')
  await admin.deleteTopics({ topics: [topic] })
  await admin.disconnect()
  console.log('done')
}

main().catch((err) => {
  console.error(err)
  process.exit(1)
})
