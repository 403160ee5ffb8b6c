'use strict';
// The page's program. It keeps the history that it shows itself: what the broker tells are counters since its start.

const STATUS_INTERVAL_MS = 2000;
const LIST_INTERVAL_MS = 5000;
const ANSWER_MS_MAX = 8000;
const HISTORY_MAX = 300;
const ROWS = 25;

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, text = '') {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.textContent = text;
  return made;
}

// ---- Numbers for people ----

const whole = (value) => Math.round(value).toLocaleString('en-US');

function scaled(value, step, units) {
  let unit = 0;
  while (value >= step && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  const digits = value >= 100 || (unit === 0 && Number.isInteger(value)) ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)}${units[unit]}`;
}
const bytes = (value) => scaled(value, 1024, [' B', ' KiB', ' MiB', ' GiB', ' TiB', ' PiB']);
const amount = (value) => (value < 10000 && Number.isInteger(value) ? whole(value) : scaled(value, 1000, ['', ' k', ' M', ' G', ' T']));
const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;

function duration(seconds) {
  if (seconds === null) return '–';
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 2 : 1)} ms`;
  return `${seconds.toFixed(2)} s`;
}

function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

// ---- What the broker tells ----

async function ask(path) {
  const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS_MAX) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

const sum = (values) => (values || []).reduce((total, value) => total + (value || 0), 0);

// The numbers of one answer, as the page needs them.
function digest(status) {
  const total = (name) => sum(status.shards[name]);
  const shards = (status.shards.millstream_turns_total || []).length;
  const sums = new Array(shards).fill(0);
  let requests = 0;
  let held = 0;
  for (const [key, values] of Object.entries(status.shards)) {
    if (key.startsWith('millstream_turn_work_seconds_total{')) values.forEach((value, shard) => { sums[shard] += value || 0; });
    if (key.startsWith('millstream_requests_total{')) requests += sum(values);
    if (key.startsWith('millstream_turn_stalls_held_total{')) held += sum(values);
  }
  return {
    at: performance.now() / 1000,
    started: status.process.process_start_time_seconds,
    silent: (status.shards.millstream_turns_total || []).flatMap((value, shard) => (value === null ? [shard] : [])),
    busy: sums,
    requests,
    held,
    bytesIn: total('millstream_produced_bytes_total'),
    recordsIn: total('millstream_produced_records_total'),
    bytesOut: total('millstream_fetch_memory_bytes_total') + total('millstream_fetch_sendfile_bytes_total'),
    produceErrors: total('millstream_produce_partition_errors_total'),
    fetchErrors: total('millstream_fetch_partition_errors_total'),
    refused: total('millstream_connections_refused_total'),
    stuck: total('millstream_connections_stuck_closed_total'),
    journalFull: total('millstream_log_journal_full_total'),
    damaged: total('millstream_log_damaged_reads_total'),
    unreadable: total('millstream_group_records_unreadable_total'),
    outOfSpace: total('millstream_log_out_of_space'),
    connections: total('millstream_connections'),
    partitions: total('millstream_partitions'),
    led: total('millstream_partitions_led'),
    underReplicated: total('millstream_partitions_under_replicated'),
    underMinIsr: total('millstream_partitions_under_min_isr'),
    groups: total('millstream_groups'),
    members: total('millstream_group_members'),
    histograms: status.histograms,
    process: status.process,
  };
}

// What happened between two digests, per second.
function between(before, after) {
  const seconds = after.at - before.at;
  const rate = (name) => Math.max(0, after[name] - before[name]) / seconds;
  const point = { at: after.at, bytesIn: rate('bytesIn'), bytesOut: rate('bytesOut'), recordsIn: rate('recordsIn'),
    requests: rate('requests'), busy: after.busy.map((value, shard) => Math.min(1, Math.max(0, value - before.busy[shard]) / seconds)),
    latency: {} };
  for (const api of ['Produce', 'Fetch', 'other']) {
    point.latency[api] = { ...spread(before, after, api), stages: stages(before, after, api) };
  }
  return point;
}

const nothing = { count: 0, sum: 0, buckets: [] };

