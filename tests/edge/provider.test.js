/** candlewick's own client of hosted models, and its memory, in workerd. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { meetFaults, options } from "../remote/schedule.js";
import { edge, KEY, repository, start, TEXT, TOKEN, withWasm } from "./support.js";

let double, worker;
before(async () => {
  [double, worker] = await Promise.all([start(), withWasm("provider.js")]);
});
after(async () => {
  await worker?.close();
  double?.close();
});

const ask = async (requests) => (await fetch(worker.url, { method: "POST", body: JSON.stringify(requests) })).json();

test("random faults end as the policy says", { timeout: 120_000 }, () =>
  meetFaults(double, (urls) => ask(urls.map(options)), { beside: 8 }),
);

test("through the Worker: the same text, and its refusals are understood", async () => {
  const relay = await edge({
    UPSTREAM_URL: double.define("relay", { token: TOKEN, script: ["429-after", "loading", "none", "402"] }),
    CACHE_SECONDS: "0",
  });
  try {
    const through = (token) => ask([{ ...options(`${relay.url}/v1`), token }]);
    assert.deepEqual(await through(KEY), [{ text: TEXT, retries: 2, attempts: 3 }]);
    assert.deepEqual(await through(KEY), [{ text: "", retries: 0, attempts: 0, code: "resource_exhausted" }]);
    assert.deepEqual(await through("wrong"), [{ text: "", retries: 0, attempts: 0, code: "unauthorized" }]);
  } finally {
    await relay.close();
  }
});

test("stories260K to the end of its context takes a part of the 128 MB", async () => {
  const body = readFileSync(join(repository, "www/models/stories260K.gguf"));
  const { tokens, bytes } = await (await fetch(`${worker.url}/memory`, { method: "POST", body })).json();
  assert.ok(tokens > 500, `${tokens} tokens`);
  assert.ok(bytes < 64 << 20, `${bytes} bytes`);
});
