// Listens with npm's `eventsource`:   node eventsource.mjs URL
//
// Prints one {"type","id","data"} per event; the type is `message` if it came to `onmessage`.
// Version 3 is the newest for the Node.js 18 of Debian 12. It reconnects by itself, with the last
// id as Last-Event-ID.

import { EventSource } from 'eventsource';

const source = new EventSource(process.argv[2]);
const hear = (type) => ({ lastEventId: id, data }) =>
  process.stdout.write(JSON.stringify({ type, id, data }) + '\n');
source.onmessage = hear('message');
for (const type of ['checkpoint', 'gap']) source.addEventListener(type, hear(type));