// Quantiles of what was counted between two digests; null when that was nothing.
function spread(before, after, api) {
  const key = `millstream_request_duration_seconds{api="${api}"}`;
  const earlier = new Map((before.histograms[key] || nothing).buckets);
  const buckets = (after.histograms[key] || nothing).buckets
    .map(([bound, count]) => [bound, count - (earlier.get(bound) || 0)]).filter(([, count]) => count > 0);
  const count = buckets.reduce((total, [, of]) => total + of, 0);
  const quantile = (part) => {
    let left = part * count;
    for (const [bound, of] of buckets) {
      left -= of;
      if (left <= 0) return bound === null ? 69 : bound;
    }
    return null;
  };
  return { count, p50: quantile(0.5), p99: quantile(0.99) };
}

const STAGES = { Produce: ['queue', 'parse', 'append', 'commit', 'respond'],
  Fetch: ['queue', 'parse', 'read', 'wait', 'load', 'respond'], other: ['queue', 'handle', 'wait', 'respond'] };

// The mean of each stage in seconds; null when there was no request.
function stages(before, after, api) {
  return STAGES[api].map((stage) => {
    const key = `millstream_request_stage_seconds{api="${api}",stage="${stage}"}`;
    const [earlier, later] = [before.histograms[key] || nothing, after.histograms[key] || nothing];
    const count = later.count - earlier.count;
    return count > 0 ? Math.max(0, later.sum - earlier.sum) / count : null;
  });
}

// ---- Charts ----

// Rounds up to 1, 2 or 5 times a power of ten (of 1024 for bytes).
function ceiling(value, binary) {
  const unit = binary ? 1024 ** Math.max(0, Math.floor(Math.log(Math.max(1, value)) / Math.log(1024))) : 1;
  const inUnit = value / unit;
  const power = 10 ** Math.floor(Math.log10(inUnit));
  return unit * power * ([1, 2, 5, 10].find((step) => inUnit <= step * power * 1.0001) || 10);
}

// A chart of series over time. `series`: names; `values(point)`: one value (or null) for each.
class Chart {
  constructor(id, { format, stacked = false, binary = false, least }) {
    this.box = byId(id);
    Object.assign(this, { format, stacked, binary, least, cursor: null });
    this.svg = drawn('svg', { role: 'img' });
    this.legend = element('div', { class: 'legend' });
    this.box.append(this.svg, this.legend);
    this.svg.addEventListener('pointermove', (event) => this.point(event));
    this.svg.addEventListener('pointerleave', () => { this.cursor = null; this.draw(); });
  }

  show(points, series, values) {
    this.points = points.map((point) => ({ at: point.at, values: values(point) }));
    this.series = series;
    this.draw();
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    this.cursor = (event.clientX - box.left) / box.width;
    this.draw();
  }

