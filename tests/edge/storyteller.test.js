/** The model that runs in the Worker itself: llama2.c's published story from WebAssembly in workerd. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { edge, events, reading, story, textOf } from "./support.js";

const body = { model: "stories260K", prompt: "", temperature: 0, max_tokens: 400 };
let worker;
before(async () => {
  worker = await edge();
});
after(() => worker?.close());

const ask = (more, init) => worker.ask("/v1/completions", { ...body, ...more }, init);

test("the published story, whole", async () => {
  const response = await ask();
  assert.equal(response.status, 200);
  const { choices, usage, object, model } = await response.json();
  assert.deepEqual([object, model, choices[0].text], ["text_completion", "stories260K", story]);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
});

test("the same in parts", async () => {
  const response = await ask({ stream: true, stream_options: { include_usage: true } });
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  const text = await response.text();
  assert.match(text, /data: \[DONE\]\n\n$/);
  const chunks = events(text);
  assert.equal(textOf(chunks), story);
  assert.ok(chunks.length > 100);
  assert.ok(chunks.at(-1).usage.completion_tokens > 100);
  assert.ok(chunks.at(-2).choices[0].finish_reason);
});

test("several at a time do not disturb each other, nor does one that leaves", async () => {
  const left = new AbortController();
  const leaving = await ask({ stream: true }, { signal: left.signal });
  await reading(leaving).until("\n\n");
  const all = Array.from({ length: 8 }, async (_, i) => {
    const response = await ask({ stream: i % 2 === 0 });
    if (i === 3) left.abort();
    return i % 2 === 0 ? textOf(events(await response.text())) : (await response.json()).choices[0].text;
  });
  const texts = await Promise.all(all);
  assert.deepEqual([...new Set(texts)], [story]);
});

test("a seed repeats an answer", async () => {
  const tell = async () => (await (await ask({ temperature: 1, seed: 7, max_tokens: 40 })).json()).choices[0].text;
  assert.equal(await tell(), await tell());
});

test("what it cannot do it says", async () => {
  for (const [more, status, code] of [
    [{ temperature: "hot" }, 400, "invalid_argument"],
    [{ prompt: 3 }, 400, "invalid_argument"],
    [{ prompt: "long ".repeat(2000) }, 400, "context_length_exceeded"],
    [{ n: 4_000_000_000 }, 400, "invalid_argument"],
    [{ model: "org/large" }, 404, "model_not_found"],
  ]) {
    for (const stream of [true, false]) {
      const response = await ask({ ...more, stream });
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code], [status, code], error.message);
    }
  }
  assert.equal((await (await ask()).json()).choices[0].text, story, "and goes on");
});

test("what lies too deep does not exhaust the engine's stack", async () => {
  for (const depth of [64, 20_000]) {
    const deep = `${JSON.stringify(body).slice(0, -1)},"metadata":${"[".repeat(depth)}${"]".repeat(depth)}}`;
    const response = await ask({}, { body: deep });
    const { error } = await response.json();
    assert.deepEqual([response.status, error?.code], [400, "invalid_argument"]);
  }
  const { choices } = await (await ask({ metadata: JSON.parse("[".repeat(63) + "]".repeat(63)) })).json();
  assert.equal(choices[0].text, story, "and goes on");
});

test("the page's files are served beside it", async () => {
  const page = await fetch(worker.url);
  assert.equal(page.status, 200);
  assert.match(await page.text(), /<title>/);
  assert.match(page.headers.get("content-security-policy"), /connect-src 'self'/);
  assert.equal((await fetch(`${worker.url}/no/such/file`)).status, 404);
});
