// ---- Channels, at the left ----------------------------------------------------------------------

function drawChannels() {
  $('channel-list').replaceChildren(...[...channels].map(([name, channel]) => {
    const toggle = (set, letter, what) => {
      const button = el('button', 'tiny', letter);
      button.title = what;
      button.ariaLabel = `${what}: ${name}`;
      button.ariaPressed = false;
      button.onclick = () => {
        if (!set.delete(name)) set.add(name);
        button.ariaPressed = set.has(name);
        refilter();
        showChannels();
      };
      return button;
    };
    const dot = el('i', 'dot');
    channel.row = el('li', '', '', dot, el('span', 'name', name), el('span', 'rate'), el('span', 'facts'),
      toggle(muted, 'M', 'Mute'), toggle(solo, 'S', 'Solo'));
    channel.row.style.setProperty('--hue', channel.hue);
    channel.row.children[1].title = name;
    return channel.row;
  }));
  $('channel-list').parentElement.hidden = !channels.size;
  showChannels();
}

function showChannels() {
  for (const [name, {row, rate, last, kept, subscribers}] of channels) {
    const [, , rateCell, facts] = row.children;
    setText(rateCell, rateOf(rate) + '/s');
    const silence = Math.floor((now() - last) / 1000) * 1000;
    const ago = !last ? 'no event yet' : silence ? span(silence).replace('.0', '') + ' ago' : 'now';
    setText(facts, [ago, kept !== undefined && `${number(kept)} kept`, subscribers !== undefined && `${number(subscribers)} sub${subscribers === 1 ? '' : 's'}`].filter(Boolean).join(' · '));
    facts.title = `Last event · events kept ${IN_REDIS ? 'in Redis' : 'in memory'} · streams ${IN_REDIS ? 'of the gateway that answered' : 'on this channel'}`;
    row.classList.toggle('off', solo.size ? !solo.has(name) : muted.has(name));
  }
}

// Asks for the kept events and the subscribers of up to 20 channels, one after the other.
async function askChannels() {
  if (askChannels.busy || !sub || document.hidden) return;
  askChannels.busy = true;
  for (const [name, channel] of [...channels].slice(0, 20)) {
    try {
      const {length, subscribers} = await getJson(path(name), last.token);
      Object.assign(channel, {kept: length, subscribers});
    } catch { break; } // It is asked again later; what does not answer is seen on the stream.
  }
  askChannels.busy = false;
  showChannels();
}

// ---- The bar on top, each second ----------------------------------------------------------------

function showCounts() {
  setText($('count-events'), number(count.events));
  setText($('count-reconnects'), number(count.reconnects));
  setText($('count-gaps'), number(count.gaps));
  $('gaps').classList.toggle('some', count.gaps > 0);
  setText($('position'), last?.lastId || 'none');
  const held = `${number(shown.events)} event${shown.events === 1 ? '' : 's'}`;
  const gone = all.events - all.fetched < count.events && count.events > CAP ? `, the newest of ${number(count.events)}` : '';
  setText($('matching'), filtering() ? `${number(shown.events)} match, ${number(hidden)} filtered out` : held + gone);
  setText($('held'), frozen ? `${number(unseen)} held back` : '');
}

function sparkline() {
  const most = Math.max(1, ...ticks.map(s => s.events));
  const at = (s, i) => [(60 - ticks.length + i) * 2, 24 - 22 * s.events / most];
  const points = ticks.map((s, i) => at(s, i).map(n => n.toFixed(1)).join(','));
  $('spark-line').setAttribute('points', points.join(' '));
  $('spark-area').setAttribute('points', points.length ? `${at(ticks[0], 0)[0]},26 ${points.join(' ')} 118,26` : '');
  $('spark-gaps').setAttribute('d', ticks.map((s, i) => s.gaps ? `M${at(s, i)[0]},1V26` : '').join(''));
}

let tickAt = performance.now(), seen = {events: 0, gaps: 0};

function everySecond() {
  const time = performance.now(), passed = time - tickAt;
  tickAt = time;
  if (seen.events > count.events) seen = {events: 0, gaps: 0};
  ticks = [...ticks, {events: (count.events - seen.events) * 1000 / Math.max(500, passed), gaps: count.gaps - seen.gaps}].slice(-60);
  seen = {...count};
  const recently = ticks.slice(-3);
  setText($('rate'), rateOf(recently.reduce((sum, s) => sum + s.events, 0) / recently.length));
  for (const channel of channels.values()) {
    channel.rate = channel.rate * .6 + (channel.events - channel.before) * 1000 / Math.max(500, passed) * .4;
    if (channel.rate < .05) channel.rate = 0;
    channel.before = channel.events;
  }
  sparkline();
  showChannels();
  showDelay();
  showSilence(passed);
  if (sub?.due) setState('reconnecting', `in ${seconds(sub.due - now())}: ${sub.why}`);
  const state = $('state').dataset.state;
  document.title = (sub ? `${state === 'live' ? '●' : '○'} ${count.gaps ? `${count.gaps} gap${count.gaps > 1 ? 's' : ''} · ` : ''}${sub.channels.join(', ')} · ` : '') + 'sse-gateway console';
}