  draw() {
    if (!this.points) return;
    const [width, height, left, bottom] = [this.svg.clientWidth || 600, this.svg.clientHeight || 170, 4, 16];
    const now = this.points.length ? this.points[this.points.length - 1].at : 0;
    const span = Math.max(60, Math.min(600, this.points.length ? now - this.points[0].at : 60));
    const heightOf = (point) => (this.stacked ? sum(point.values) : Math.max(0, ...point.values.map((value) => value || 0)));
    const top = ceiling(Math.max(this.least, ...this.points.map(heightOf)), this.binary);
    const x = (at) => left + (width - left) * (1 - (now - at) / span);
    const y = (value) => (height - bottom) * (1 - value / top) + 2;
    const parts = [];
    for (const part of [0, 0.5, 1]) {
      parts.push(drawn('line', { class: 'grid', x1: left, x2: width, y1: y(part * top), y2: y(part * top) }));
      if (part) parts.push(drawn('text', { x: left, y: y(part * top) + 12 }, this.format(part * top)));
    }
    parts.push(drawn('text', { x: left, y: height - 2 }, `${age(span)} ago`), drawn('text', { x: width, y: height - 2, 'text-anchor': 'end' }, 'now'));
    const base = new Array(this.points.length).fill(0);
    this.series.forEach((_, index) => {
      const upper = [];
      const lower = [];
      const runs = [[]];
      this.points.forEach((point, place) => {
        const value = point.values[index];
        if (this.stacked) {
          lower.unshift(`${x(point.at).toFixed(1)},${y(base[place]).toFixed(1)}`);
          base[place] += value || 0;
          upper.push(`${x(point.at).toFixed(1)},${y(base[place]).toFixed(1)}`);
        } else if (value === null) runs.push([]);
        else runs[runs.length - 1].push(`${x(point.at).toFixed(1)},${y(value).toFixed(1)}`);
      });
      if (this.stacked) parts.push(drawn('polygon', { class: `area k${index}`, points: [...upper, ...lower].join(' ') }));
      // A point without neighbours is drawn as a dot.
      else for (const run of runs) {
        if (run.length === 1) parts.push(drawn('circle', { class: `k${index}`, cx: run[0].split(',')[0], cy: run[0].split(',')[1], r: 1.5 }));
        else if (run.length) parts.push(drawn('polyline', { class: `line k${index}`, points: run.join(' ') }));
      }
    });
    let shown = this.points[this.points.length - 1];
    let when = '';
    if (this.cursor !== null && this.points.length) {
      const at = now - span * (1 - this.cursor);
      shown = this.points.reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best));
      parts.push(drawn('line', { class: 'cursor', x1: x(shown.at), x2: x(shown.at), y1: 0, y2: height - bottom }));
      when = `${age(now - shown.at)} ago`;
    }
    this.svg.replaceChildren(...parts);
    this.legend.replaceChildren(...this.series.map((name, index) => {
      const value = shown && shown.values[index];
      return element('span', {}, element('i', { class: `key k${index}` }), `${name} `,
        element('b', {}, value === null || value === undefined ? '–' : this.format(value)));
    }), when);
  }
}

// ---- Tables ----

// A list that the broker searches, sorts and cuts.
class List {
  constructor(id, path, columns, { sort, sums }) {
    Object.assign(this, { path, columns, sort, sums, descending: true, offset: 0, asked: 0 });
    this.box = byId(id);
    this.search = this.box.querySelector('input');
    this.search.addEventListener('input', () => { this.offset = 0; this.load(); });
    this.body = this.box.querySelector('tbody');
    const heads = columns.map((column) => {
      const button = element('button', { type: 'button' }, column.title);
      button.addEventListener('click', () => {
        this.descending = this.sort === column.sort ? !this.descending : column.number === true;
        this.sort = column.sort;
        this.offset = 0;
        this.load();
      });
      column.head = element('th', column.number ? { class: 'number' } : {}, column.sort ? button : column.title);
      return column.head;
    });
    this.box.querySelector('thead').append(element('tr', {}, ...heads));
    const turn = (by) => () => { this.offset = Math.max(0, this.offset + by * ROWS); this.load(); };
    this.before = element('button', { type: 'button' }, 'Previous');
    this.after = element('button', { type: 'button' }, 'Next');
    this.before.addEventListener('click', turn(-1));
    this.after.addEventListener('click', turn(1));
    this.place = element('span');
    this.box.querySelector('.pager').append(this.before, this.after, this.place);
  }

  // Rejects when the broker does not answer; an answer that a newer question has overtaken is dropped.
  async refresh() {
    const mine = ++this.asked;
    const parameters = new URLSearchParams({ search: this.search.value, sort: this.sort,
      order: this.descending ? 'descending' : 'ascending', offset: this.offset, limit: ROWS });
    const answer = await ask(`${this.path}?${parameters}`);
    if (mine !== this.asked) return;
    if (this.offset > 0 && this.offset >= answer.matching) {
      this.offset = ROWS * Math.floor(Math.max(0, answer.matching - 1) / ROWS);
      return this.refresh();
    }
    this.show(answer);
  }

  // The next round asks again if this fails.
  load() {
    this.refresh().catch(() => {});
  }

