// What all these programs print: one JSON line for each thing that happened, see ../README.md.

const [, , url] = process.argv;
// What an application does when the server has ended the stream in order: it is finished, or it comes back.
const comesBackAlways = process.env.COME_BACK === 'always';

const tell = (what, more) => process.stdout.write(JSON.stringify({ what, ...more }) + '\n');
const heard = (type, id, data) => tell('event', { type, id, data });
const why = (error) => ({ why: String(error?.cause ?? error?.message ?? error).slice(0, 200) });

// Listens with anything that has the interface of a browser's EventSource.
function listenTo(source) {
  source.onopen = () => tell('open');
  source.onerror = (error) => tell(source.readyState === 2 ? 'end' : 'error', why(error));
  source.onmessage = (e) => heard('message', e.lastEventId, e.data);
  for (const type of ['note', 'checkpoint', 'gap', 'alive']) {
    source.addEventListener(type, (e) => heard(type, e.lastEventId, e.data));
  }
}

// The usual loop around a client that leaves coming back to its user: listen, and after an error listen again.
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

// Asks for the stream with `fetch`, from where the loop stands.
async function open(fetch, place) {
  const headers = { Accept: 'text/event-stream' };
  if (place.lastEventId) headers['Last-Event-ID'] = place.lastEventId;
  const response = await fetch(url, { headers });
  if (!response.ok) throw new Error(`status ${response.status}`);
  tell('open');
  return response.body;
}

export { url, comesBackAlways, tell, heard, why, listenTo, comeBack, open };
