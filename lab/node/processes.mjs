// Real processes for the tests in JavaScript: a Redis, gateways, a wire between client and gateway
// that can be cut, and programs. Ports come from the kernel.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

const BOUND = 60_000; // Milliseconds after which what was waited for never comes.

/** The gateway's program. scripts/examples sets it. */
const PROGRAM = process.env.GATEWAY_PROGRAM;
if (!PROGRAM) throw new Error("GATEWAY_PROGRAM names no gateway; scripts/examples runs the tests");

/** Waits until `condition` gives something true, and returns that. */
export async function eventually(what, condition) {
  const end = Date.now() + BOUND;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`it never came about: ${what}`);
    await new Promise((done) => setTimeout(done, 10));
  }
}

let hosts = 0;
/** A loopback address that only this process uses, with a free port. A server can come back there. */
export async function ownAddress() {
  const [pid, n] = [process.pid, ++hosts];
  const host = `127.${1 + ((pid >> 8) % 250)}.${pid % 256}.${1 + (n % 250)}`;
  const listener = net.createServer().listen(0, host);
  await once(listener, "listening");
  const { port } = listener.address();
  listener.close();
  await once(listener, "close");
  return `${host}:${port}`;
}

/** A directory that is gone after the tests of this file. */
export function scratch() {
  const directory = mkdtempSync(join(tmpdir(), "sse-examples-"));
  after(() => rmSync(directory, { recursive: true, force: true, maxRetries: 5 }));
  return directory;
}

/** Our environment without settings of a gateway, and with `more`. */
function environment(more = {}) {
  const given = Object.entries(process.env).filter(([name]) => !name.startsWith("SSE_") && !/_proxy$/i.test(name));
  return { ...Object.fromEntries(given), ...more };
}

/** A process that ends with the tests of this file. `lines` are those of its standard output. */
export class Program {
  lines = [];
  errors = "";

  /** `group` says that the process has children, which end with it. */
  constructor(command, args, { env, cwd, group = false } = {}) {
    this.name = command;
    this.group = group;
    const stdio = ["ignore", "pipe", "pipe"];
    this.process = spawn(command, args, { env: environment(env), cwd, stdio, detached: group });
    let rest = "";
    this.process.stdout.setEncoding("utf8").on("data", (text) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      this.lines.push(...lines);
    });
    this.process.stderr.setEncoding("utf8").on("data", (text) => (this.errors += text));
    this.ended = new Promise((done) => {
      this.process.on("error", (error) => done(String(error)));
      this.process.on("close", (code, signal) => done(code ?? signal));
    });
    this.isOver = false;
    this.ended.then(() => (this.isOver = true));
    after(() => this.kill());
  }

  /** Waits for its end; its status must be 0. Returns the lines that it printed. */
  async succeeds() {
    const status = await this.ended;
    if (status !== 0) throw new Error(`${this.name} ended with ${status}: ${this.errors}`);
    return this.lines;
  }

  signal(name) {
    this.process.kill(name);
  }

  async kill() {
    if (!this.group) this.signal("SIGKILL");
    else if (!this.isOver) process.kill(-this.process.pid, "SIGKILL");
    await this.ended;
  }
}

/** Starts a server and waits until it is ready. */
async function server(command, args, ready) {
  const program = new Program(command, args);
  await eventually(`${command} is ready`, () => {
    if (program.isOver) throw new Error(`${command} ended: ${program.lines.join("\n")}${program.errors}`);
    return ready();
  });
  return program;
}

/** A Redis of its own. */
export async function redis() {
  const address = await ownAddress();
  const [host, port] = address.split(":");
  const directory = scratch();
  const args = ["--bind", host, "--port", port, "--dir", directory, "--save", "", "--appendonly", "no"];
  const answers = () =>
    new Promise((done) => {
      const socket = net.connect(Number(port), host, () => socket.write("PING\r\n"));
      socket.on("data", (bytes) => done(String(bytes).startsWith("+PONG") && socket.destroy()));
      socket.on("error", () => done(false));
    });
  const program = await server("redis-server", args, answers);
  return { address, url: `redis://${address}`, program };
}