  show(answer) {
    for (const column of this.columns) {
      if (column.sort === this.sort) column.head.setAttribute('aria-sort', this.descending ? 'descending' : 'ascending');
      else column.head.removeAttribute('aria-sort');
    }
    const rows = answer.rows.map((row) => element('tr', {}, ...this.columns.map((column) =>
      element('td', { class: column.number ? 'number' : 'name' }, column.value(row)))));
    const none = element('tr', {}, element('td', { class: 'empty', colspan: this.columns.length }, 'none'));
    this.body.replaceChildren(...(rows.length ? rows : [none]));
    this.box.querySelector('.sums').textContent = this.sums(answer)
      + (answer.silent_shards.length ? `, without shard ${answer.silent_shards.join(', ')}, which does not answer` : '');
    this.before.disabled = this.offset === 0;
    this.after.disabled = this.offset + ROWS >= answer.matching;
    this.box.querySelector('.pager').hidden = answer.matching <= ROWS;
    this.place.textContent = `${whole(this.offset + 1)} to ${whole(this.offset + answer.rows.length)} of ${whole(answer.matching)}`;
  }
}

const counted = (count, name) => `${whole(count)} ${name}${count === 1 ? '' : 's'}`;
const found = (answer) => (answer.matching === answer.total ? whole(answer.total) : `${whole(answer.matching)} of ${whole(answer.total)}`);

// The brokers that hold a partition, and those of them that are not in sync.
function replicas(row) {
  const missing = row.replicas.filter((node) => !row.in_sync.includes(node));
  return row.replicas.join(', ') + (missing.length ? `, without ${missing.join(', ')}` : '');
}

const partitions = new List('partitions', '/partitions.json', [
  { title: 'Topic', sort: 'name', value: (row) => row.topic },
  { title: 'Partition', sort: 'partition', number: true, value: (row) => whole(row.partition) },
  { title: 'Size', sort: 'bytes', number: true, value: (row) => bytes(row.bytes) },
  { title: 'Records', sort: 'records', number: true, value: (row) => whole(row.records) },
  { title: 'First offset', number: true, value: (row) => whole(row.start) },
  { title: 'Next offset', sort: 'end', number: true, value: (row) => whole(row.end) },
  { title: 'Leader', number: true, value: (row) => (row.leader < 0 ? 'none' : row.leader) },
  { title: 'Replicas', sort: 'in_sync', value: replicas },
], { sort: 'bytes', sums: (answer) => `${found(answer)} partitions, ${bytes(answer.bytes)}, ${counted(answer.records, 'record')}`
  + (answer.under_replicated ? `, ${whole(answer.under_replicated)} under-replicated` : '')
  + (answer.offline ? `, ${whole(answer.offline)} offline` : '') });

const groups = new List('groups', '/groups.json', [
  { title: 'Group', sort: 'name', value: (row) => row.group },
  { title: 'State', sort: 'state', value: (row) => row.state },
  { title: 'Members', sort: 'members', number: true, value: (row) => whole(row.members) },
  { title: 'Partitions', sort: 'partitions', number: true, value: (row) => whole(row.partitions) },
  { title: 'Lag', sort: 'lag', number: true, value: (row) => whole(row.lag) },
  { title: 'Most behind', value: (row) => (row.most ? `${row.most.topic}-${row.most.partition}: ${whole(row.most.lag)}` : '') },
], { sort: 'lag', sums: (answer) => `${found(answer)} ${answer.total === 1 ? 'group' : 'groups'}, ${counted(answer.members, 'member')}, ${counted(answer.lag, 'record')} behind` });

// ---- The page ----

const charts = {
  bytes: new Chart('chart-bytes', { format: (value) => `${bytes(value)}/s`, binary: true, least: 1024 }),
  records: new Chart('chart-records', { format: (value) => `${amount(value)}/s`, least: 10 }),
  latency: new Chart('chart-latency', { format: duration, least: 1e-4 }),
  stages: new Chart('chart-stages', { format: duration, stacked: true, least: 1e-5 }),
};
let first = null;
let last = null;
let points = [];
let answeredAt = Date.now();
let failures = 0;

