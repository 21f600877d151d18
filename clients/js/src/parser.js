// Reads an event stream, as the HTML standard says (section 9.2.6, "Interpreting an event stream").

/**
 * One block of a stream that has data.
 *
 * @typedef {object} Block
 * @property {string} type The event's type; "message" if the block has none.
 * @property {string} data The lines of its data, joined by line feeds.
 * @property {string | undefined} id Its id; undefined if the block has none.
 */

const LINE_END = /\r\n|\n|\r/g;

export class Parser {
  #decoder = new TextDecoder();
  #block;
  #retry;
  /** @type {string[]} The pieces of a line whose end has not arrived. */
  #pieces = [];
  #afterCr = false;
  #type = "";
  /** @type {string[]} */
  #data = [];
  /** @type {string | undefined} */
  #id;

  /**
   * @param {(block: Block) => void} block Called with each block that has data.
   * @param {(milliseconds: number) => void} retry Called with each reconnection time.
   */
  constructor(block, retry) {
    this.#block = block;
    this.#retry = retry;
  }

  /**
   * Takes the next bytes of the stream, cut anywhere. A block whose blank line never arrives is no
   * block, as the standard says.
   *
   * @param {Uint8Array} bytes
   */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return;
    // The CR that ended the last piece was the first half of a CRLF.
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    let from = 0;
    for (const end of text.matchAll(LINE_END)) {
      this.#pieces.push(text.slice(from, end.index));
      this.#line(this.#pieces.join(""));
      this.#pieces = [];
      from = end.index + end[0].length;
    }
    if (from < text.length) this.#pieces.push(text.slice(from));
  }

  /** @param {string} line */
  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return; // A comment.
    const name = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.#retry(Number(value));
  }

  #dispatch() {
    const [type, data, id] = [this.#type || "message", this.#data, this.#id];
    [this.#type, this.#data, this.#id] = ["", [], undefined];
    if (data.length > 0) this.#block({ type, data: data.join("\n"), id });
  }
}
