// Reads events with `eventsource-parser`, the parser of npm's `eventsource` and of most JavaScript
// clients of streaming APIs:   node read.mjs URL COUNT [LAST-EVENT-ID]
//
// Prints {"open":true} when the head of the answer arrived, then one {"id","event","data"} for each
// dispatched event (not for `checkpoint`), and exits 0 after COUNT of them; 1 when the stream ended
// early, 2 when it held a line that is no field of the standard, 3 when nothing came for too long.
//
// Version 3 is the newest for Node 20. Read against WHATWG HTML §9.2.6 it is right where this matters:
// - Lines end at CR, LF and CRLF alone (U+2028, U+0085, VT and FF are text), also split over chunks.
// - A block without `data` is not dispatched, `data:` is the empty string, one space is removed, of
//   the final line ends one, and an id with NUL is ignored.
// Where it differs, and what is done here about it:
// - It gives an id only with the block that carries it; the standard's last id lasts. Kept here.
// - It eats a BOM only from text that was decoded as Latin-1; TextDecoderStream removes the real one.
// - It holds back a CR at the end of a chunk until more comes, so a stream ending lines with CR would
//   be late by one write. The gateway writes LF.
// It calls onError for unknown fields, which no browser does: whatever a publisher smuggled out of
// its data line is then seen even where it would be ignored.

import { EventSourceParserStream } from 'eventsource-parser/stream';

const [url, count, lastEventId] = process.argv.slice(2);
const write = (value) => process.stdout.write(JSON.stringify(value) + '\n');

function giveUp(code, why) {
  console.error(why);
  process.exit(code);
}

// A test that died must not leave a reader behind for ever.
setTimeout(() => giveUp(3, 'gave up after 120 s'), 120_000).unref();

const headers = { Accept: 'text/event-stream' };
// Header values are bytes to fetch, and the standard wants the id in UTF-8.
if (lastEventId) headers['Last-Event-ID'] = Buffer.from(lastEventId, 'utf8').toString('latin1');

const abort = new AbortController();
const response = await fetch(url, { headers, signal: abort.signal });
if (response.status !== 200) giveUp(1, `status ${response.status}: ${await response.text()}`);
write({ open: true });

let id = '';
let left = Number(count);
const events = response.body
  .pipeThrough(new TextDecoderStream())
  .pipeThrough(new EventSourceParserStream({ onError: (error) => giveUp(2, error.message) }));
for await (const event of events) {
  id = event.id ?? id;
  if (event.event === 'checkpoint') continue;
  write({ id, event: event.event || 'message', data: event.data });
  left -= 1;
  if (left <= 0) break;
}
if (left > 0) giveUp(1, `the stream ended ${left} events early`);
// A pipe that is full takes the last line only later, and exiting would cut it short.
process.stdout.write('', () => process.exit(0));
