// Opens the page of a broker that has 3,000 partitions, records, and a group that lags, and compares what it shows with what
// was written. Started by scripts/page.sh:
//   node look.js BOOTSTRAP HTTP-ADDRESS CHROMIUM [SCREENSHOTS]
// with a directory for screenshots, if they are wanted. Any error on the page's console fails it.
'use strict';
const assert = require('node:assert');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { Kafka, logLevel } = require('kafkajs');
const { chromium } = require('playwright-core');

const [bootstrap, address, executablePath, screenshots] = process.argv.slice(2);
const TOPICS = 30;
const PARTITIONS = 100;
const RECORDS = 4000;
const READ = 1500;
const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

// Something that is to become true, looked at until it is.
async function until(what, check, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const got = await check();
    if (got === true) return;
    if (Date.now() > deadline) throw new Error(`${what}: ${JSON.stringify(got)} after ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function main() {
  const kafka = new Kafka({ clientId: 'page', brokers: [bootstrap], logLevel: logLevel.NOTHING });
  const admin = kafka.admin();
  await admin.connect();
  const names = Array.from({ length: TOPICS }, (_, index) => `page-${String(index).padStart(2, '0')}`);
  await admin.createTopics({ waitForLeaders: false, topics: names.map((topic) => ({ topic, numPartitions: PARTITIONS })) });
  const producer = kafka.producer();
  await producer.connect();
  const value = Buffer.alloc(100, 'x');
  await producer.send({ topic: 'page-07', messages: Array.from({ length: RECORDS }, () => ({ partition: 42, value })) });

  const consumer = kafka.consumer({ groupId: 'page <readers>', sessionTimeout: 30000 });
  await consumer.connect();
  await consumer.subscribe({ topic: 'page-07', fromBeginning: true });
  const joined = new Promise((resolve) => { consumer.on(consumer.events.GROUP_JOIN, resolve); });
  await consumer.run({ autoCommit: false, eachMessage: async () => {} });
  await joined;
  await consumer.commitOffsets([{ topic: 'page-07', partition: 42, offset: String(READ) }]);

  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'millstream-page-'));
  const context = await chromium.launchPersistentContext(profile, { executablePath, args: flags, viewport: { width: 1280, height: 900 } });
  try {
    const page = await context.newPage();
    const errors = [];
    page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
    page.on('pageerror', (error) => errors.push(String(error)));
    page.on('request', (request) => {
      const url = new URL(request.url());
      if (url.protocol !== 'data:' && url.host !== address) errors.push(`it asks ${url}`);
    });
    const response = await page.goto(`http://${address}/`);
    assert.strictEqual(response.headers()['cache-control'], 'no-store');
    assert.match(response.headers()['content-security-policy'], /^default-src 'none'; script-src 'self'/);
    const text = (selector) => page.textContent(selector);
    const rows = (list) => page.$$eval(`#${list} tbody tr`, (trs) => trs.map((tr) => [...tr.children].map((td) => td.textContent)));

    // What was written while nobody looked.
    const sizes = await (await fetch(`http://${address}/partitions.json?search=page-07&sort=bytes&order=descending`)).json();
    const [largest] = sizes.rows;
    assert.deepStrictEqual([largest.partition, largest.records], [42, RECORDS]);
    const held = `${(largest.bytes / 1024).toFixed(largest.bytes < 102400 ? 1 : 0)} KiB`;
    await until('the partitions', async () => {
      const [first] = await rows('partitions');
      return JSON.stringify(first) === JSON.stringify(['page-07', '42', held, '4,000', '0', '4,000', '1', '1']) || first;
    });
    await until('the group', async () => {
      const shown = await rows('groups');
      const expected = [['page <readers>', 'Stable', '1', '1', '2,500', 'page-07-42: 2,500']];
      return JSON.stringify(shown) === JSON.stringify(expected) || shown;
    });
    // 50 more are those of __consumer_offsets.
    await until('the number of partitions', async () => {
      const shown = await text('#tile-partition-count strong');
      return shown === (TOPICS * PARTITIONS + 50).toLocaleString('en-US') || shown;
    });
    assert.strictEqual(await text('#tile-group-count strong'), '1');
    await until('its state', async () => ['healthy', 'look'].includes(await text('#state')) || text('#state'));
    assert.strictEqual(await page.$$eval('#cores .meter', (meters) => meters.length), 2);
    assert.strictEqual(await page.$$eval('#problems .bad', (bad) => bad.length), 0);

    // Filters, sorts, turns pages.
    await page.fill('#partitions input', 'PAGE-1');
    await until('the filter', async () => {
      const sums = await text('#partitions .sums');
      return sums.startsWith('1,000 of 3,050 partitions, 0 B, 0 records') || sums;
    });
    await page.click('#partitions th:nth-child(1) button');
    await until('the order of names', async () => (await rows('partitions'))[0].slice(0, 2).join() === 'page-10,0');
    await page.click('#partitions .pager button:nth-child(2)');
    await until('the next page', async () => (await rows('partitions'))[0].slice(0, 2).join() === 'page-10,25');
    assert.strictEqual(await text('#partitions .pager span'), '26 to 50 of 1,000');
    await page.fill('#partitions input', 'nothing');
    await until('nothing to be found', async () => (await rows('partitions')).join() === 'none');
    await page.fill('#partitions input', '');

    // What is written while the page looks on.
    let written = RECORDS;
    let stop = false;
    const writing = (async () => {
      while (!stop) {
        await producer.send({ topic: 'page-07', messages: Array.from({ length: 500 }, () => ({ partition: 42, value })) });
        written += 500;
      }
    })();
    await until('the rates', async () => {
      const shown = [await text('#tile-bytes-in strong'), await text('#tile-records-in strong'), await text('#tile-produce strong')];
      return (!/^(0|–)/.test(shown[0]) && !/^(0|–)/.test(shown[1]) && /(ms|µs|s)$/.test(shown[2])) || shown;
    });
    await until('the charts', async () => (await page.$$eval('#chart-bytes polyline, #chart-latency polyline', (lines) => lines.length)) >= 4);
    await until('the stages', async () => (await page.$$eval('#chart-stages polygon', (areas) => areas.length)) === 5);
    if (screenshots) await new Promise((resolve) => setTimeout(resolve, 20000));
    stop = true;
    await writing;
    await until('the new size', async () => {
      await page.fill('#partitions input', 'page-07');
      await page.click('#partitions th:nth-child(4) button');
      const [first] = await rows('partitions');
      return first[3] === written.toLocaleString('en-US') || first;
    });
    await until('the new lag', async () => {
      const [first] = await rows('groups');
      return first[4] === (written - READ).toLocaleString('en-US') || first;
    });

    await page.fill('#partitions input', '');
    for (const [name, colorScheme, viewport] of [['light', 'light', { width: 1280, height: 900 }], ['dark', 'dark', { width: 1280, height: 900 }],
      ['phone', 'light', { width: 390, height: 844 }]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize(viewport);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= viewport.width, `${name}: the page is ${wide} pixels wide`);
      if (screenshots) await page.screenshot({ path: path.join(screenshots, `page-${name}.png`), fullPage: true });
    }

    // What is wrong is told, with what to do.
    let change = null;
    await page.route('**/status.json', async (route) => {
      const answer = await route.fetch();
      const status = await answer.json();
      if (change) change(status);
      await route.fulfill({ response: answer, json: status });
    });
    for (const [level, expected, made] of [
      ['bad', /^The disk is full: produce requests are refused/, (status) => { status.shards.millstream_log_out_of_space[0] = 1; }],
      ['bad', /^7 reads found damaged data/, (status) => { status.shards.millstream_log_damaged_reads_total[1] = 7; }],
      ['bad', /^Memory is full/, (status) => { status.process.millstream_memory_pressure = 2; }],
      ['warn', /^The disk is nearly full: /, (status) => { status.process.millstream_data_free_bytes = 1.5 * status.process.millstream_data_free_floor_bytes; }],
      ['bad', /^Not healthy: shard 1 did not come to a turn/, (status) => {
        status.trouble = 'shard 1 did not come to a turn within 3 s';
        for (const values of Object.values(status.shards)) values[1] = null;
      }],
    ]) {
      change = made;
      await until(String(expected), async () => {
        const told = await page.$$eval('#problems li', (problems) => problems.map((problem) => [problem.className, problem.textContent]));
        return told.some(([shown, what]) => shown === level && expected.test(what)) || told;
      });
    }
    assert.strictEqual(await text('#cores .meter:nth-child(2) .text'), 'does not answer');
    await page.unroute('**/status.json');
    await until('that it is well again', async () => (await page.$$eval('#problems .bad', (bad) => bad.length)) === 0);

    // What the page costs the shards.
    const status = await (await fetch(`http://${address}/status.json`)).json();
    const longest = Math.max(...status.shards['millstream_turn_work_seconds_max{work="gather"}']);
    const heldUp = status.shards['millstream_turn_stalls_held_total{work="gather"}'].reduce((total, count) => total + count, 0);
    console.log(`answering took a shard ${(longest * 1e6).toFixed(0)} µs at most, with whatever else ran on its core; it held it up ${heldUp} times`);
    assert.strictEqual(heldUp, 0);
    assert.deepStrictEqual(errors, []);

    await Promise.all([producer.disconnect(), consumer.disconnect(), admin.disconnect()]);
    // Tells when the broker is gone. Chromium reports requests that fail on the console by itself.
    process.kill(Number(process.env.BROKER_PID), 'SIGTERM');
    await until('that the broker is gone', async () => (await text('#state')) === 'no answer' || text('#state'));
    errors.length = 0;
  } finally {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true });
  }
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
