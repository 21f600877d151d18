// ---- The event stream (WHATWG HTML 9.2.6) -------------------------------------------------------

// The stream is read with fetch() and a parser of this page, because a native EventSource hides
// heartbeats and event types without a listener, cannot send a token, and does not tell why it was
// closed.
//
// Returns feed(text). Only CR, LF and CRLF end a line; a CRLF may be split between two chunks.
// `on.block` gets each block that has data, `on.id` the id at each blank line, `on.retry` the
// milliseconds. The TextDecoder removes a BOM.
function streamParser(id, on) {
  let rest = '', afterCr = false, data = null, type = '', ownId = false;
  function line(text) {
    if (text === '') {
      on.id(id);
      if (data !== null) on.block({id, ownId, type: type || 'message', data});
      data = null; type = ''; ownId = false;
      return;
    }
    const colon = text.indexOf(':');
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? '' : text.slice(colon + (text[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') data = data === null ? value : data + '\n' + value;
    else if (field === 'event') type = value;
    else if (field === 'id' && !value.includes('\0')) { id = value; ownId = true; }
    else if (field === 'retry' && /^[0-9]+$/.test(value)) on.retry(Number(value));
  }
  return text => {
    let start = afterCr && text[0] === '\n' ? 1 : 0;
    if (text) afterCr = text.endsWith('\r');
    const end = /\r\n|\r|\n/g;
    end.lastIndex = start;
    for (let m; (m = end.exec(text)); start = end.lastIndex) {
      line(rest + text.slice(start, m.index));
      rest = '';
    }
    rest += text.slice(start);
  };
}

// ---- The subscription ---------------------------------------------------------------------------

const NAMES = {idle: 'Idle', connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', closed: 'Closed'};
let sub = null;             // The subscription, or null. Callbacks of an older one see that and stop.
let last = null;            // The newest subscription, also after its end.

function setState(state, detail = '') {
  $('state').dataset.state = state;
  setText($('state'), NAMES[state]);
  setText($('state-detail'), detail);
  $('state-detail').title = detail;
  $('stop').ariaDisabled = !sub;
}

const isLive = () => $('state').dataset.state === 'live';

// A byte or an event came.
function signOfLife(s) {
  s.heard = now();
  s.silent = 0;
}

// A silence this long means that nothing comes any more: a byte is due at each heartbeat.
const patience = () => 2 * ABOUT.heartbeat + 1000;

// Counts the stream's silence, but only while this page was awake to hear: bytes may wait unread
// behind a timer that comes late.
function watchSilence(s, passed) {
  s.silent += Math.min(passed, 1500);
  if (s.silent <= patience()) return;
  s.close();
  again(s, `no sign of life for ${seconds(s.silent)}, and one is due every ${seconds(ABOUT.heartbeat)}: the gateway or the network froze`);
}

function received(s, {id, ownId, type, data}) {
  s.fails = 0;
  if (type === 'alive') return;
  const at = now(), parsed = ownId ? parseId(id) : null;
  if (type === 'checkpoint') {
    if (parsed && !s.opened) s.opened = parsed;
    return;
  }
  if (type === 'gap') {
    count.gaps++;
    let channel = '';
    try { channel = JSON.parse(data).channel; } catch { /* It is shown as it came. */ }
    return add({kind: 'gap', at, id: ownId ? id : '', channel, type, data});
  }
  let channel = s.channels.length === 1 ? s.channels[0] : '';
  // With annotate=channel the data begins with a line that names the channel.
  const line = data.indexOf('\n');
  if (line > 0 && channels.has(data.slice(0, line))) {
    channel = data.slice(0, line);
    data = data.slice(line + 1);
  }
  const ms = parsed?.ms ?? null;
  // What a replay brings was published before the stream was open, and says nothing of delay.
  const row = {kind: 'event', at, ms, id: ownId ? id : '', channel, type, data, live: ms !== null && ms >= s.liveFrom};
  measure(row);
  add(row);
}

function moved(s, id) {
  if (id === s.lastId) return;
  s.lastId = id;
  changed();
}

// The stream's URL. It keeps the first position, because a later Last-Event-ID header overrides it.
function address(s, from) {
  const query = new URLSearchParams(s.channels.map(name => ['channel', name]));
  query.set('annotate', 'channel');
  if (from) query.set('last_event_id', from);
  return 'events?' + query;
}

function end(s, why) {
  if (s !== sub) return;
  note('closed', why);
  stop('closed', why);
}

// Reconnects after `wait` ms (the answer's Retry-After) or this connection's `retry:`. Both stay
// unchanged, because the server spreads its clients by them. Without either, uses the last
// `retry:`, doubled for each failed attempt, with jitter.
function again(s, why, wait) {
  if (s !== sub) return;
  s.fails++;
  s.lostAt ||= now();
  s.lostBy ||= why;
  const doubled = Math.max(s.retry, Math.min(30000, s.retry * 2 ** Math.min(s.fails - 1, 6)));
  wait ??= s.retryIsFresh ? s.retry : doubled * (1 + Math.random() / 4);
  s.why = why;
  s.due = now() + wait;
  clearTimeout(s.timer);
  s.timer = setTimeout(() => reconnect(s), wait);
  setState('reconnecting', `in ${seconds(wait)}: ${why}`);
}

function reconnect(s) {
  if (s !== sub) return;
  clearTimeout(s.timer);
  s.due = 0;
  s.close?.();
  count.reconnects++;
  connect(s);
}

function connect(s) {
  s.lostAt ||= s.live ? now() : 0;
  setState('connecting');
  s.retryIsFresh = false;
  const explain = setTimeout(() => { if (s === sub) setState('connecting', 'no answer yet. ' + manyTabs()); }, PATIENCE.explain);
  const late = setTimeout(() => {
    s.close();
    again(s, `no answer in ${seconds(PATIENCE.connect)}. ${manyTabs()}`);
  }, PATIENCE.connect);
  s.answered = () => { clearTimeout(explain); clearTimeout(late); };
  (s.native ? connectNative : connectFetch)(s);
}

// The stream is open.
function opened(s) {
  s.answered();
  s.liveFrom = now();
  const where = s.lastId ? `went on after ${s.lastId}` : 'live from now';
  if (s.lostAt) note('reconnect', `After ${span(now() - s.lostAt)}${s.lostBy && `, because ${s.lostBy}`}; ${where}`);
  else if (!s.live) note('open', `${s.channels.join(', ')}: ${s.from ? (s.from === '0' ? 'from the oldest event kept' : 'after ' + s.from) : 'live from now'}`);
  s.live = true;
  s.lostAt = 0;
  s.lostBy = '';
  setState('live', `since ${clock(now()).slice(0, 8)}`);
  signOfLife(s);
}

async function connectFetch(s) {
  const abort = new AbortController();
  const mine = () => s === sub && !abort.signal.aborted;
  s.close = () => { s.answered(); abort.abort(); };
  const headers = {Accept: 'text/event-stream', ...bearer(s.token)};
  // fetch() writes each character of a header as one byte, but the standard wants the id in UTF-8.
  if (s.lastId) headers['Last-Event-ID'] = String.fromCharCode(...new TextEncoder().encode(s.lastId));
  let answer;
  try {
    answer = await fetch(address(s, s.from), {headers, cache: 'no-store', signal: abort.signal});
  } catch (error) {
    s.answered();
    if (mine()) again(s, `there is no connection (${error.message})`);
    return;
  }
  if (!mine()) return;
  s.answered();
  if (answer.status === 204) return end(s, 'the server asks not to come back');
  if (!answer.ok) {
    const why = await problem(answer);
    if (!mine()) return;
    const after = Number(answer.headers.get('Retry-After')) * 1000;
    // Errors of a server or proxy pass; a wrong request would fail again.
    if (answer.status >= 500 || answer.status === 429) return again(s, why, after || undefined);
    end(s, why);
    return refused(why);
  }
  if (!/^text\/event-stream\s*(;|$)/i.test(answer.headers.get('Content-Type') ?? '')) {
    abort.abort();
    return end(s, 'the answer is not an event stream');
  }
  opened(s);
  const feed = streamParser(s.lastId, {
    id: id => moved(s, id),
    retry: ms => { s.retry = ms; s.retryIsFresh = true; },
    block: event => received(s, event),
  });
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  let why = 'the server ended the stream';
  try {
    for (let chunk; mine() && !(chunk = await reader.read()).done;) {
      if (!mine()) return;
      signOfLife(s);
      feed(decoder.decode(chunk.value, {stream: true}));
    }
  } catch (error) {
    why = `the connection broke (${error.message})`;
  }
  if (mine()) again(s, why);
}

function connectNative(s) {
  const source = new EventSource(address(s, s.lastId || s.from));
  let expected = '';          // The id to resume after, until the first block shows where the stream begins.
  s.close = () => { s.answered(); source.close(); };
  source.onopen = () => { if (s === sub) { opened(s); expected = s.lastId; } };
  source.onerror = () => {
    if (s !== sub) return;
    s.answered();
    if (source.readyState === EventSource.CLOSED) return end(s, 'the browser gave up; why is shown only without its own EventSource');
    count.reconnects++;
    s.lostAt ||= now();
    setState('reconnecting', 'when the browser sees fit');
  };
  const types = s.types.length ? s.types : ['message'];
  for (const type of new Set([...types, 'gap', 'checkpoint', 'alive'])) {
    source.addEventListener(type, event => {
      if (s !== sub) return;
      signOfLife(s);
      if (type === 'alive') return;
      if (type === 'checkpoint' && expected && event.data === '{"from":"now"}') {
        const told = {channel: '*', reason: 'not_resumed', after: expected};
        received(s, {id: '', ownId: false, type: 'gap', data: JSON.stringify(told)});
      }
      expected = '';
      // Ids only grow, so an unchanged id means that this event carries none.
      const ownId = event.lastEventId !== s.lastId;
      moved(s, event.lastEventId);
      received(s, {id: event.lastEventId, ownId, type, data: event.data});
    });
  }
}

const bearer = token => token ? {Authorization: 'Bearer ' + token} : {};

function stop(state, why) {
  const s = sub;
  if (!s) return;
  sub = null;
  clearTimeout(s.timer);
  s.close?.();
  setState(state, why);
}

// `from` is empty (now), "0" (the oldest event kept) or an id.
function subscribe(options) {
  stop('idle');
  sub = last = {
    lastId: '', retry: 3000, retryIsFresh: false, fails: 0, due: 0, why: '', timer: 0, close: null, answered() {},
    live: false, lostAt: 0, lostBy: '', liveFrom: 0, opened: null, heard: 0, silent: 0, ...options,
  };
  connect(sub);
}

// Over HTTP/1.1 a seventh stream, or a publish beside six, waits without a word of the browser.
function manyTabs() {
  return /^h[23]/.test(performance.getEntriesByType('navigation')[0]?.nextHopProtocol) ? 'Is the gateway up?'
    : 'Over HTTP/1.1 a browser opens six connections to a host, in all tabs together: close tabs with a stream, or use HTTPS, which brings HTTP/2.';
}
