// kafkajs. Arguments: README.md beside this folder. It has no way to read but as a member of a group: `consume` makes one up.
'use strict';

const path = require('path');
const modules = process.env.NODE_CLIENTS || path.join(__dirname, '..', '..', '.cache', 'node', 'node_modules');
const load = (name) => require(path.join(modules, name));
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = load('kafkajs');

const POOL_BYTES = 524288;
const FIRST_TIMESTAMP_MS = 1700000000000;
const IDLE_MS_MAX = 30000;
const BATCH_RECORDS_MAX = 1000;
const BATCH_BYTES_MAX = 700000;
const LZ4_BLOCK_BYTES = 4 << 20;

const fail = (message) => {
  console.error(message);
  process.exit(1);
};

// The codecs that kafkajs leaves to others. Java's snappy framing, LZ4 frames and zstd frames.
const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
const installCodecs = async () => {
  const snappy = load('snappyjs');
  const lz4 = load('lz4js');
  const zstd = load('@bokuweb/zstd-wasm');
  await zstd.init();
  CompressionCodecs[CompressionTypes.Snappy] = () => ({
    async compress(encoder) {
      const block = snappy.compress(encoder.buffer);
      const length = Buffer.alloc(4);
      length.writeUInt32BE(block.length);
      return Buffer.concat([XERIAL, length, block]);
    },
    async decompress(buffer) {
      if (!buffer.subarray(0, 8).equals(XERIAL.subarray(0, 8))) return Buffer.from(snappy.uncompress(buffer));
      const blocks = [];
      for (let at = 16; at < buffer.length; ) {
        const length = buffer.readUInt32BE(at);
        blocks.push(snappy.uncompress(buffer.subarray(at + 4, at + 4 + length)));
        at += 4 + length;
      }
      return Buffer.concat(blocks);
    },
  });
  CompressionCodecs[CompressionTypes.LZ4] = () => ({
    // Kafka takes independent blocks only, which this library's own frames are not: the frame is made here.
    async compress(encoder) {
      const parts = [Buffer.from([0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73])];
      for (let at = 0; at < encoder.buffer.length; at += LZ4_BLOCK_BYTES) {
        const input = encoder.buffer.subarray(at, at + LZ4_BLOCK_BYTES);
        const output = Buffer.alloc(lz4.compressBound(input.length));
        const size = lz4.compressBlock(input, output, 0, input.length, new Uint32Array(1 << 16));
        const stored = size === 0 || size >= input.length;
        const length = Buffer.alloc(4);
        length.writeUInt32LE(stored ? (input.length | 0x80000000) >>> 0 : size);
        parts.push(length, stored ? input : output.subarray(0, size));
      }
      parts.push(Buffer.alloc(4));
      return Buffer.concat(parts);
    },
    decompress: async (buffer) => Buffer.from(lz4.decompress(buffer)),
  });
  CompressionCodecs[CompressionTypes.ZSTD] = () => ({
    compress: async (encoder) => Buffer.from(zstd.compress(encoder.buffer, 3)),
    decompress: async (buffer) => Buffer.from(zstd.decompress(buffer)),
  });
};

const makePool = () => {
  const pool = Buffer.alloc(POOL_BYTES);
  let state = 0x2545f491;
  for (let chunk = 0; chunk < POOL_BYTES / 64; chunk++) {
    if (chunk % 2) {
      pool.fill(97 + (chunk % 26), chunk * 64, chunk * 64 + 64);
      continue;
    }
    for (let word = 0; word < 16; word++) {
      state = (state ^ (state << 13)) >>> 0;
      state = (state ^ (state >>> 17)) >>> 0;
      state = (state ^ (state << 5)) >>> 0;
      pool.writeUInt32LE(state, chunk * 64 + word * 4);
    }
  }
  return pool;
};

const fnv1a = (bytes) => bytes.reduce((value, byte) => Math.imul(value ^ byte, 0x01000193) >>> 0, 0x811c9dc5);

const mix = (x) => {
  x ^= x >>> 16;
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
};

