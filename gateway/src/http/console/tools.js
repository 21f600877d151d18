// ---- History: older events than those held ------------------------------------------------------

const path = name => 'channels/' + encodeURIComponent(name);

async function getJson(url, given) {
  const answer = await fetch(url, {headers: bearer(given), signal: AbortSignal.timeout(PATIENCE.publish)});
  if (!answer.ok) throw new Error(await problem(answer));
  return answer.json();
}

// An id's text for a time, in the epoch of another id.
const idAt = (ms, like) => `${Math.max(0, Math.round(ms))}-${Math.floor(like.seq / 65536) * 65536}`;

// The events of a channel after an id and before another, or null if there are too many.
async function between(name, after, floor) {
  const rows = [];
  for (let page = 0; page < 5; page++) {
    const {events, next, more} = await getJson(`${path(name)}/history?limit=1000&after=${after}`, last.token);
    for (const {id, event, data} of events) {
      const parsed = parseId(id);
      if (!parsed || !below(parsed, floor)) return rows;
      rows.push({kind: 'event', at: parsed.ms, ms: parsed.ms, id, channel: name, type: event || 'message', data, live: false, fetched: true});
    }
    if (!more) return rows;
    after = next;
  }
  return null;
}

// Fetches the events just before the oldest one held. The history can be read forwards only, so
// this guesses how far back to begin, and begins later or earlier if that was too far or not enough.
async function loadOlder() {
  if (!last) return toast('Subscribe first');
  if (loadOlder.busy) return;
  loadOlder.busy = true;
  toast('Loading older events…');
  try {
    const oldest = all.rows.find(row => row.kind === 'event' && row.id);
    const floor = (oldest && parseId(oldest.id)) ?? last.opened;
    if (!floor) return toast('The stream has no position yet.');
    let rows = [], reach = 60000, least = 0;
    for (let tries = 0; tries < 20; tries++) {
      const whole = floor.ms - reach <= now() - ABOUT.ttl * 1.1;
      const pages = await Promise.all(last.channels.map(name => between(name, whole ? '0' : idAt(floor.ms - reach, floor), floor)));
      if (pages.includes(null)) { reach = (least + reach) / 2; continue; }
      rows = pages.flat();
      if (rows.length || whole) break;
      least = reach;
      reach *= 8;
    }
    rows.sort((a, b) => below(parseId(a.id), parseId(b.id)) ? -1 : 1);
    for (const row of rows) row.n = ++serial;
    all.older(rows);
    const passing = rows.filter(passes);
    shown.older(passing);
    hidden += rows.length - passing.length;
    if (frozen) frozen = passing.concat(frozen);
    toast(rows.length ? `${number(rows.length)} older events loaded.` : `No older events are kept, ${IN_REDIS ? 'in Redis' : 'in this gateway’s memory'}.`);
    changed();
  } catch (error) {
    toast(`Not loaded: ${error.message}`);
  } finally {
    loadOlder.busy = false;
  }
}

// The id to resume after to begin some time ago. It takes the epoch from the history's position.
async function idBefore(ms, name, given) {
  const {next, events} = await getJson(`${path(name)}/history?limit=1`, given);
  const like = parseId(next ?? events.at(-1)?.id ?? '');
  if (!like) throw new Error(`the history of ${name} has no position`);
  return idAt(now() - ms, like);
}

// ---- The link: its fragment holds the subscription, but never the token -------------------------

function startOf() {
  const chosen = $('from').value;
  return chosen === 'id' ? $('from-id').value.trim() : chosen;
}

function writeHash() {
  const link = new URLSearchParams({channels: words($('channels').value).join(',')});
  if (startOf() !== 'now') link.set('from', startOf());
  if ($('types').value.trim()) link.set('types', words($('types').value).join(','));
  if ($('native').checked) link.set('native', '1');
  if ($('filter').value.trim()) link.set('filter', $('filter').value.trim());
  // Keeps , : @ and / readable: they need no escape in a fragment.
  history.replaceState(null, '', '#' + String(link).replace(/%(2C|3A|40|2F)/g, decodeURIComponent));
}

function readHash() {
  const link = new URLSearchParams(location.hash.slice(1));
  const from = link.get('from') || 'now';
  const named = [...$('from').options].some(option => option.value === from && from !== 'id');
  $('channels').value = link.get('channels') ?? '';
  $('from').value = named ? from : 'id';
  $('from-id').value = named ? '' : from;
  $('types').value = link.get('types') ?? '';
  $('native').checked = link.get('native') === '1';
  $('filter').value = link.get('filter') ?? '';
  terms = parseFilter($('filter').value);
  showOptions();
  if (words($('channels').value).length) begin();
  else stop('idle');
}

