// ---- The chosen event ---------------------------------------------------------------------------

const CHUNK = 200;          // Members of an object or array that are shown at once.
let tab = 'tree';

function showDetail(row) {
  const was = $('detail').hidden;
  $('detail').hidden = !row;
  document.body.classList.toggle('open', Boolean(row));
  if (!row) return;
  setText($('detail-title'), row.kind === 'event' ? row.type : row.kind === 'gap' ? 'Gap' : 'Connection');
  setText($('detail-id'), row.id || 'no id');
  for (const button of $('detail-actions').querySelectorAll('[data-needs]')) {
    button.hidden = button.dataset.needs === 'id' ? !row.id : row.kind !== 'event';
  }
  showTab(tab);
  // On a phone the pane covers the list.
  if (was && isPhone()) $('detail-close').focus();
}

function closeDetail() {
  if ($('detail').hidden) return;
  showDetail(null);
  $('events').focus();
  drawAll();
}

function showTab(name) {
  tab = name;
  for (const button of $('tabs').children) {
    const on = button.dataset.tab === name;
    button.ariaSelected = on;
    button.tabIndex = on ? 0 : -1;
  }
  const body = $('detail-body');
  body.setAttribute('aria-labelledby', 'tab-' + name);
  body.replaceChildren(...{tree: treeOf, raw: rawOf, bytes: hexOf, fields: fieldsOf}[name](chosen));
  body.scrollTop = 0;
}

const rawOf = row => [el('pre', 'raw', row.data)];

function fieldsOf(row) {
  const time = ms => new Date(ms).toISOString();
  const event = row.kind === 'event';
  const facts = {
    'event:': row.type === 'message' ? 'none, so the type is message' : row.type,
    'id:': row.id || 'none, so it is live only',
    'data:': `${number(row.data.split('\n').length)} line(s), ${number(sizeOf(row))} bytes`,
    Channel: row.channel || 'unknown',
    Published: event && row.ms && `${time(row.ms)} by ${IN_REDIS ? 'Redis’' : 'the gateway’s'} clock`,
    Received: `${time(row.at)} ${row.fetched ? 'from the history' : 'by this machine’s clock'}`,
    Delay: event && row.ms && !row.fetched && `${number(row.at - row.ms)} ms between the two clocks${row.live ? '' : ', of a replay'}`,
  };
  const made = el('dl', 'fields');
  for (const [name, value] of Object.entries(facts)) if (value) made.append(el('dt', '', name), el('dd', '', value));
  return [made];
}

// The bytes of the data in UTF-8, 16 a line (8 on a phone). A megabyte has 65,536 lines, so this list is virtual, too.
function hexOf(row) {
  const bytes = new TextEncoder().encode(row.data), sizer = el('div', 'hex'), wide = innerWidth > 480 ? 16 : 8;
  const hex = new Virtual($('detail-body'), sizer, () => el('div', 'hexline'));
  // The detail is shown before the list is measured.
  queueMicrotask(() => hex.set(Math.ceil(bytes.length / wide), i => i, (line, i) => {
    const part = [...bytes.subarray(i * wide, i * wide + wide)];
    setText(line, two((i * wide).toString(16), 6) + '  ' + part.map(b => two(b.toString(16))).join(' ').padEnd(wide * 3)
      + ' ' + part.map(b => b > 31 && b < 127 ? String.fromCharCode(b) : '·').join(''));
  }));
  return [sizer];
}

// ---- JSON as a tree -----------------------------------------------------------------------------

// Reads JSON into [name, value] pairs, with scalars as they were written. JSON.parse would change
// large numbers and drop repeated members, so the page would show other data than was published.
// It keeps its own stack, because a publisher may nest deeply. JSON.parse has seen that it is JSON.
function readJson(text) {
  const root = {open: '[', members: []}, stack = [root];
  let name = null, key = false;
  for (const [t] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    const top = stack.at(-1);
    if (t === '}' || t === ']') stack.pop();
    else if (t === ',') key = top.open === '{';
    else if (t === ':') key = false;
    else if (key && t[0] === '"') name = t;
    else {
      const value = t === '{' || t === '[' ? {open: t, members: []} : t;
      top.members.push([top.open === '{' ? name : top.members.length, value]);
      if (value.open) { stack.push(value); key = t === '{'; }
    }
  }
  return root.members[0][1];
}

function treeOf(row) {
  try { JSON.parse(row.data); } catch { return [el('p', 'hint', 'Not JSON, so shown as it is.'), ...rawOf(row)]; }
  const root = el('div', 'tree');
  root.append(branch(null, readJson(row.data), true));
  return [root];
}

function label(name) {
  if (name === null) return '';
  const made = el('span', 'name', typeof name === 'number' ? name : name.slice(1, -1));
  return el('span', '', '', made, ': ');
}

function branch(name, value, open) {
  if (!value.open) {
    const kind = value[0] === '"' ? 'string' : /^[-\d]/.test(value) ? 'number' : 'word';
    return el('div', 'leaf', '', label(name), el('span', kind, value));
  }
  const n = value.members.length, [left, right, what] = value.open === '{' ? ['{', '}', 'member'] : ['[', ']', 'item'];
  const made = el('details', '', undefined,
    el('summary', '', '', label(name), el('span', 'dim', `${left} ${number(n)} ${what}${n === 1 ? '' : 's'} ${right}`)));
  const fill = () => {
    if (made.childElementCount < 2) more(made, value.members, 0);
  };
  made.addEventListener('toggle', fill);
  made.open = open;
  if (open) fill();
  return made;
}

function more(into, members, from) {
  const end = Math.min(members.length, from + CHUNK);
  for (let i = from; i < end; i++) {
    const [name, value] = members[i];
    // What is small is open at once.
    into.append(branch(name, value, Boolean(value.open) && members.length <= 8 && value.members.length <= 20));
  }
  if (end === members.length) return;
  const button = el('button', 'link', `${number(members.length - end)} more`);
  button.onclick = () => {
    const next = into.childElementCount - 1;
    button.remove();
    more(into, members, end);
    const first = into.children[next];
    first.tabIndex = -1;
    first.focus();
  };
  into.append(button);
}

$('tabs').onclick = ({target}) => { if (target.dataset.tab) showTab(target.dataset.tab); };
$('tabs').onkeydown = event => {
  const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (!by) return;
  const all = [...$('tabs').children], next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
  showTab(next.dataset.tab);
  next.focus();
};
$('detail-close').onclick = closeDetail;
$('copy-data').onclick = () => copy(chosen.data, 'the data');
$('copy-id').onclick = () => copy(chosen.id, 'the id');
$('resume-here').onclick = () => resumeAfter(chosen.id);
$('publish-again').onclick = () => { fillComposer(chosen); $('publish-data').focus(); };
