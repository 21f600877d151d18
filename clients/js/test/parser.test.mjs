// The parser, against what the HTML standard says of event streams (section 9.2.6).

import assert from "node:assert/strict";
import { test } from "node:test";

import { isAfter, oldest } from "../src/position.js";
import { Parser } from "../src/parser.js";

/** What a parser makes of a stream whose bytes come in pieces of this size. */
function parsed(stream, size = Infinity) {
  const [blocks, retries] = [[], []];
  const parser = new Parser((block) => blocks.push(block), (retry) => retries.push(retry));
  const bytes = new TextEncoder().encode(stream);
  for (let at = 0; at < bytes.length; at += size) parser.push(bytes.subarray(at, at + size));
  return { blocks, retries };
}

const WHOLE = [
  "\uFEFFretry: 250\nretry: 1s\n: a comment\n\n",
  "data: one\ndata:two\ndata:  three\nid: 1-1\n\n",
  "event: note\rdata\rid: 2-1\r\r",
  "event: note\r\ndata: é 漢 🙂 \u0085 \u2028\r\nunknown: field\r\nid: 3-1\r\n\r\n",
  "event: nothing\nid: 4-1\n\n",
  "data: with NUL\nid: 5\0\n\n",
  "data: never ended\n",
].join("");

test("a stream is read as the standard says, wherever its bytes are cut", () => {
  const expected = {
    retries: [250],
    blocks: [
      { type: "message", data: "one\ntwo\n three", id: "1-1" },
      { type: "note", data: "", id: "2-1" },
      { type: "note", data: "é 漢 🙂 \u0085 \u2028", id: "3-1" },
      { type: "message", data: "with NUL", id: undefined },
    ],
  };
  for (const size of [Infinity, 1, 2, 3, 7]) assert.deepEqual(parsed(WHOLE, size), expected, `${size} bytes`);
});

test("a long line costs time in proportion to its length", () => {
  const long = "x".repeat(4_000_000);
  const { blocks } = parsed(`data: ${long}\n\n`, 1_000);
  assert.equal(blocks[0].data, long);
});

test("positions are compared by their numbers, and what cannot be compared is passed on", () => {
  assert.ok(isAfter("1000-1", "999-9"));
  assert.ok(isAfter("5-10", "5-9"));
  assert.ok(isAfter("5-9007199254740993", "5-9007199254740992"));
  assert.ok(!isAfter("5-9", "5-9"));
  assert.ok(!isAfter("999-9", "1000-1"));
  for (const position of [null, "0", "something else"]) assert.ok(isAfter("1-1", position));
  assert.equal(oldest(["7-1", "6-9", "8-0"]), "6-9");
  assert.equal(oldest(["7-1", "0", "8-0"]), "0");
});
