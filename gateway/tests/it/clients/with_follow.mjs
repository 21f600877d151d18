// Listens with `clients/js/src/follow.js` on top of npm's `eventsource`:   node with_follow.mjs URL
//
// Prints the same as eventsource.mjs. Each request carries a bearer token. `follow` passes no
// checkpoints on, so the program listens for them on the source.

import { EventSource } from 'eventsource';
import { follow } from './follow.js';

const say = ({ type, lastEventId: id, data }) =>
  process.stdout.write(JSON.stringify({ type, id, data }) + '\n');

function source(url) {
  const authorized = (url, init) =>
    fetch(url, { ...init, headers: { ...init.headers, Authorization: 'Bearer secret' } });
  const made = new EventSource(url, { fetch: authorized });
  for (const type of ['checkpoint', 'gap']) made.addEventListener(type, say);
  return made;
}

follow(process.argv[2], { source, event: say, retry: 100 });
