// ---- The list: only the rows on the screen are in the document ----------------------------------

// Calls draw(index, element) for each index that is on the screen, and moves the elements there.
class Virtual {
  drawn = new Map();
  constructor(scroller, sizer, make) {
    Object.assign(this, {scroller, sizer, make});
    scroller.addEventListener('scroll', () => this.draw());
    new ResizeObserver(() => this.draw()).observe(scroller);
  }
  get height() { return parseFloat(getComputedStyle(this.sizer).getPropertyValue('--row')); }
  // `keyOf(index)` names what is at an index; the same key keeps its element.
  set(length, keyOf, fill) {
    Object.assign(this, {length, keyOf, fill});
    this.draw();
  }
  draw() {
    if (!this.keyOf) return;
    const h = this.height, {scrollTop, clientHeight} = this.scroller;
    this.sizer.style.height = this.length * h + 'px';
    const first = Math.max(0, Math.floor(scrollTop / h) - 5);
    const end = Math.min(this.length, Math.ceil((scrollTop + clientHeight) / h) + 5);
    const seen = new Set();
    for (let i = first; i < end; i++) {
      const key = this.keyOf(i);
      let element = this.drawn.get(key);
      if (!element) this.drawn.set(key, element = this.make(key));
      if (!element.isConnected) this.sizer.append(element);
      element.style.transform = `translateY(${i * h}px)`;
      this.fill(element, i, key);
      seen.add(key);
    }
    for (const [key, element] of this.drawn) if (!seen.has(key)) { element.remove(); this.drawn.delete(key); }
  }
  scrollTo(index) {
    const h = this.height, top = index * h, {scrollTop, clientHeight} = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + h > scrollTop + clientHeight) this.scroller.scrollTop = top + h - clientHeight;
    this.draw();
  }
}

const list = new Virtual($('events'), $('rows'), rowElement);
let chosen = null;          // The row that is selected.
let unseen = 0;             // Rows that came above what is on the screen.

const rowsShown = () => frozen ?? shown.rows;
// Index 0 is the newest row, on top.
const indexOf = row => { const rows = rowsShown(); return rows.length - 1 - rows.lastIndexOf(row); };

// One line for the list: what breaks the line is shown as a sign.
const preview = data => data.slice(0, 500).replace(/\r\n|\r|\n/g, ' ⏎ ');

function rowElement(row) {
  const li = el('div', 'row ' + row.kind + (row.fetched ? ' fetched' : ''));
  li.id = 'r' + row.n;
  li.role = 'option';
  Object.assign(li.dataset, {id: row.id, type: row.type, kind: row.kind});
  li.row = row;
  const time = el('span', 'time', clock(row.kind === 'event' && row.ms || row.at));
  if (row.kind === 'event') {
    const channel = el('span', 'channel', row.channel);
    channel.style.setProperty('--hue', channels.get(row.channel)?.hue ?? 0);
    const delay = row.fetched ? 'history' : row.ms === null ? 'no id' : '+' + span(row.at - row.ms);
    li.append(time, el('span', row.live ? 'delay' : 'delay dim', delay.replace('+−', '−')), channel,
      el('span', row.type === 'message' ? 'type plain' : 'type', row.type),
      el('span', 'size', bytesOf(sizeOf(row))), el('span', 'data', preview(row.data)));
    if (!row.data) li.lastChild.classList.add('empty');
  } else {
    const name = {gap: 'Gap', reconnect: 'Reconnect', open: 'Subscribed', closed: 'Closed'}[row.type] ?? row.type;
    li.append(time, el('span', 'what', name), el('span', 'data', row.kind === 'gap' ? gapInWords(row.data) : row.data));
    li.title = li.lastChild.textContent;
  }
  return li;
}

// A timer, because animation frames stop in a hidden tab and the list would not be updated.
let drawTimer = 0;
function changed() { drawTimer ||= setTimeout(drawAll, 60); }

function drawAll() {
  drawTimer = 0;
  const added = shown.added;
  shown.added = 0;
  if (!frozen && $('events').scrollTop > 4) {
    // What is read stays where it is; the new rows are above it, and have their room first.
    $('rows').style.height = rowsShown().length * list.height + 'px';
    $('events').scrollTop += added * list.height;
    unseen += added;
  } else unseen = frozen ? unseen + added : 0;
  const rows = rowsShown(), n = rows.length;
  list.set(n, i => rows[n - 1 - i], (element, i, row) => {
    element.ariaPosInSet = i + 1;
    element.ariaSetSize = n;
    element.ariaSelected = row === chosen;
  });
  const at = chosen && document.getElementById('r' + chosen.n);
  if (at) $('events').setAttribute('aria-activedescendant', at.id);
  else $('events').removeAttribute('aria-activedescendant');
  $('unseen').hidden = !unseen;
  setText($('unseen'), `↑ ${number(unseen)} new`);
  $('empty').hidden = n > 0;
  showCounts();
}

function toTop() {
  unseen = 0;
  $('events').scrollTop = 0;
}

$('events').onscroll = () => {
  if (!frozen && unseen && $('events').scrollTop <= 4) { unseen = 0; changed(); }
};

function choose(row, open) {
  chosen = row;
  if (open || !$('detail').hidden) showDetail(row);
  drawAll();
  if (row) list.scrollTo(indexOf(row));
  drawAll();
}

function step(by) {
  const rows = rowsShown();
  if (!rows.length) return;
  const from = chosen ? indexOf(chosen) : rows.length;
  const to = from >= rows.length ? 0 : Math.max(0, Math.min(rows.length - 1, from + by));
  choose(rows[rows.length - 1 - to]);
}

// Jumps to the next older gap; from the oldest one to the newest.
function jumpToGap() {
  const gaps = rowsShown().filter(row => row.kind === 'gap').reverse();
  if (!gaps.length) return toast('No gaps so far');
  const next = gaps[gaps.indexOf(chosen) + 1] ?? gaps[0];
  choose(next);
  $('events').focus();
}

function pause(on = !frozen) {
  frozen = on ? shown.rows.slice() : null;
  if (!on) toTop();
  unseen = 0;
  $('pause').ariaPressed = on;
  setText($('pause'), on ? 'Resume' : 'Pause');
  drawAll();
}

$('events').onclick = event => {
  const row = event.target.closest('.row')?.row;
  if (row) choose(row, true);
};
$('events').onkeydown = event => {
  const page = Math.max(1, Math.floor($('events').clientHeight / list.height) - 1);
  const by = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, j: 1, k: -1, Home: -1e9, End: 1e9}[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (by) step(by);
  else if (event.key === 'Enter' || event.key === ' ') { if (chosen) choose(chosen, true); }
  else return;
  event.preventDefault();
  event.stopPropagation();
};
$('unseen').onclick = () => {
  if (frozen) pause(false);
  toTop();
  $('events').focus();
  drawAll();
};
$('pause').onclick = () => pause();
$('clear').onclick = () => { clearEvents(); toast('Cleared'); };
