// The package as npm would publish it: what is in it, that programs can import it, and its types.

import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Program } from "../../../lab/node/processes.mjs";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const directory = mkdtempSync(join(tmpdir(), "sse-package-"));
after(() => rmSync(directory, { recursive: true }));
const tsc = join(root, "node_modules/typescript/bin/tsc");

/** Packs a copy of the package, so that no sources change, and unpacks it where a program finds it. */
async function installed() {
  const copy = join(directory, "clients/js");
  mkdirSync(dirname(copy), { recursive: true });
  cpSync(join(root, "clients/js"), copy, { recursive: true });
  cpSync(join(root, "LICENSE"), join(directory, "LICENSE"));
  symlinkSync(join(root, "node_modules"), join(directory, "clients/node_modules"));
  const npm = new Program("npm", ["pack", "--json"], { cwd: copy });
  const [packed] = JSON.parse((await npm.succeeds()).join("\n").replace(/^[^[]*(?=\[)/, ""));
  const target = join(directory, "user/node_modules/sse-gateway-client");
  mkdirSync(target, { recursive: true });
  await new Program("tar", ["-xzf", join(copy, packed.filename), "-C", target, "--strip-components=1"]).succeeds();
  for (const name of ["react", "@types", "csstype"]) {
    symlinkSync(join(root, "node_modules", name), join(directory, "user/node_modules", name));
  }
  return packed.files.map((file) => file.path).sort();
}

const files = await installed();
const user = join(directory, "user");

test("the package has its sources, their types, a licence and a README, and nothing else", () => {
  const modules = ["client", "entry", "follow", "hub", "link", "parser", "position", "react", "state", "stream", "worker"];
  const expected = modules.flatMap((name) => [`src/${name}.js`, `types/${name}.d.ts`]);
  assert.deepEqual(files, [...expected, "LICENSE", "README.md", "package.json"].sort());
});

test("a program imports every entry of the package", async () => {
  const program = `
    import { createClient } from "sse-gateway-client";
    import { useEvents, useChannelState, useConnection } from "sse-gateway-client/react";
    import { follow } from "sse-gateway-client/follow";
    import { followState } from "sse-gateway-client/state";
    const all = [createClient, useEvents, useChannelState, useConnection, follow, followState];
    // A server that renders pages makes a client and never uses it.
    const client = createClient({ url: "/events" });
    console.log(all.every((one) => typeof one === "function"), client.state, client.share);`;
  writeFileSync(join(user, "program.mjs"), program);
  assert.deepEqual(await new Program("node", [join(user, "program.mjs")]).succeeds(), ["true idle none"]);
});

test("a program in TypeScript gets the types, and its mistakes are found", async () => {
  const program = `
    import { createClient, type Client, type Gap } from "sse-gateway-client";
    import { useChannelState, useConnection, useEvents } from "sse-gateway-client/react";
    import { followState } from "sse-gateway-client/state";

    interface Order { id: number; paid: boolean }
    const client: Client = createClient({
      url: "/events",
      token: async ({ refused }: { refused: boolean }) => (refused ? null : "token"),
      state: (state, problem) => console.log(state === "waiting", problem?.detail.length),
    });
    const gaps: Gap[] = [];
    const subscription = client.subscribe({
      channels: ["orders"],
      event: (e) => console.log(e.channel.length, e.type, e.data, e.id?.length),
      gap: (gap) => gaps.push(gap),
    });
    subscription.close();
    export function Orders() {
      const state: "connecting" | "open" | "waiting" | "failed" | "idle" = useConnection(client);
      useEvents(client, { channels: "orders", event: (e) => console.log(e.data) });
      const { state: orders } = useChannelState<Order[]>(client, {
        channels: ["orders"],
        load: async (signal: AbortSignal) => (signal.aborted ? [] : [{ id: 17, paid: false }]),
        reduce: (orders, e) => orders.map((o) => ({ ...o, paid: e.type === "paid" })),
      });
      return \`\${state} \${orders?.[0]?.paid}\`;
    }
    followState("/events?channel=orders", { load: async () => 1, show: (n: number) => n, apply() {} });

    // @ts-expect-error: the address is missing
    createClient({});
    // @ts-expect-error: there is no such way to share
    createClient({ url: "/events", share: "magic" });
    // @ts-expect-error: the channels are missing
    client.subscribe({ event() {} });
    // @ts-expect-error: an event has no such member
    client.subscribe({ channels: "a", event: (e) => e.topic });
    // @ts-expect-error: a state that is loaded must be one that is shown
    client.followState({ channels: "a", load: async () => 1, show: (text: string) => text, apply() {} });`;
  writeFileSync(join(user, "program.ts"), program);
  for (const module of ["NodeNext", "ESNext"]) {
    const resolution = module === "NodeNext" ? "NodeNext" : "Bundler";
    const options = ["--strict", "--noEmit", "--target", "ES2022", "--lib", "ES2022,DOM", "--types", ""];
    const args = [tsc, ...options, "--module", module, "--moduleResolution", resolution, "program.ts"];
    const program = new Program("node", args, { cwd: user });
    assert.equal(await program.ended, 0, program.lines.join("\n"));
  }
});
