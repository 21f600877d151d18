// eventsource-parser, which parses what Node's `fetch` reads.

import { EventSourceParserStream } from 'eventsource-parser/stream';
import { comeBack, heard, open } from './hear.mjs';

await comeBack(async (place) => {
  const body = await open(fetch, place);
  const events = body
    .pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream({ onRetry: (ms) => (place.wait = ms) }));
  for await (const event of events) {
    if (event.id !== undefined) place.lastEventId = event.id;
    heard(event.event ?? 'message', event.id, event.data);
  }
});
