// What documents quote of a file is what the file says, so that the code that is read is the code that
// is tested. A quotation is a block of code behind a line `<!-- quoted from PATH -->`.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const documents = ["README.md", "clients/js/README.md", ...readdirSync(join(root, "docs")).map((name) => `docs/${name}`)];

test("what documents quote of a file is in the file", () => {
  let quoted = 0;
  for (const document of documents) {
    const text = readFileSync(join(root, document), "utf8");
    const blocks = [...text.matchAll(/^<!-- quoted from (\S+) -->\n+```\w*\n([^]*?)^```$/gm)];
    assert.equal(blocks.length, text.split("<!-- quoted from ").length - 1, `${document}: a quotation without code`);
    for (const [, path, code] of blocks) {
      const file = readFileSync(join(root, path), "utf8");
      assert.ok(file.includes(code), `${document} quotes what ${path} does not say:\n${code}`);
      quoted++;
    }
  }
  assert.ok(quoted >= 4, `${quoted} quotations`);
});
