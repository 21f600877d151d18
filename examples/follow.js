// Follows channels with the browser's own EventSource, and adds the two things that it lacks: it
// notices a connection that died without a word (a laptop or phone that slept, a network that changed),
// and it starts again, with back-off, where an EventSource gives up for good (any status but 200).
//
//   const stop = follow("https://events.example.org/events?channel=orders", {
//     types: ["created", "paid"],             // event types to pass on, beside untyped events
//     event: (e) => console.log(e.type, e.data, e.lastEventId),
//     gap: (g) => reload(g.channel),          // events may be missing: load the state anew
//   });

export function follow(address, { types = [], event, gap, silence = 45_000 }) {
  let source;
  let lastId = "";
  let lastSign = 0;
  let failures = 0;
  let again = null;

  function open() {
    again = null;
    const url = new URL(address, location.href);
    if (lastId) url.searchParams.set("last_event_id", lastId);
    lastSign = Date.now();
    source = new EventSource(url, { withCredentials: false });
    const on = (type, handler) =>
      source.addEventListener(type, (e) => {
        lastSign = Date.now();
        failures = 0;
        if (e.lastEventId) lastId = e.lastEventId;
        handler?.(e);
      });
    on("checkpoint");
    on("gap", (e) => gap?.(JSON.parse(e.data)));
    for (const type of ["message", ...types]) on(type, event);
    // While readyState is CONNECTING the browser reconnects by itself, after the gateway's `retry:`.
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) later();
    });
  }

  function later() {
    if (again) return;
    source.close();
    const wait = Math.min(30_000, 1000 * 2 ** failures++) * (0.5 + Math.random());
    again = setTimeout(open, wait);
  }

  // The gateway writes at least every `stream.heartbeat` (15 s). A heartbeat of an idle stream is a
  // `checkpoint` event, so a script can see it.
  function check() {
    if (!again && Date.now() - lastSign > silence) {
      source.close();
      open();
    }
  }

  const timer = setInterval(check, 5000);
  const woken = () => document.visibilityState === "visible" && check();
  document.addEventListener("visibilitychange", woken);
  open();
  return () => {
    clearInterval(timer);
    clearTimeout(again);
    document.removeEventListener("visibilitychange", woken);
    source.close();
  };
}
