// Members of a consumer group that say what happens to them, with kafkajs, which knows the eager protocol only.
//   node group_member.js BOOTSTRAP GROUP TOPIC MEMBERS
// The lines are those that group_check.py reads. SIGTERM: commit, leave and end.
'use strict';

const path = require('path');
const { Kafka, logLevel } = require(path.join(process.env.NODE_CLIENTS, 'kafkajs'));

const [bootstrap, group, topic, members] = process.argv.slice(2);
const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const say = (event, member, partition, first = -1, last = -1) => process.stdout.write(`${event} ${now()} ${member} ${partition} ${first} ${last}\n`);

async function member(number) {
  const me = `kafkajs-${process.pid}-${number}`;
  const kafka = new Kafka({ clientId: me, brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 100 } });
  const consumer = kafka.consumer({ groupId: group, sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000 });
  let assigned = [];
  const drop = () => {
    for (const partition of assigned) say('revoke', me, partition);
    assigned = [];
  };
  // Emitted when the assignment is known and before offsets are fetched for it.
  consumer.on(consumer.events.GROUP_JOIN, (event) => {
    drop();
    assigned = event.payload.memberAssignment[topic] || [];
    for (const partition of assigned) say('assign', me, partition);
  });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    partitionsConsumedConcurrently: 8,
    eachBatch: async ({ batch, heartbeat, isRunning, isStale, resolveOffset }) => {
      if (!isRunning() || isStale() || batch.messages.length === 0) return;
      const first = batch.messages[0].offset;
      const last = batch.messages[batch.messages.length - 1].offset;
      say('read', me, batch.partition, first, last);
      const next = (BigInt(last) + 1n).toString();
      await consumer.commitOffsets([{ topic, partition: batch.partition, offset: next }]);
      say('commit', me, batch.partition, next);
      resolveOffset(last);
      await heartbeat();
    },
  });
  return async () => {
    await consumer.disconnect();
    drop();
  };
}

(async () => {
  const ends = await Promise.all([...Array(Number(members)).keys()].map(member));
  process.on('SIGTERM', async () => {
    await Promise.all(ends.map((end) => end()));
    process.exit(0);
  });
})();