// record(index) gives {key, value, headers: [[name, value]], timestamp}; in kcat's styles no headers and a null timestamp.
const makeContent = (topic, style) => {
  const pool = makePool();
  const base = fnv1a(Buffer.from(topic));
  return (index) => {
    const h = mix((base + Math.imul(index, 0x9e3779b1)) | 0);
    const k = h & 7;
    const v = (h >>> 3) & 31;
    let key = k === 0 ? null : k === 1 ? Buffer.alloc(0) : Buffer.from(`key-${(h >>> 3) & 1023}`);
    let value = null;
    if (v === 1) value = Buffer.alloc(0);
    else if (v > 1) {
      let size = 8 + ((h >>> 8) % 185);
      if (index % 5000 === 4999) size = 100000 + ((h >>> 8) % 200000);
      else if (index % 100 === 99) size = 1024 + ((h >>> 8) % 7168);
      const start = mix((h + 1) | 0) % (POOL_BYTES - size);
      value = Buffer.concat([Buffer.from(`${topic}/${index}/`), pool.subarray(start, start + size)]);
    }
    if (style === 'full' || style === 'plain') {
      const headers = [];
      if (h >>> 29 === 0) {
        headers.push(['h', Buffer.from(String(index))], ['h', Buffer.from('again')], ['empty', Buffer.alloc(0)]);
        if (style === 'full') headers.push(['null', null]);
      }
      if (style === 'plain' && key === null && value === null) key = Buffer.alloc(0);
      return { key, value, headers, timestamp: FIRST_TIMESTAMP_MS + index };
    }
    if (style === 'nulls') {
      key = key && key.length ? key : null;
      value = value && value.length ? value : null;
    } else {
      key = key || Buffer.alloc(0);
      value = value || Buffer.alloc(0);
    }
    return { key, value, headers: [], timestamp: null };
  };
};

// kafkajs holds headers as an object; a name that comes twice has an array.
const headersAsObject = (headers) => {
  const object = {};
  for (const [name, value] of headers) {
    if (!(name in object)) object[name] = value;
    else object[name] = [].concat(object[name], [value]);
  }
  return object;
};
const sameBytes = (a, b) => (a === null || b === null ? a === b : a.equals(b));
const sameHeaders = (got, expected) => {
  const names = Object.keys(expected);
  if (Object.keys(got).join() !== names.join()) return false;
  return names.every((name) => {
    const left = [].concat(got[name]);
    const right = [].concat(expected[name]);
    return left.length === right.length && left.every((value, i) => sameBytes(value, right[i]));
  });
};
const shown = (r) => JSON.stringify(r, (_, v) => (v && v.type === 'Buffer' ? Buffer.from(v.data).toString('latin1').slice(0, 80) + `(${v.data.length})` : v));

const partitionCount = (count, partitions, partition) => Math.floor((count - partition + partitions - 1) / partitions);
const client = (bootstrap) => new Kafka({ clientId: 'clients', brokers: [bootstrap], logLevel: logLevel.ERROR, retry: { retries: 10 } });
const CODECS = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' };

const createTopic = async (kafka, topic, partitions) => {
  const admin = kafka.admin();
  await admin.connect();
  const created = await admin.createTopics({
    topics: [{ topic, numPartitions: partitions, replicationFactor: 1, configEntries: [{ name: 'retention.ms', value: '-1' }] }],
    waitForLeaders: true,
  });
  if (!created) fail(`${topic} exists`);
  // Kafka may name a leader before that leader has its log; a produce with acks=0 in between is lost without a word.
  // This call tries again until every leader has answered.
  await admin.fetchTopicOffsets(topic);
  await admin.disconnect();
};