function showDelay() {
  const found = quantiles();
  setText($('delay'), found ? `${span(found[0])} / ${span(found[1])}` : '– / –');
  $('delay').classList.toggle('warn', Boolean(found && found[0] < 0));
}

function showSilence(passed) {
  const s = sub, beat = ABOUT.heartbeat, on = s && s.heard && isLive();
  const silence = on ? now() - s.heard : 0;
  setText($('silence-text'), on ? `${Math.floor(silence / 1000)} s of ${span(beat)}` : '–');
  const meter = $('silence');
  meter.ariaValueNow = Math.min(patience(), silence);
  meter.ariaValueMax = patience();
  meter.ariaValueText = $('silence-text').textContent;
  meter.firstElementChild.style.width = Math.min(100, 100 * silence / beat) + '%';
  meter.classList.toggle('late', silence > beat + 1000);
  if (on) watchSilence(s, passed);
}

// ---- Keys ---------------------------------------------------------------------------------------

const KEYS = {
  '/': ['Filter', () => $('filter').focus()],
  p: ['Pause or resume', () => pause()],
  l: ['To the list; j k ↑ ↓ move, Enter opens', () => { $('events').focus(); if (!chosen) step(0); }],
  n: ['To the newest event', () => $('unseen').onclick()],
  g: ['To the next gap', jumpToGap],
  o: ['Load older events', loadOlder],
  x: ['Clear the list', () => $('clear').onclick()],
  s: ['Channels to subscribe to', () => { $('sub').open = true; $('channels').focus(); }],
  c: ['Compose an event; ↑ ↓ recall', () => $('publish-data').focus()],
  r: ['Reconnect now', () => breakIt(0)],
  '?': ['This help', () => $('help').showModal()],
};
for (const [key, [what]] of Object.entries(KEYS)) $('keys').append(el('dt', '', '', el('kbd', '', key)), el('dd', '', what));
$('keys').append(el('dt', '', '', el('kbd', '', 'Esc')), el('dd', '', 'Close the event, a menu, this help'));

addEventListener('keydown', event => {
  if ($('help').open) return;
  if (event.key === 'Escape') {
    if (closeMenus(true)) return;
    if (event.target === $('filter') && $('filter').value) { $('filter').value = ''; return $('filter').oninput(); }
    if (!$('detail').hidden) return closeDetail();
    return $('events').focus();
  }
  const typing = event.target.matches('input:not([type=checkbox]), textarea, select');
  if (typing || !$('keys-on').checked || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key][1]();
});

// ---- Menus --------------------------------------------------------------------------------------

// Closes the open menus, except one. With `back`, the focus returns to what opened it.
function closeMenus(back, except) {
  let closed = false;
  for (const menu of document.querySelectorAll('.menu[open]')) {
    if (menu === except) continue;
    menu.open = false;
    closed = true;
    if (back || menu.contains(document.activeElement)) menu.firstElementChild.focus();
  }
  return closed;
}
for (const type of ['pointerdown', 'focusin']) addEventListener(type, ({target}) => closeMenus(false, target.closest('.menu')));
for (const button of document.querySelectorAll('[data-copy]')) {
  button.onclick = () => { closeMenus(true); copy(commandOf(button.dataset.copy), button.textContent); };
}
for (const button of document.querySelectorAll('[data-away]')) {
  button.onclick = () => { closeMenus(true); breakIt(Number(button.dataset.away)); };
}
$('resume-form').onsubmit = event => {
  event.preventDefault();
  closeMenus(true);
  resumeAfter($('resume-id').value.trim());
};

// ---- Wiring -------------------------------------------------------------------------------------

function showOptions() {
  $('from-id-label').hidden = $('from').value !== 'id';
  $('native-note').hidden = !$('native').checked;
}

$('subscribe-form').onsubmit = event => { event.preventDefault(); begin(); };
$('stop').onclick = () => {
  begin.turn = null;
  if (sub) note('closed', 'by you');
  stop('idle');
};
$('from').onchange = $('native').onchange = showOptions;
let filterTimer = 0;
$('filter').oninput = () => {
  clearTimeout(filterTimer);
  filterTimer = setTimeout(() => { terms = parseFilter($('filter').value); refilter(); writeHash(); }, 120);
};
$('position-copy').onclick = () => last?.lastId ? copy(last.lastId, 'the position') : toast('No position yet');
$('gaps').onclick = jumpToGap;
$('older').onclick = loadOlder;
$('export').onclick = download;
$('help-open').onclick = () => $('help').showModal();
$('help-close').onclick = () => $('help').close();

// A phone suspends a hidden page, and the connection may have died without an error.
document.onvisibilitychange = () => {
  if (document.hidden) return;
  const s = sub;
  if (s && (s.due || (isLive() && now() - s.heard > patience()))) reconnect(s);
  everySecond();
};
self.ononline = () => { if (sub?.due) reconnect(sub); };
self.onhashchange = readHash;
setInterval(everySecond, 1000);
setInterval(askChannels, 10000);

for (const field of document.querySelectorAll('input, textarea')) Object.assign(field, {autocapitalize: 'off', spellcheck: false});
$('try').textContent = `curl -d hello ${base()}channels/demo`;
$('broker').textContent = `${ABOUT.version} · ${IN_REDIS ? 'Redis' : 'memory: this process alone'}`;
drawChannels();
readHash();
everySecond();
drawAll();