/** A gateway: without a Redis one with the memory broker. */
export class Gateway {
  static async start({ redis, settings = {}, address, program = PROGRAM } = {}) {
    const gateway = new Gateway();
    gateway.address = address ?? (await ownAddress());
    gateway.admin = await ownAddress();
    gateway.url = `http://${gateway.address}`;
    gateway.events = `${gateway.url}/events`;
    const quick = { "stream.heartbeat": "1s", "stream.retry": "100ms", "drain.spread": "0s" };
    const all = Object.entries({ ...quick, ...settings }).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
    const args = ["--listen", gateway.address, "--admin-listen", gateway.admin, ...all];
    if (redis) args.push("--redis", redis.url);
    gateway.program = await server(program, args, () => gateway.ready());
    return gateway;
  }

  async ready() {
    const answer = await fetch(`http://${this.admin}/readyz`).catch(() => null);
    return answer?.status === 200;
  }

  /** Publishes an event, returns its id. */
  async publish(channel, data, { event, token } = {}) {
    const url = `${this.url}/channels/${encodeURIComponent(channel)}${event ? `?event=${event}` : ""}`;
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const answer = await fetch(url, { method: "POST", body: data, headers });
    const body = await answer.json();
    if (!answer.ok) throw new Error(`publishing was answered ${answer.status}: ${body.detail}`);
    return body.id;
  }

  /** The events that a channel's history keeps. */
  async history(channel) {
    const answer = await fetch(`${this.url}/channels/${encodeURIComponent(channel)}/history?limit=1000`);
    return (await answer.json()).events;
  }

  /** How many streams are live. */
  async live() {
    const text = await (await fetch(`http://${this.admin}/metrics`)).text();
    return Number(/sse_subscribers\{state="live"\} (\d+)/.exec(text)[1]);
  }

  /** Stops in order, as for an update. */
  async drain() {
    this.program.signal("SIGTERM");
    await this.program.ended;
  }

  async kill() {
    await this.program.kill();
  }
}

/** The settings of a gateway that takes tokens, and what makes such tokens. */
export function tokens() {
  const file = join(scratch(), "jwt.secret");
  const secret = crypto.getRandomValues(Buffer.alloc(32)).toString("hex");
  writeFileSync(file, secret, { mode: 0o600 });
  const encode = (value) => Buffer.from(value).toString("base64url");
  const make = async (claims, seconds = 3600) => {
    const now = Math.floor(Date.now() / 1000);
    const all = { iat: now, exp: now + seconds, ...claims };
    const text = [{ alg: "HS256", typ: "JWT" }, all].map((part) => encode(JSON.stringify(part))).join(".");
    const algorithm = { name: "HMAC", hash: "SHA-256" };
    const key = await crypto.subtle.importKey("raw", Buffer.from(secret), algorithm, false, ["sign"]);
    return `${text}.${encode(await crypto.subtle.sign("HMAC", key, Buffer.from(text)))}`;
  };
  const line = `alg=HS256 secret_file=${file}`;
  return { make, settings: { "auth.jwt.keys": line, "auth.jwt.leeway": "0s" } };
}

/** A proxy for TCP that counts requests and can be cut, so that an address stays while gateways go. */
export class Wire {
  /** Each request's head, as it was sent. */
  heads = [];
  #sockets = new Set();

  static async to(gateway) {
    const wire = new Wire();
    wire.target = gateway.address;
    wire.listener = net.createServer((client) => wire.#pass(client)).listen(0, "127.0.0.1");
    await once(wire.listener, "listening");
    wire.address = `127.0.0.1:${wire.listener.address().port}`;
    wire.events = `http://${wire.address}/events`;
    after(() => {
      wire.cut();
      wire.listener.close();
    });
    return wire;
  }

  #pass(client) {
    const [host, port] = this.target?.split(":") ?? [];
    if (!host) return client.destroy();
    const gateway = net.connect(Number(port), host);
    client.on("data", (bytes) => {
      if (/^(GET|POST|OPTIONS) /.test(String(bytes))) this.heads.push(String(bytes).split("\r\n\r\n")[0]);
    });
    for (const [from, to] of [[client, gateway], [gateway, client]]) {
      this.#sockets.add(from);
      from.pipe(to);
      from.on("error", () => to.destroy());
      from.on("close", () => this.#sockets.delete(from) && to.destroy());
    }
  }

  /** Ends every connection, and refuses others until `moveTo`. */
  cut() {
    this.target = undefined;
    for (const socket of this.#sockets) socket.destroy();
  }

  moveTo(gateway) {
    this.target = gateway.address;
  }
}
