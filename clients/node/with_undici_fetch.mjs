// undici's `fetch`, which Node's own is, too, with a `for await` loop instead of a parser.

import { fetch } from 'undici';
import { comeBack, heard, open } from './hear.mjs';

await comeBack(async (place) => {
  let rest = '';
  const body = await open(fetch, place);
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + text).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) take(block, place);
  }
});

function take(block, place) {
  const event = { type: 'message', data: [] };
  for (const line of block.split('\n')) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === 'event') event.type = value;
    if (field === 'data') event.data.push(value);
    if (field === 'id') event.id = place.lastEventId = value;
    if (field === 'retry') place.wait = Number(value);
  }
  if (event.data.length > 0) heard(event.type, event.id, event.data.join('\n'));
}