// ---- Subscribing --------------------------------------------------------------------------------

const HUES = [212, 26, 150, 286, 340, 186, 54, 100];

// Shows what is wrong with the channels; the gateway checks their names.
function refused(why) {
  setText($('channels-error'), why);
  $('channels').ariaInvalid = Boolean(why);
  if (!why) return;
  $('sub').open = true;
  $('channels').focus();
}

async function begin() {
  const names = words($('channels').value);
  refused(names.length ? '' : 'Name a channel, or several');
  if (!names.length) return;
  stop('idle');
  const options = {channels: names, from: '', types: words($('types').value), token: token(), native: $('native').checked};
  const chosen = startOf(), ago = /^(\d+)m$/.exec(chosen), mine = begin.turn = {};
  writeHash();
  channels = new Map(names.map((name, n) => [name, {hue: HUES[n % HUES.length], events: 0, last: 0, before: 0, rate: 0}]));
  muted.clear();
  solo.clear();
  Object.assign(count, {events: 0, gaps: 0, reconnects: 0});
  delays = [];
  ticks = [];
  pause(false);
  clearEvents();
  drawChannels();
  $('publish-channel').value ||= names[0];
  setText($('sub-title'), `${names.join(', ')} · ${$('from').selectedOptions[0].textContent}`);
  if (ago) {
    setState('connecting', 'asking the history for its position');
    try {
      options.from = await idBefore(ago[1] * 60000, names[0], options.token);
    } catch (error) {
      if (begin.turn === mine) { setState('closed', error.message); refused(error.message); }
      return;
    }
    if (begin.turn !== mine) return;
  } else options.from = {now: '', oldest: '0'}[chosen] ?? chosen;
  subscribe(options);
  if (isPhone()) {
    $('sub').open = false;
    $('events').focus();
  }
  askChannels();
}

// Resumes after an id, on the same channels and with what is held cleared: what comes is the replay.
function resumeAfter(id) {
  if (!last) return toast('Subscribe first');
  if (!id) return $('resume-id').focus();
  $('from').value = 'id';
  $('from-id').value = id;
  showOptions();
  closeDetail();
  begin();
}

// ---- Break it -----------------------------------------------------------------------------------

function breakIt(away) {
  if (!sub) return toast('There is no stream to break');
  if (sub.native) { sub.close(); return reconnect(sub); }
  sub.close();
  again(sub, away ? 'you broke it, to see what is replayed' : 'you broke it', away);
}

// ---- Copy as, export ----------------------------------------------------------------------------

const quote = text => /^[\w.:@\/=+,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
const base = () => new URL('.', location.href.split('#')[0]).href;

function commandOf(kind) {
  const names = last?.channels ?? words($('channels').value), from = sub?.lastId || last?.from || '';
  const query = new URLSearchParams(names.map(name => ['channel', name]));
  if (from) query.set('last_event_id', from);
  const url = base() + 'events?' + query, open = !token();
  if (kind === 'curl') return `curl -N ${open ? '' : '-H "Authorization: Bearer $TOKEN" '}${quote(url)}`;
  if (kind === 'sse-publish') {
    const start = from ? ` --from ${from === '0' ? 'oldest' : from}` : '';
    return `${open ? '' : 'SSE_TOKEN=$TOKEN '}sse-publish tail --url ${quote(base().replace(/\/$/, ''))}${start} ${names.map(quote).join(' ')}`;
  }
  return `const source = new EventSource(${JSON.stringify(url)}); ${open ? '' : '// It can send no token.'}\n`
    + 'source.onmessage = (event) => console.log(event.lastEventId, event.data);\n'
    + 'source.addEventListener("gap", (event) => console.warn("events may be missing", JSON.parse(event.data)));\n';
}

// The shown events as lines for POST /publish and `sse-publish --ndjson`, the oldest first.
function ndjson() {
  const rows = rowsShown().filter(row => row.kind === 'event');
  return rows.map(({channel, type, data}) => JSON.stringify({channel, event: type === 'message' ? undefined : type, data}) + '\n').join('');
}

function download() {
  const link = el('a');
  link.href = URL.createObjectURL(new Blob([ndjson()], {type: 'application/x-ndjson'}));
  link.download = `${(last?.channels ?? ['events']).join('-').replace(/[^\w.-]+/g, '_').slice(0, 80)}.ndjson`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
