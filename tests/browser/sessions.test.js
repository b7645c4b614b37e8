/** Conversations that go on: forked, taken back, saved and read back after a reload; beginnings that are pinned. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { blank, conversationalist, launch, openPage, read, serve } from "./support.js";

let browser, server, opened, page;

before(async () => {
  browser = await launch();
  const other = read("tests/fixtures/models/qwen2.gguf");
  server = await serve({ routes: { "/": blank, "/talker.gguf": conversationalist(), "/other.gguf": other } });
});
after(async () => {
  await browser?.close();
  await server?.close();
});
beforeEach(async () => {
  opened = await openPage(browser, server.url);
  page = opened.page;
  await ready();
});
afterEach(async () => {
  const { errors } = opened;
  await opened.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

async function ready() {
  await page.waitForFunction(() => document.title === "ready");
  await page.evaluate(() => {
    Object.assign(window, {
      talker: () => load("/talker.gguf", { device: "cpu" }),
      params: { temperature: 0, max_tokens: 12 },
      said: (answer) => answer.choices[0].message.content,
      cached: (answer) => answer.usage.prompt_tokens_details.cached_tokens,
      rules: {
        role: "system",
        content: "Once upon a time there was a little girl who told stories, and nobody else did.",
      },
    });
  });
}

describe("a session", () => {
  test("goes on, forks and goes back", async () => {
    const found = await page.evaluate(async () => {
      const engine = await talker();
      const session = await engine.session({ messages: [rules], params });
      const first = await session.send("Tell me one.");
      const second = await session.send([{ type: "text", text: "And then?" }]);
      const fork = session.fork();
      fork.rewind(1);
      const again = await fork.send({ role: "user", content: "Tell me one." });
      return {
        same: said(first) === said(again),
        cached: [cached(first), cached(second), cached(again)],
        prompts: [first, second, again].map((answer) => answer.usage.prompt_tokens),
        roles: session.messages.map(({ role }) => role),
        fork: fork.messages.length,
        answer: session.messages[2],
        text: said(first),
      };
    });
    assert.ok(found.same);
    assert.equal(found.cached[0], 0);
    assert.ok(found.cached[1] > found.prompts[0], JSON.stringify(found));
    assert.ok(found.cached[2] >= found.prompts[0] - 1, JSON.stringify(found));
    assert.deepEqual(found.roles, ["system", "user", "assistant", "user", "assistant"]);
    assert.equal(found.fork, 3);
    assert.deepEqual(found.answer, { role: "assistant", content: found.text });
  });

  test("streams; what is left or fails leaves it as it was", async () => {
    const found = await page.evaluate(async () => {
      const engine = await talker();
      const session = await engine.session({ params });
      const chunks = await collect(await session.send("Once", { stream: true }));
      const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
      const after = session.messages;
      for await (const _ of await session.send("More", { stream: true, max_tokens: 200 })) break;
      const left = session.messages.length;
      const stream = await session.send("More", { stream: true, max_tokens: 200 });
      const busy = await failure(session.send("And?"));
      const rewound = await failure(Promise.resolve().then(() => session.rewind(0)));
      stream.controller.abort();
      const aborted = session.messages.length;
      const controller = new AbortController();
      const whole = session.send("More", { max_tokens: 400, ignore_eos: true }, { signal: controller.signal });
      setTimeout(() => controller.abort(), 20);
      const error = await failure(whole);
      const bad = await failure(session.send("More", { temperature: -1 }));
      const many = await failure(session.send("More", { n: 2 }));
      const far = await failure(Promise.resolve().then(() => session.rewind(3)));
      return { text, after, left, busy, rewound, aborted, error, bad, many, far, end: session.messages.length };
    });
    assert.deepEqual(found.after, [
      { role: "user", content: "Once" },
      { role: "assistant", content: found.text },
    ]);
    assert.deepEqual([found.left, found.aborted, found.end], [2, 2, 2]);
    for (const error of [found.busy, found.rewound, found.bad, found.many, found.far]) {
      assert.equal(error.code, "invalid_argument");
    }
    assert.match(found.busy.message, /fork\(\)/);
    assert.equal(found.error.code, "aborted");
  });

  test("keeps within the context where the oldest turns may go", async () => {
    const found = await page.evaluate(async () => {
      const engine = await load("/talker.gguf", { device: "cpu", contextLength: 256 });
      const session = await engine.session({ messages: [rules], params: { ...params, truncate: "oldest" } });
      const dropped = [];
      for (let turn = 0; turn < 10; turn++) {
        const answer = await session.send("Tell me the story of the cat and the dog.");
        dropped.push(answer.usage.prompt_tokens_details.dropped_messages ?? 0);
      }
      const strict = session.fork();
      const error = await failure(strict.send("And then?", { truncate: "error" }));
      return { dropped, error, messages: session.messages.length };
    });
    assert.equal(found.dropped[0], 0);
    assert.ok(found.dropped[9] > 4, String(found.dropped));
    assert.equal(found.messages, 21);
    assert.equal(found.error.code, "context_length_exceeded");
  });
});

describe("what is saved", () => {
  test("goes on after a reload", async () => {
    const before = await page.evaluate(async () => {
      const engine = await talker();
      const session = await engine.session({ name: "my talk", messages: [rules], params });
      const isNew = session.restored === undefined;
      await session.send("Tell me one.");
      await session.save();
      const next = await session.send("And then?");
      return { isNew, text: said(next), cached: cached(next), list: await sessions.list() };
    });
    assert.ok(before.isNew);
    assert.deepEqual(
      before.list.map(({ name }) => name),
      ["my talk"],
    );
    await page.reload();
    await ready();
    const after = await page.evaluate(async () => {
      const engine = await talker();
      const session = await engine.session({ name: "my talk", params });
      const next = await session.send("And then?");
      // Another model reads it again.
      const other = await load("/other.gguf", { device: "cpu" });
      const foreign = (await other.session({ name: "my talk" })).restored;
      const listed = (await models.list()).map(({ model }) => model).sort();
      const freed = await sessions.remove("my talk");
      const gone = await sessions.remove("my talk");
      return { restored: session.restored, text: said(next), cached: cached(next), foreign, listed, freed, gone };
    });
    assert.equal(after.text, before.text);
    assert.ok(after.restored.tokens >= before.cached, JSON.stringify(after));
    assert.ok(after.cached >= before.cached, JSON.stringify(after));
    assert.equal(after.foreign.tokens, 0);
    assert.match(after.foreign.reason, /another model/);
    assert.deepEqual([after.listed, after.freed > 0, after.gone], [["other.gguf", "talker.gguf"], true, 0]);
  });

  test("is bytes that another engine takes", async () => {
    const found = await page.evaluate(async () => {
      const [one, two] = [await talker(), await talker()];
      const session = await one.session({ messages: [rules], params });
      await session.send("Tell me one.");
      const bytes = await session.export();
      const next = await session.send("And then?");
      const other = await two.session({ from: new Blob([bytes]), params });
      const copy = await two.session({ from: bytes, params });
      const same = said(await other.send("And then?")) === said(next);
      new Uint8Array(bytes)[bytes.byteLength - 1] ^= 1;
      const damaged = await failure(two.session({ from: bytes }));
      const none = await failure(two.session({ from: "text" }));
      const nameless = await failure(session.save());
      return { same, copy: copy.messages.length, restored: other.restored, damaged, none, nameless };
    });
    assert.ok(found.same);
    assert.equal(found.copy, 3);
    assert.ok(found.restored.tokens > 0);
    for (const error of [found.damaged, found.none, found.nameless]) assert.equal(error.code, "invalid_argument");
  });
});

describe("a beginning", () => {
  test("is read ahead", async () => {
    const found = await page.evaluate(async () => {
      const engine = await talker();
      const session = await engine.session({ messages: [rules], params });
      const heard = [];
      const tokens = await session.prefill({ onPromptProgress: (progress) => heard.push(progress) });
      const answer = await session.send("Well?");
      return { tokens, cached: cached(answer), heard };
    });
    assert.equal(found.cached, found.tokens);
    assert.equal(found.heard.at(-1).processed, found.tokens);
  });

  test("is pinned, and stays over a reload", async () => {
    const pin = () =>
      page.evaluate(async () => {
        const engine = await talker();
        const heard = [];
        const onPromptProgress = (progress) => heard.push(progress);
        const tokens = await engine.pin("rules", { messages: [rules] }, { persist: true, onPromptProgress });
        const pinned = await engine.pinned();
        const session = await engine.session({ messages: [rules], params });
        const answer = await session.send("Well?");
        const let_go = [await engine.unpin("rules"), await engine.unpin("rules")];
        return { tokens, pinned, cached: cached(answer), text: said(answer), read: heard.length, let_go };
      });
    const first = await pin();
    assert.ok(first.read > 0);
    assert.deepEqual(first.pinned, [{ name: "rules", tokens: first.tokens }]);
    assert.equal(first.cached, first.tokens);
    assert.deepEqual(first.let_go, [true, false]);
    await page.reload();
    await ready();
    const second = await pin();
    assert.deepEqual(second, { ...first, read: 0 });
  });

  test("has a name, and options that it knows", async () => {
    const errors = await page.evaluate(async () => {
      const engine = await talker();
      return Promise.all([
        failure(engine.pin("", { messages: [rules] })),
        failure(engine.pin("a/b", { messages: [rules] }, { persist: true })),
        failure(engine.pin("a", { messages: [rules] }, { persists: true })),
        failure(engine.pin("a", {})),
        failure(engine.session({ message: [] })),
        failure(engine.session({ name: 3 })),
        failure(engine.session({ messages: "x" })),
        failure(sessions.list({ device: "cpu" })),
        failure(sessions.remove("")),
      ]);
    });
    for (const error of errors) assert.equal(error.code, "invalid_argument", JSON.stringify(error));
  });
});
