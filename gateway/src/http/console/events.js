// ---- The events that are held: all, and those that pass the filter ------------------------------

const CAP = 10000;          // Events held, and as many that pass the filter.
const CHARS = 48e6;         // Characters of data held in all.

// Rows, oldest first. Events are dropped beyond the cap, the oldest first; dividers (gaps,
// reconnects) and what was fetched from the history never are.
class Held {
  rows = []; events = 0; chars = 0; fetched = 0; added = 0;
  push(row) {
    this.rows.push(row);
    this.added++;
    this.#count(row, 1);
    // Some at once, because dropping looks at every row.
    if (this.events - this.fetched > CAP * 1.1 || this.chars > CHARS * 1.1) this.#drop();
  }
  older(rows) {
    this.rows = rows.concat(this.rows);
    for (const row of rows) this.#count(row, 1);
  }
  #count(row, by) {
    if (row.kind !== 'event') return;
    this.events += by;
    if (row.fetched) this.fetched += by; else this.chars += by * row.data.length;
  }
  #drop() {
    this.rows = this.rows.filter(row => {
      if (row.kind !== 'event' || row.fetched) return true;
      if (this.events - this.fetched <= CAP && this.chars <= CHARS) return true;
      this.#count(row, -1);
      return false;
    });
  }
}

let all = new Held(), shown = new Held();
let hidden = 0;        // Events since the filter was set that do not pass it.
let frozen = null;          // The rows on the screen while the list is paused.
let serial = 0;
const count = {events: 0, gaps: 0, reconnects: 0};

// row: {kind: 'event' | 'gap' | 'note', n, at, ms, id, channel, type, data, live, fetched}.
// `at` is when it came here, `ms` when it was published, by its id; both in Unix ms.
function add(row) {
  row.n = ++serial;
  all.push(row);
  if (passes(row)) shown.push(row); else hidden++;
  changed();
}

const note = (type, data) => add({kind: 'note', at: now(), id: '', channel: '', type, data});

function clearEvents() {
  all = new Held();
  refilter();
}

function refilter() {
  frozen &&= [];
  shown = new Held();
  hidden = 0;
  for (const row of all.rows) if (passes(row)) shown.push(row); else hidden++;
  if (frozen) frozen = shown.rows.slice();
  shown.added = 0;
  toTop();
  changed();
}

// ---- The filter ---------------------------------------------------------------------------------

// Words that must all hold. `-word` must not; `type:`, `channel:`, `id:` and `data:` look at that
// part alone. "Two words" are one.
let terms = [];
const muted = new Set(), solo = new Set();

function parseFilter(text) {
  const found = text.matchAll(/([-!]?)(?:(type|channel|id|data):)?(?:"([^"]*)"?|(\S+))/g);
  return [...found].map(([, not, part, phrase, word]) => {
    const plain = (phrase ?? word).replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
    // A type or channel is meant whole.
    const pattern = new RegExp(/^[tc]/.test(part) ? `^${plain}$` : plain, 'i');
    const parts = part ? [part] : ['id', 'type', 'channel', 'data'];
    return {not: Boolean(not), test: row => parts.some(name => pattern.test(row[name]))};
  });
}

// A divider always passes: a hole must not look like silence.
function passes(row) {
  if (row.kind !== 'event') return true;
  if (solo.size ? !solo.has(row.channel) : muted.has(row.channel)) return false;
  return terms.every(term => term.test(row) !== term.not);
}

const filtering = () => terms.length > 0 || solo.size > 0 || muted.size > 0;

// The bytes of an event's data in UTF-8.
function sizeOf(row) {
  return row.size ??= new TextEncoder().encode(row.data).length;
}

// ---- What is measured ---------------------------------------------------------------------------

let channels = new Map();   // Name to {hue, events, last, rate, ring, kept, subscribers}.
let delays = [];            // [when, delay] of live events of the last minute, 2,000 at most.
let ticks = [];         // Events and gaps of each of the last 60 seconds.

function measure(row) {
  count.events++;
  const channel = channels.get(row.channel);
  if (channel) { channel.events++; channel.last = row.at; }
  if (row.live) {
    delays.push([row.at, row.at - row.ms]);
    if (delays.length > 4000) delays = delays.slice(-2000);
  }
}

function quantiles() {
  const since = now() - 60000;
  const sorted = delays.slice(-2000).filter(([at]) => at > since).map(([, delay]) => delay).sort((a, b) => a - b);
  if (!sorted.length) return null;
  return [.5, .99].map(q => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]);
}
