// ---- Publishing ---------------------------------------------------------------------------------

let recent = [];            // What was published from here, the newest first: {channel, type, data, key}.
let recall = -1;            // Which of them the composer shows.
let running = null;         // The publish or the repeats under way; {stop} ends it.

const token = () => $('token').value.trim();

function say(outcome, text, id) {
  const result = $('publish-result');
  result.dataset.outcome = outcome;
  if (id) result.dataset.id = id; else delete result.dataset.id;
  setText(result, text);
  result.title = text;
}

const composed = () => ({
  channel: $('publish-channel').value.trim(), type: $('publish-type').value,
  data: $('publish-data').value, key: $('publish-key').value,
});

function fillComposer({channel, type, data, key = ''}) {
  $('publish-channel').value = channel;
  $('publish-type').value = type === 'message' ? '' : type;
  $('publish-data').value = data;
  $('publish-key').value = key;
  growComposer();
}

// Publishes one event. Returns {id, ms} with the round trip, or {error}.
async function send({channel, type, data, key}) {
  const headers = {'Content-Type': 'text/plain; charset=utf-8', ...bearer(token())};
  if (key) headers['Idempotency-Key'] = key;
  const to = `channels/${encodeURIComponent(channel)}` + (type ? `?event=${encodeURIComponent(type)}` : '');
  const began = performance.now();
  try {
    const signal = AbortSignal.timeout(PATIENCE.publish);
    const answer = await fetch(to, {method: 'POST', headers, body: data, signal});
    if (!answer.ok) return {error: await problem(answer)};
    const {id} = await answer.json();
    return {id, ms: performance.now() - began};
  } catch (error) {
    const why = error.name === 'TimeoutError' ? `in ${seconds(PATIENCE.publish)}` : `(${error.message})`;
    const then = key ? 'Publish again with the same key: that publishes it once.' : 'A key makes a repetition safe.';
    return {error: `No answer ${why}: it may have been published or not. ${then} ${manyTabs()}`};
  }
}

async function publish() {
  if (running) return running.stop?.();
  const event = composed();
  if (!event.channel) return say('error', 'Name a channel');
  // URL parsers resolve "." and ".." as path segments, even when escaped.
  if (/^\.\.?$/.test(event.channel)) return say('error', 'an address cannot hold this name; publish it through POST /publish');
  const times = Math.min(100000, Math.max(1, Math.floor(Number($('repeat').value) || 1)));
  remember(event);
  running = {};
  try {
    if (times > 1) return await repeat(event, times);
    say('', 'Publishing…');
    const {id, ms, error} = await send(event);
    if (error) say('error', error);
    else say('ok', `Published in ${span(ms)} as ${id}`, id);
  } finally {
    running = null;
    setText($('publish'), 'Publish');
  }
}

// Publishes an event n times at a rate, at most four at once. `{n}` in the data is the number. A
// key would make one event of all, so each gets the number added.
async function repeat(event, times) {
  const rate = Math.min(1000, Math.max(.1, Number($('per-second').value) || 10)), began = performance.now();
  const trips = [], flying = new Set();
  let failed = '', stopped = false, n = 0;
  running.stop = () => { stopped = true; };
  setText($('publish'), 'Stop');
  while (n < times && !failed && !stopped) {
    const wait = began + n * 1000 / rate - performance.now();
    if (wait > 0) await new Promise(done => setTimeout(done, Math.min(wait, 200)));
    else if (flying.size >= 4) await Promise.race(flying);
    else {
      const number = ++n;
      const one = send({...event, data: event.data.replaceAll('{n}', number), key: event.key && `${event.key}-${number}`});
      flying.add(one);
      one.then(({ms, error}) => {
        flying.delete(one);
        if (error) failed ||= error; else trips.push(ms);
        say('', `Published ${trips.length} of ${times}`);
      });
    }
  }
  await Promise.all(flying);
  trips.sort((a, b) => a - b);
  const at = q => span(trips[Math.floor(q * (trips.length - 1))]);
  const took = performance.now() - began;
  const sum = `Published ${number(trips.length)} of ${number(times)} in ${span(took)}`
    + (trips.length ? `; round trip p50 ${at(.5)}, p99 ${at(.99)}` : '');
  if (failed) say('error', `${sum}. ${failed}`);
  else say('ok', sum);
}

function remember(event) {
  recall = -1;
  const same = kept => kept.channel === event.channel && kept.type === event.type && kept.data === event.data;
  recent = [event, ...recent.filter(kept => !same(kept))].slice(0, 12);
  $('recent-list').replaceChildren(...recent.map(kept => {
    const button = el('button', 'item', '', el('b', '', kept.channel), ' ', el('i', '', kept.type), ' ', preview(kept.data).slice(0, 80));
    button.type = 'button';
    button.onclick = () => { closeMenus(); fillComposer(kept); $('publish-data').focus(); };
    return button;
  }));
}

// The field is one line high and grows with its lines.
function growComposer() {
  const field = $('publish-data');
  field.rows = Math.min(8, field.value.split('\n').length);
}

$('publish-form').onsubmit = event => { event.preventDefault(); publish(); };
$('publish-data').oninput = growComposer;
$('publish-data').onkeydown = event => {
  const {key, target} = event;
  if (key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); publish(); }
  // As in a shell: up and down go through what was published.
  const up = key === 'ArrowUp' && !target.value.slice(0, target.selectionStart).includes('\n');
  const down = key === 'ArrowDown' && !target.value.slice(target.selectionStart).includes('\n');
  const next = recall + (up ? 1 : down ? -1 : 0);
  if ((!up && !down) || !recent[next]) return;
  event.preventDefault();
  recall = next;
  fillComposer(recent[next]);
};
$('more').onclick = () => {
  $('more').ariaExpanded = $('composer').classList.toggle('all');
};