const produce = async (bootstrap, topic, partitions, count, codec, acks, style) => {
  const kafka = client(bootstrap);
  await createTopic(kafka, topic, partitions);
  const record = makeContent(topic, style);
  const all = acks === 'all';
  const producer = kafka.producer({ idempotent: all, maxInFlightRequests: 1 });
  await producer.connect();
  const nextOffset = new Array(partitions).fill(0);
  const send = async (messages) => {
    const answers = await producer.send({ topic, messages, acks: all ? -1 : Number(acks), compression: CompressionTypes[CODECS[codec]], timeout: 30000 });
    if (acks !== '0') {
      for (const { partition, baseOffset, errorCode } of answers) {
        if (errorCode !== 0 || Number(baseOffset) !== nextOffset[partition]) fail(`${topic}-${partition}: error ${errorCode}, acknowledged at ${baseOffset} where ${nextOffset[partition]} is next`);
      }
    }
    for (const { partition } of messages) nextOffset[partition]++;
  };
  let messages = [];
  let bytes = 0;
  for (let index = 0; index < count; index++) {
    const { key, value, headers, timestamp } = record(index);
    messages.push({ key, value, partition: index % partitions, headers: headersAsObject(headers), timestamp: timestamp === null ? undefined : String(timestamp) });
    bytes += value === null ? 0 : value.length;
    if (messages.length >= BATCH_RECORDS_MAX || bytes >= BATCH_BYTES_MAX) {
      await send(messages);
      messages = [];
      bytes = 0;
    }
  }
  if (messages.length) await send(messages);
  await producer.disconnect();
};

const group = async (bootstrap, topic, partitions, count, style, name) => {
  const kafka = client(bootstrap);
  const record = makeContent(topic, style);
  const consumer = kafka.consumer({ groupId: name, maxWaitTimeInMs: 100 });
  const next = new Array(partitions).fill(0);
  let seen = 0;
  let lastProgress = Date.now();
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  const finished = new Promise((resolve) => {
    const watch = setInterval(() => {
      if (Date.now() - lastProgress > IDLE_MS_MAX) fail(`${topic}: nothing new for ${IDLE_MS_MAX} ms, at ${next}, ${seen} of ${count} records`);
    }, 1000);
    consumer
      .run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        eachBatch: async ({ batch, resolveOffset, heartbeat }) => {
          const partition = batch.partition;
          for (const message of batch.messages) {
            const position = next[partition];
            if (Number(message.offset) !== position) fail(`${topic}-${partition}: offset ${message.offset} where ${position} is next`);
            const index = partition + position * partitions;
            if (index >= count) fail(`${topic}-${partition}: more records than were written: offset ${message.offset}`);
            const expected = record(index);
            const same =
              sameBytes(message.key, expected.key) &&
              sameBytes(message.value, expected.value) &&
              sameHeaders(message.headers, headersAsObject(expected.headers)) &&
              (expected.timestamp === null || Number(message.timestamp) === expected.timestamp);
            if (!same) fail(`${topic}-${partition}@${position} (record ${index}):\n got      ${shown(message)}\n expected ${shown(expected)}`);
            next[partition]++;
            seen++;
            resolveOffset(message.offset);
          }
          lastProgress = Date.now();
          await heartbeat();
          if (seen >= count) {
            clearInterval(watch);
            resolve();
          }
        },
      })
      .catch((error) => fail(`${topic}: ${error}`));
  });
  await finished;
  await consumer.commitOffsets(next.map((offset, partition) => ({ topic, partition, offset: String(offset) })));
  const admin = kafka.admin();
  await admin.connect();
  const ends = await admin.fetchTopicOffsets(topic);
  const [committed] = await admin.fetchOffsets({ groupId: name, topics: [topic] });
  for (let partition = 0; partition < partitions; partition++) {
    const expected = partitionCount(count, partitions, partition);
    const end = Number(ends.find((p) => p.partition === partition).high);
    const offset = Number(committed.partitions.find((p) => p.partition === partition).offset);
    if (end !== expected || offset !== expected) fail(`${topic}-${partition}: ends at ${end}, committed ${offset}, expected ${expected}`);
  }
  await admin.disconnect();
  await consumer.disconnect();
};

const consume = (bootstrap, topic, partitions, count, style) => group(bootstrap, topic, partitions, count, style, `${topic}-kafkajs-${process.pid}`);

const main = async () => {
  const [command, bootstrap, topic, partitions, count, ...rest] = process.argv.slice(2);
  const commands = { produce, consume, group };
  if (!commands[command]) fail(`one of: ${Object.keys(commands)}`);
  await installCodecs();
  await commands[command](bootstrap, topic, Number(partitions), Number(count), ...rest);
  process.exit(0);
};

main().catch((error) => fail(error.stack || String(error)));
