// A real Chromium for the tests in JavaScript, and a site whose pages it shows.

import { once } from "node:events";
import { readFile } from "node:fs/promises";
import http from "node:http";
import { extname, join, normalize } from "node:path";
import { after } from "node:test";

import { chromium } from "playwright-core";

const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".html": "text/html; charset=utf-8" };

/** Starts the Chromium of this machine. */
export async function browser() {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  const launched = await chromium.launch({
    executablePath,
    args: ["--no-sandbox"],
    // Pages that are left must be able to sleep.
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
  });
  after(() => launched.close());
  return launched;
}

/**
 * A site on a port of its own. `folders` maps the beginnings of paths to folders; `pages` maps paths
 * to a text, or to an object with `text`, `type` and `headers`.
 */
export async function site({ folders = {}, pages = {} }) {
  const listener = http.createServer((request, response) => answer(request, response, folders, pages));
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  after(() => {
    listener.closeAllConnections();
    listener.close();
  });
  return { url: `http://127.0.0.1:${listener.address().port}`, pages };
}

async function answer(request, response, folders, pages) {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://site").pathname));
  try {
    if (path in pages) {
      const page = typeof pages[path] === "string" ? { text: pages[path] } : pages[path];
      response.writeHead(200, { "Content-Type": page.type ?? TYPES[".html"], ...page.headers });
      return response.end(page.text);
    }
    const root = Object.keys(folders).find((root) => path.startsWith(root));
    const file = join(folders[root], path.slice(root.length));
    const text = await readFile(file);
    response.writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "text/plain" });
    response.end(text);
  } catch {
    response.writeHead(404).end();
  }
}
