// Prints one JSON line for each thing that happens, for all programs here; see ../README.md.

const [, , url] = process.argv;
// Whether the application also reconnects after the server has ended the stream in order.
const comesBackAlways = process.env.COME_BACK === 'always';

const tell = (what, more) => process.stdout.write(JSON.stringify({ what, ...more }) + '\n');
const heard = (type, id, data) => tell('event', { type, id, data });
const why = (error) => ({ why: String(error?.cause ?? error?.message ?? error).slice(0, 200) });

// Listens with an object that has the interface of a browser's EventSource.
function listenTo(source) {
  source.onopen = () => tell('open');
  source.onerror = (error) => tell(source.readyState === 2 ? 'end' : 'error', why(error));
  source.onmessage = (e) => heard('message', e.lastEventId, e.data);
  for (const type of ['note', 'checkpoint', 'gap', 'alive']) {
    source.addEventListener(type, (e) => heard(type, e.lastEventId, e.data));
  }
}

// The usual loop around a client that does not reconnect: listen, and listen again after an error.
async function comeBack(listen) {
  const place = { lastEventId: '', wait: 1000 };
  for (;;) {
    try {
      await listen(place);
      tell('end');
      if (!comesBackAlways) return;
    } catch (error) {
      tell('error', why(error));
    }
    await new Promise((resolve) => setTimeout(resolve, place.wait));
  }
}

// Requests the stream with `fetch`, after the loop's last id.
async function open(fetch, place) {
  const headers = { Accept: 'text/event-stream' };
  if (place.lastEventId) headers['Last-Event-ID'] = place.lastEventId;
  const response = await fetch(url, { headers });
  if (!response.ok) throw new Error(`status ${response.status}`);
  tell('open');
  return response.body;
}

export { url, comesBackAlways, tell, heard, why, listenTo, comeBack, open };
