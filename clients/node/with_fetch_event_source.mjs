// @microsoft/fetch-event-source, which is made for browsers.
//
// It reads whether the page is hidden. Node has no page, so it gets one that is never hidden.

globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import('@microsoft/fetch-event-source');
const { comesBackAlways, heard, tell, url, why } = await import('./hear.mjs');

await fetchEventSource(url, {
  async onopen(response) {
    if (!response.ok) throw new Error(`status ${response.status}`);
    tell('open');
  },
  onmessage: (e) => heard(e.event || 'message', e.id, e.data),
  onerror: (error) => void tell('error', why(error)),
  onclose() {
    if (comesBackAlways) throw new Error('ended in order');
  },
});
tell('end');
