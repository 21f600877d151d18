'use strict';
// ---- Elements, numbers and words ----------------------------------------------------------------

const $ = id => document.getElementById(id);

// What this page knows of the gateway that served it: version, broker, heartbeat (ms), history
// (events kept per channel), ttl (ms).
const ABOUT = JSON.parse($('about').textContent);

// Milliseconds after which an answer to a request is not waited for, or is explained.
const PATIENCE = {connect: 15000, publish: 15000, explain: 3000};

function el(tag, className, text, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text; // Never markup: most text comes from publishers.
  made.append(...children);
  return made;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const isPhone = () => matchMedia('(max-width: 52rem)').matches;
const now = () => Date.now();
const two = (n, width = 2) => String(n).padStart(width, '0');

function clock(ms) {
  const d = new Date(ms);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${two(d.getMilliseconds(), 3)}`;
}

function span(ms) {
  const size = Math.abs(ms), sign = ms < 0 ? '−' : '';
  const [unit, name] = size < 1000 ? [1, 'ms'] : size < 6e4 ? [1000, 's'] : size < 36e5 ? [6e4, 'min'] : size < 864e5 ? [36e5, 'h'] : [864e5, 'd'];
  const n = size / unit;
  return sign + (unit > 1 && n < 10 ? n.toFixed(1) : Math.round(n)) + ' ' + name;
}

const seconds = ms => Math.max(0, Math.ceil(ms / 1000)) + ' s';
const number = n => n.toLocaleString('en');
const rateOf = n => n < 10 ? String(Math.round(n * 10) / 10) : number(Math.round(n));
const bytesOf = n => n < 1000 ? n + ' B' : n < 1e6 ? (n / 1000).toFixed(1) + ' kB' : (n / 1e6).toFixed(2) + ' MB';
const words = text => [...new Set(text.split(/[\s,]+/).filter(Boolean))];

// An event's id: milliseconds, and a sequence whose upper bits are the epoch.
function parseId(id) {
  const m = /^(\d{1,14})-(\d{1,14})$/.exec(id);
  return m && {ms: Number(m[1]), seq: Number(m[2])};
}
const below = (a, b) => a.ms < b.ms || (a.ms === b.ms && a.seq < b.seq);

// ---- What the gateway tells, in words -----------------------------------------------------------

const IN_REDIS = ABOUT.broker === 'redis';

function gapInWords(data) {
  let gap;
  try { gap = JSON.parse(data); } catch { return data; }
  const why = {
    trimmed: 'the history was trimmed past them',
    expired: 'they were too old and expired',
    reset: IN_REDIS ? 'the history began anew, after Redis lost data or may have'
      : 'the history began anew, because this gateway keeps it in its own memory and was restarted',
    unknown_id: 'the id to resume after is not known here, so the stream goes on from now',
    no_history: 'no history is kept, so nothing published meanwhile can be replayed',
    late: IN_REDIS ? 'Redis was away when the stream was opened' : 'the stream was opened late',
    conflated: 'this reader was too slow and gets only the newest event of the channel',
    not_resumed: 'the browser did not say where to go on, as behind a service worker',
  }[gap.reason] ?? gap.reason;
  const where = gap.channel === '*' ? 'on all channels' : `on channel ${gap.channel}`;
  const next = gap.reason === 'conflated' ? 'newest' : 'oldest kept';
  return `Events ${where} may be missing: ${why}.` + (gap.after ? ` They came after ${gap.after}.` : '') + (gap.oldest ? ` The ${next} is ${gap.oldest}.` : '');
}

// Returns a problem document (RFC 9457) as one sentence, or the status alone.
async function problem(answer) {
  const {title, detail, field} = (await answer.json().catch(() => null)) ?? {};
  return `${answer.status} ${detail || title || answer.statusText || 'without an explanation'}` + (field ? ` (field ${field})` : '');
}

function toast(text) {
  $('toast').textContent = text;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $('toast').textContent = ''; }, 3000);
}

async function copy(text, what) {
  const from = document.activeElement;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page without TLS has no clipboard of its own.
    const area = el('textarea', '', text);
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    from?.focus();
    if (!done) return toast(`The browser did not let ${what} be copied`);
  }
  toast(`Copied ${what}`);
}