function meter(name, part, text, warnFrom, badFrom) {
  const fill = element('div', { class: `fill ${part >= badFrom ? 'bad' : part >= warnFrom ? 'warn' : ''}` });
  fill.style.width = `${Math.min(100, 100 * part)}%`;
  return element('div', { class: 'meter' }, element('span', {}, name), element('div', { class: 'track' }, fill),
    element('span', { class: 'text' }, text));
}

function problems(status, now) {
  const list = [];
  const bad = (text) => list.push({ text, level: 'bad' });
  const warn = (text) => list.push({ text, level: 'warn' });
  const process = now.process;
  const [free, floor] = [process.millstream_data_free_bytes, process.millstream_data_free_floor_bytes];
  if (status.trouble) bad(`Not healthy: ${status.trouble}.`);
  if (now.outOfSpace) {
    bad(`The disk is full: produce requests are refused until there is more room below ${status.data_directory} `
      + `(${bytes(free)} are free, at least ${bytes(floor)} must be). Delete topics or records, lower retention, or add space.`);
  } else if (free < 2 * floor) {
    warn(`The disk is nearly full: ${bytes(free)} are free below ${status.data_directory}; from ${bytes(floor)} on produce requests are refused.`);
  }
  if (now.damaged) bad(`${whole(now.damaged)} reads found damaged data and were refused. The log of the broker says where; check the disk.`);
  if (now.unreadable) bad(`${whole(now.unreadable)} records of __consumer_offsets could not be read: groups may have lost offsets.`);
  if (process.millstream_partitions_offline) {
    bad(`${counted(process.millstream_partitions_offline, 'partition')} of the cluster ${process.millstream_partitions_offline === 1 ? 'has' : 'have'} no leader: `
      + 'the brokers that could lead are away. Start them again.');
  }
  if (now.underMinIsr) {
    bad(`${counted(now.underMinIsr, 'partition')} led here ${now.underMinIsr === 1 ? 'has' : 'have'} fewer replicas in sync than min.insync.replicas asks for: `
      + 'producers with acks=all are refused.');
  }
  if (now.underReplicated) {
    warn(`${counted(now.underReplicated, 'partition')} led here ${now.underReplicated === 1 ? 'is' : 'are'} under-replicated: `
      + 'replicas are away, or behind and catching up.');
  }
  if (process.millstream_memory_pressure >= 2) bad('Memory is full: nothing is read from clients until there is less.');
  else if (process.millstream_memory_pressure >= 1) warn('Memory is tight: few requests are handled at a time.');
  const since = `in the last ${age(now.at - first.at)}`;
  const grown = (name) => now[name] - first[name];
  if (grown('produceErrors')) warn(`${whole(grown('produceErrors'))} partitions of produce requests were answered with an error ${since}.`);
  if (grown('fetchErrors')) warn(`${whole(grown('fetchErrors'))} partitions of fetch requests were answered with an error ${since}.`);
  if (grown('refused')) warn(`${whole(grown('refused'))} connections were refused for max.connections or max.connections.per.ip ${since}.`);
  if (grown('stuck')) warn(`${whole(grown('stuck'))} connections were closed because they held memory that others needed ${since}.`);
  if (grown('journalFull')) warn(`${whole(grown('journalFull'))} commits waited for room in the journal ${since}: the disk is the limit.`);
  // Once in a while happens to everybody.
  if (grown('held') > Math.max(10, now.at - first.at)) warn(`A core was held for over a millisecond ${whole(grown('held'))} times ${since}.`);
  return list;
}

