// A client with one subscription that notes everything it is told.

import { createClient } from "../src/client.js";
import { eventually } from "../../../lab/node/processes.mjs";

export class Listener {
  events = [];
  gaps = [];
  problems = [];
  opens = 0;

  constructor(url, channels, options = {}, wanted = {}) {
    this.client = createClient({
      url,
      share: "none",
      ...options,
      state: (_, problem) => problem && this.problems.push(problem.detail),
    });
    this.subscription = this.subscribe(this, channels, wanted);
  }

  /** Adds a subscription, which notes into `notes`. */
  subscribe(notes, channels, wanted = {}) {
    return this.client.subscribe({
      channels,
      ...wanted,
      event: (e) => notes.events.push(e),
      gap: (gap) => notes.gaps.push(gap),
      open: () => notes.opens++,
      refused: (problem) => (notes.refused = problem),
    });
  }

  opened() {
    return eventually("the stream is open", () => this.opens > 0);
  }

  is(state) {
    return eventually(`it is ${state}`, () => this.client.state === state);
  }

  hears(count) {
    return eventually(`it hears ${count} events`, () => this.events.length >= count);
  }

  data() {
    return this.events.map((e) => e.data);
  }

  pairs() {
    return this.events.map((e) => [e.id, e.data]);
  }

  close() {
    this.client.close();
  }
}

export const notes = () => ({ events: [], gaps: [], opens: 0 });
