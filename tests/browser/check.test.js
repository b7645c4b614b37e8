/** Requests that are refused before they reach the Worker, and the engine that goes on after them. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { check } from "../../pkg/dist/check.js";
import { blank, launch, openPage, serve, story } from "./support.js";

const nested = (depth, inner = 1, wrap = (value) => ({ value })) => {
  let value = inner;
  for (let level = 0; level < depth; level++) value = wrap(value);
  return value;
};
const cyclic = () => {
  const object = { list: [{}] };
  object.list[0].self = object;
  return object;
};
/** Few objects, which are very many when each place has its own. */
const bushy = (levels) => nested(levels, 1, (value) => Array(8).fill(value));

describe("a request", () => {
  const right = {
    "of everything that is sent": {
      a: [1, "two", null, undefined, true, new Uint8Array(3), new Map([["key", [1]]]), new Set([1])],
    },
    "as deep as may be": nested(64),
    "with the same object in several places": { a: bushy(3), b: bushy(3) },
    "with a Blob in it": new Blob(["x"]),
    "of many numbers": { prompt: Array.from({ length: 1e5 }, (_, index) => index) },
    "with numbers at the ends": { seed: Number.MAX_SAFE_INTEGER, temperature: -0, top_p: Number.MIN_VALUE },
  };
  for (const [name, value] of Object.entries(right)) test(name, () => check(value));

  const wrong = {
    "nested too deep": [nested(65), /nested more than 64 levels/],
    "nested much too deep": [nested(100_000), /nested more than 64 levels/],
    "of arrays that are nested too deep": [{ tools: nested(2000, 1, (value) => [value]) }, /^tools.*nested/],
    "of maps that are nested too deep": [nested(2000, 1, (value) => new Map([["key", value]])), /nested/],
    "of sets that are nested too deep": [nested(2000, 1, (value) => new Set([value])), /nested/],
    "in itself": [cyclic(), /nested/],
    "deep in a place where it was not before": [[nested(60), nested(10, nested(60))], /nested/],
    "that grows when it is written out": [bushy(40), /more than \d+ values/],
    "that is too large": [{ prompt: new Array(2 ** 32 - 1) }, /^prompt: more than \d+ values/],
    "with NaN": [{ temperature: NaN }, /^temperature: NaN is not a finite number/],
    "with Infinity": [{ max_tokens: Infinity }, /^max_tokens: Infinity is not a finite number/],
    "with −Infinity in a list": [{ logit_bias: { 5: -Infinity } }, /^logit_bias\.5: -Infinity is not/],
    "with NaN in messages": [{ messages: [{ content: "x" }, { content: NaN }] }, /^messages\[1\]\.content: NaN/],
    "that cannot be read": [
      {
        get prompt() {
          throw new Error("not today");
        },
      },
      /cannot be read: Error: not today/,
    ],
    "that is a proxy of no end": [
      new Proxy(
        {},
        {
          ownKeys: () => ["x"],
          getOwnPropertyDescriptor: (_, key) => ({ value: 1, enumerable: true, configurable: true, key }),
          get: (_, __, proxy) =>
            new Proxy(
              {},
              Reflect.ownKeys(proxy) && {
                ownKeys: () => {
                  throw new Error("no end");
                },
              },
            ),
        },
      ),
      /cannot be read/,
    ],
  };
  for (const [name, [value, message]] of Object.entries(wrong)) {
    test(`${name} is refused`, () =>
      assert.throws(
        () => check(value),
        (error) => error.code === "invalid_argument" && message.test(error.message),
      ));
  }

  test("is called what it is", () =>
    assert.throws(() => check(NaN, "remote"), { message: "remote: NaN is not a finite number." }));
});

describe("the engine", () => {
  let browser, server, opened;
  before(async () => {
    browser = await launch();
    server = await serve({ routes: { "/": blank } });
    opened = await openPage(browser, server.url);
    await opened.page.waitForFunction(() => document.title === "ready");
    await opened.page.evaluate(async () => (window.engine = await load(story)));
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  test("goes on after requests that would end it", async () => {
    const { codes, text } = await opened.page.evaluate(async () => {
      const deep = (depth) => {
        let value = 1;
        for (let level = 0; level < depth; level++) value = level % 2 ? [value] : { value };
        return value;
      };
      const cyclic = {};
      cyclic.cyclic = cyclic;
      const messages = [{ role: "user", content: "x" }];
      const codes = {};
      for (const [name, bad] of Object.entries({
        cyclic,
        200: deep(200),
        1000: deep(1000),
        2000: deep(2000),
        3000: deep(3000),
        50000: deep(50_000),
      })) {
        const calls = {
          complete: () => engine.completions.create({ prompt: "x", bad }),
          stream: () => engine.completions.create({ prompt: "x", stream: true, bad }),
          chat: () =>
            engine.chat.completions.create({
              messages,
              tools: [{ type: "function", function: { name: "f", parameters: bad } }],
            }),
          render: () => engine.applyChatTemplate({ messages, chat_template_kwargs: { bad } }),
          compare: () => engine.compare({ messages, bad }),
          embeddings: () => engine.embeddings.create({ input: "x", bad }),
          embed: () => engine.embed(["x", bad]),
          tokenize: () => engine.tokenize(bad),
          detokenize: () => engine.detokenize([bad]),
          task: () => engine.tasks.summarize("x", { parameters: { bad } }),
          load: () => load(story, { gpu: bad }),
          remote: () => load(story, { remote: { model: "x", extraBody: { bad } } }),
          inspect: () => inspect(story, { gpu: bad }),
          list: () => models.list({ transfer: bad }),
        };
        for (const [call, run] of Object.entries(calls))
          codes[`${call}, ${name}`] = (await failure(Promise.resolve().then(run))).code;
      }
      return { codes, text: (await engine.completions.create(greedy)).choices[0].text };
    });
    for (const [call, code] of Object.entries(codes)) assert.equal(code, "invalid_argument", call);
    assert.equal(text, story);
  });

  test("refuses numbers that are none, by name", async () => {
    const messages = await opened.page.evaluate(async () => {
      const calls = [
        ["temperature", () => engine.completions.create({ prompt: "x", temperature: NaN })],
        ["top_p", () => engine.completions.create({ prompt: "x", top_p: Infinity, stream: true })],
        ["seed", () => engine.completions.create({ prompt: "x", seed: -Infinity })],
        ["prompt", () => engine.completions.create({ prompt: [1, NaN] })],
        ["dimensions", () => engine.embed(["x"], { dimensions: NaN })],
        ["threads", () => load(story, { threads: NaN })],
        ["contextLength", () => load(story, { contextLength: Infinity })],
        ["cacheBudget", () => load(story, { cacheBudget: NaN })],
        ["minTokensPerSecond", () => load(story, { remote: { model: "x", minTokensPerSecond: NaN } })],
        ["contextLength", () => inspect(story, { contextLength: NaN })],
      ];
      const found = [];
      for (const [name, call] of calls) {
        const { code, message } = await failure(Promise.resolve().then(call));
        found.push([name, code, message]);
      }
      return found;
    });
    for (const [name, code, message] of messages) {
      assert.equal(code, "invalid_argument", name);
      assert.match(message, new RegExp(`${name}.*not a finite number`));
    }
  });
});