function show(status, now) {
  const process = now.process;
  byId('about').textContent = `${status.version}, node ${status.node}, ${status.listeners.join(', ')}, up ${age(Date.now() / 1000 - now.started)}`;
  const found = problems(status, now);
  byId('problems').replaceChildren(...found.map(({ text, level }) => element('li', { class: level }, text)));
  const level = found.some((problem) => problem.level === 'bad') ? 'bad' : found.length ? 'warn' : 'good';
  byId('state').className = `pill ${level}`;
  byId('state').textContent = { good: 'healthy', warn: 'look', bad: 'in trouble' }[level];

  const point = points[points.length - 1];
  const produce = point && point.latency.Produce;
  const tiles = [
    ['bytes-in', 'Bytes in', point && `${bytes(point.bytesIn)}/s`],
    ['records-in', 'Records in', point && `${amount(Math.round(point.recordsIn))}/s`],
    ['bytes-out', 'Bytes out', point && `${bytes(point.bytesOut)}/s`],
    ['requests', 'Requests', point && `${amount(Math.round(point.requests))}/s`],
    ['produce', 'Produce p99', produce && duration(produce.p99)],
    ['connections', 'Connections', whole(now.connections)],
    ['partition-count', 'Partitions', whole(now.partitions)],
    ['led', 'Led here', whole(now.led)],
    ['under-replicated', 'Under-replicated', whole(now.underReplicated)],
    ['offline', 'Offline in cluster', whole(process.millstream_partitions_offline || 0)],
    ['group-count', 'Groups', whole(now.groups)],
  ];
  byId('tiles').replaceChildren(...tiles.map(([id, name, text]) =>
    element('div', { class: 'tile', id: `tile-${id}` }, element('span', {}, name), element('strong', {}, text || '–'))));

  byId('cores').replaceChildren(...now.busy.map((_, shard) => (now.silent.includes(shard)
    ? meter(`shard ${shard}`, 1, 'does not answer', 0, 0)
    : meter(`shard ${shard}`, point ? point.busy[shard] : 0, point ? `${percent(point.busy[shard])} busy` : '–', 0.8, 0.95))));
  const [budget, heap, resident] = [process.millstream_memory_budget_bytes, process.millstream_memory_heap_bytes, process.process_resident_memory_bytes];
  const [free, total, floor] = [process.millstream_data_free_bytes, process.millstream_data_total_bytes, process.millstream_data_free_floor_bytes];
  const used = (total - free) / total;
  byId('room').replaceChildren(
    meter('memory', heap / budget, `${bytes(heap)} of ${bytes(budget)}`, 0.75, 0.9),
    meter('resident', resident / budget, bytes(resident), 1, 1.2),
    meter('disk', used, `${bytes(free)} free of ${bytes(total)}`, 1 - (2 * floor) / total, 1 - floor / total),
    meter('files', process.process_open_fds / process.process_max_fds, `${whole(process.process_open_fds)} of ${whole(process.process_max_fds)} open`, 0.7, 0.9),
  );
  draw();
}

function draw() {
  const api = byId('api').value;
  charts.bytes.show(points, ['in', 'out'], (point) => [point.bytesIn, point.bytesOut]);
  charts.records.show(points, ['in'], (point) => [point.recordsIn]);
  charts.latency.show(points, ['p50', 'p99'], (point) => [point.latency[api].p50, point.latency[api].p99]);
  charts.stages.show(points, STAGES[api], (point) => point.latency[api].stages);
}

async function look() {
  try {
    const status = await ask('/status.json');
    const now = digest(status);
    // A broker that was started again begins to count anew; what was is still shown.
    if (last && (last.started !== now.started || last.busy.length !== now.busy.length)) first = last = null;
    // Shards that did not answer count from nothing when they do.
    if (last && !last.silent.length && !now.silent.length) points.push(between(last, now));
    points = points.slice(-HISTORY_MAX);
    first = first || now;
    last = now;
    answeredAt = Date.now();
    failures = 0;
    show(status, now);
  } catch (error) {
    // The port closes connections that are too many: the next may get in.
    failures += 1;
    if (failures < 2) return;
    byId('state').className = 'pill bad';
    byId('state').textContent = 'no answer';
    byId('problems').replaceChildren(element('li', { class: 'bad' },
      `The broker has not answered for ${age((Date.now() - answeredAt) / 1000)}; what is shown below is older.`));
  }
}

// Runs something again and again, never twice at a time, and not while nobody looks.
function every(milliseconds, work) {
  const run = async () => {
    if (!document.hidden) await work();
    setTimeout(run, milliseconds);
  };
  run();
}

byId('api').addEventListener('change', draw);
addEventListener('resize', draw);
every(STATUS_INTERVAL_MS, look);
every(LIST_INTERVAL_MS, () => Promise.allSettled([partitions.refresh(), groups.refresh()]));
