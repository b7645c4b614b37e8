/** An encoder in a page: its vectors are transformers', and it knows what it cannot do. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { start } from "../remote/server.js";
import { blank, conversationalist, launch, openPage, read, serve } from "./support.js";

const MODEL = "/tests/fixtures/models/bert-f32.gguf";
const golden = JSON.parse(read("tests/fixtures/goldens/bert.json"));
/** The largest difference from transformers' float32 forward; the numbers of a vector are about 0.1. */
const TOLERANCE = 5e-6;

let browser, server, double, session, page;

before(async () => {
  browser = await launch();
  server = await serve({ routes: { "/": blank, "/talker.gguf": conversationalist() } });
  double = await start();
});
after(async () => {
  await browser?.close();
  await server?.close();
  double?.close();
});
beforeEach(async () => {
  session = await openPage(browser, server.url);
  page = session.page;
  await page.waitForFunction(() => document.title === "ready");
});
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

function assertClose(found, expected) {
  assert.equal(found.length, expected.length);
  const furthest = Math.max(...found.map((number, at) => Math.abs(number - expected[at])));
  assert.ok(furthest <= TOLERANCE, `${furthest}`);
}

describe("an encoder in the page", () => {
  test("gives transformers' vectors, each text with its own status", async () => {
    const texts = golden.cases.map(({ text }) => text);
    const found = await page.evaluate(
      async ([model, texts]) => {
        const engine = await load(model);
        return {
          info: engine.info,
          capabilities: await engine.capabilities(),
          vectors: await engine.embed(texts),
          cut: await engine.embed(texts.slice(-1), { truncate: true }),
          none: await engine.embed([]),
        };
      },
      [MODEL, texts],
    );
    assert.equal(found.info.architecture, "bert");
    assert.equal(found.info.device, "cpu");
    assert.equal(found.capabilities.embeddings, true);
    // The last one is too long.
    found.vectors.slice(0, -1).forEach(({ embedding }, at) => assertClose(embedding, golden.cases[at].mean));
    assert.equal(found.vectors.at(-1).code, "context_length_exceeded");
    assertClose(found.cut[0].embedding, golden.cases.at(-1).mean);
    assert.deepEqual(found.none, []);
  });

  test("has OpenAI's shape", async () => {
    const [{ text, mean }] = golden.cases;
    const found = await page.evaluate(
      async ([model, text, long]) => {
        const engine = await load(model);
        const create = (body) => engine.embeddings.create(body);
        return {
          list: await create({ input: text, model: "any" }),
          base64: await create({ input: [text, "war"], encoding_format: "base64" }),
          short: await create({ input: text, dimensions: 8 }),
          failures: await Promise.all([
            failure(create({ input: ["war", long] })),
            failure(create({ input: [] })),
            failure(create({ input: "a", dimensions: 65 })),
            failure(create()),
          ]),
        };
      },
      [MODEL, text, golden.cases.at(-1).text],
    );
    const { data, usage, candlewick, object } = found.list;
    assert.equal(object, "list");
    assertClose(data[0].embedding, mean);
    const tokens = golden.cases[0].ids.length;
    assert.deepEqual(usage, { prompt_tokens: tokens, total_tokens: tokens });
    assert.equal(candlewick.ran, "local");
    const bytes = Buffer.from(found.base64.data[0].embedding, "base64");
    assertClose([...new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)], mean);
    assert.equal(found.base64.data[1].index, 1);
    assert.equal(found.short.data[0].embedding.length, 8);
    assert.deepEqual(
      found.failures.map(({ code }) => code),
      ["context_length_exceeded", "invalid_argument", "invalid_argument", "invalid_argument"],
    );
    assert.match(found.failures[0].message, /^input\[1\]: /);
  });

  test("does not chat, and a model that chats has no vectors", async () => {
    const url = double.define("embeddings");
    const found = await page.evaluate(
      async ([model, remote]) => {
        const encoder = await load(model);
        const messages = [{ role: "user", content: "Hi" }];
        const talker = await load("/talker.gguf", { device: "cpu" });
        const both = await load("/talker.gguf", { device: "cpu", remote });
        return {
          chat: await failure(encoder.chat.completions.create({ messages })),
          text: await failure(encoder.completions.create({ prompt: "Once", stream: true })),
          vector: await failure(talker.embed(["war"])),
          gpu: await failure(load(model, { device: "gpu" })),
          hosted: await both.embeddings.create({ input: "war" }),
        };
      },
      [MODEL, { baseURL: url, model: "org/large" }],
    );
    for (const name of ["chat", "text", "vector", "gpu"]) assert.equal(found[name].code, "unsupported_model", name);
    assert.match(found.chat.message, /embeddings/);
    assert.match(found.vector.message, /encoder/);
    assert.equal(found.hosted.candlewick.ran, "remote");
    assert.match(found.hosted.candlewick.reason, /no embeddings/);
    assert.equal(found.hosted.data[0].embedding.length, 4);
  });
});
