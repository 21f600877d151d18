// Reads events with `eventsource-parser`, the parser of npm's `eventsource` and of most JavaScript
// clients of streaming APIs:   node read.mjs URL COUNT [LAST-EVENT-ID]
//
// Prints {"open":true} when the head of the answer arrives, then one {"id","event","data"} per
// dispatched event (not for `checkpoint`). Exits with 0 after COUNT of them, with 1 if the stream
// ended early, with 2 if it had a line that is no field of the standard, with 3 on a time-out.
//
// Version 3 is the newest for Node 20. By its source, it follows WHATWG HTML §9.2.6 here:
// - Only CR, LF and CRLF end a line (U+2028, U+0085, VT and FF are text), also across chunks.
// - It does not dispatch a block without `data`. `data:` is the empty string. It removes one
//   leading space and the final line end, and ignores an id with NUL.
// It differs from the standard in these points:
// - It gives an id only with the block that has it. This program keeps the last id.
// - It removes a BOM only from text decoded as Latin-1. TextDecoderStream removes the real one.
// - It holds back a CR at the end of a chunk until more arrives, so a stream with CR as line end
//   would be late by one write. The gateway writes LF.
// It calls onError for unknown fields, unlike browsers. So it also shows a line that a publisher's
// data smuggled into the stream and that browsers would ignore.

import { EventSourceParserStream } from 'eventsource-parser/stream';

const [url, count, lastEventId] = process.argv.slice(2);
const write = (value) => process.stdout.write(JSON.stringify(value) + '\n');

function giveUp(code, why) {
  console.error(why);
  process.exit(code);
}

// After a test died, its reader must end, too.
setTimeout(() => giveUp(3, 'gave up after 120 s'), 120_000).unref();

const headers = { Accept: 'text/event-stream' };
// fetch() writes each character of a header as one byte, but the standard wants the id in UTF-8.
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
// Exits only after the pipe has taken the last line. An earlier exit would cut the line off.
process.stdout.write('', () => process.exit(0));
