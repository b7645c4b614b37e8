/** Workers AI as an upstream. It cannot run here: a Worker beside ours plays it, in the shapes that it is documented to have. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { edge, events, textOf } from "./support.js";

const AI = `
  const old = ${JSON.stringify(["Süße ", "Grüße", "!"]).replace(/[^ -~]/g, (letter) => "\\u00" + letter.charCodeAt(0).toString(16))};
  const stream = (events, done = true) => new Blob([...events.map((event) => "data: " + JSON.stringify(event) + "\\n\\n"), done ? "data: [DONE]\\n\\n" : ""]).stream();
  const usage = { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 };
  const call = { name: "weather", arguments: { city: "Bern" } };
  const choice = (delta, finish_reason = null) => ({ id: "1", object: "chat.completion.chunk", created: 1, model: "new", choices: [{ index: 0, delta, finish_reason }] });
  export default () => ({
    async run(model, input) {
      if ("model" in input) throw new Error("5006: the model is no part of the input");
      switch (model) {
        case "@cf/old":
          if (input.tools) return input.stream ? stream([{ response: null, tool_calls: [call] }, { response: "", usage }]) : { response: null, tool_calls: [call], usage };
          return input.stream ? stream([...old.map((response) => ({ response, p: "abc" })), { response: "", usage }]) : { response: old.join(""), usage };
        case "@cf/new":
          return input.stream ? stream([choice({ role: "assistant", content: "" }), choice({ content: "new" }), choice({}, "stop")]) : { ...choice({}), object: "chat.completion", choices: [{ index: 0, message: { role: "assistant", content: "new" }, finish_reason: "stop" }] };
        case "@cf/cut":
          return stream([{ response: "half" }], false);
        case "@cf/embed":
          return { shape: [input.text.length, 2], data: input.text.map((text) => [text.length, 0.5]) };
        case "@cf/busy":
          throw new Error("3040: No more data centers to forward the request to");
        default:
          throw new Error("5007: No such model " + model + " or task");
      }
    },
  });`;

const messages = [{ role: "user", content: "Hi" }];
let worker;
before(async () => {
  const ai = { name: "ai", modules: true, script: AI };
  // Nothing listens there: whoever goes past the binding fails.
  worker = await edge(
    { UPSTREAM_URL: "http://127.0.0.1:9/v1" },
    { wrappedBindings: { AI: { scriptName: "ai" } }, beside: [ai] },
  );
});
after(() => worker?.close());

const chat = (model, more) => worker.ask("/v1/chat/completions", { model, messages, ...more });

test("whole answers, of both kinds", async () => {
  const old = await (await chat("@cf/old")).json();
  assert.deepEqual([old.object, old.model, old.usage.total_tokens], ["chat.completion", "@cf/old", 5]);
  assert.deepEqual(old.choices[0].message, { role: "assistant", content: "Süße Grüße!" });
  assert.equal(old.choices[0].finish_reason, "stop");
  assert.equal((await (await chat("@cf/new")).json()).choices[0].message.content, "new");
});

test("streams, of both kinds", async () => {
  const text = await (await chat("@cf/old", { stream: true, stream_options: { include_usage: true } })).text();
  const chunks = events(text);
  assert.equal(textOf(chunks), "Süße Grüße!");
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.at(-2).choices[0].finish_reason, "stop");
  assert.deepEqual([chunks.at(-1).choices, chunks.at(-1).usage.total_tokens], [[], 5]);
  assert.match(text, /data: \[DONE\]\n\n$/);
  assert.equal(textOf(events(await (await chat("@cf/new", { stream: true })).text())), "new");
  assert.ok(
    !(await (await chat("@cf/cut", { stream: true })).text()).includes("[DONE]"),
    "a cut answer is no whole one",
  );
});

test("tools", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters: {} } }];
  const { choices } = await (await chat("@cf/old", { tools })).json();
  assert.equal(choices[0].finish_reason, "tool_calls");
  assert.deepEqual(choices[0].message.tool_calls[0].function, { name: "weather", arguments: '{"city":"Bern"}' });
  const chunks = events(await (await chat("@cf/old", { tools, stream: true })).text());
  assert.equal(chunks.at(-1).choices[0].finish_reason, "tool_calls");
});

test("embeddings, kept in the cache as others are", async () => {
  const ask = () => worker.ask("/v1/embeddings", { model: "@cf/embed", input: ["one", "three"] });
  const first = await ask();
  assert.deepEqual(
    (await first.json()).data.map(({ embedding }) => embedding),
    [
      [3, 0.5],
      [5, 0.5],
    ],
  );
  assert.equal((await ask()).headers.get("x-candlewick-cache"), "hit");
});

test("failures", async () => {
  for (const [model, status, code] of [
    ["@cf/none", 404, "model_not_found"],
    ["@cf/busy", 429, "rate_limited"],
    ["org/large", 502, "network"],
  ]) {
    const response = await chat(model);
    assert.deepEqual([response.status, (await response.json()).error.code], [status, code]);
  }
  assert.equal((await worker.ask("/v1/embeddings", { model: "@cf/embed", input: [1, 2] })).status, 400);
});
