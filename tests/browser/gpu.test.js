/**
 * The engine on WebGPU. SwiftShader is the GPU here, in Firefox lavapipe; without an adapter the first tests fail, they are not
 * skipped; except in builds of Firefox that say themselves that they have no WebGPU, as Firefox 140 for Linux.
 */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test as nodeTest } from "node:test";
import { blank, browserName, conversationalist, launch, only, openPage, serve, softwareGPU, story } from "./support.js";

let server;
before(async () => {
  server = await serve({ routes: { "/": blank, "/chat.gguf": conversationalist() } });
});
after(() => server?.close());

/** Each test in a page of its own, in a browser with `flags`; what self-tests found is kept from one to the next. */
function inBrowser(flags) {
  const own = { page: undefined };
  let browser, context, errors;
  before(async () => {
    browser = await launch(flags);
    context = await browser.newContext();
  });
  after(() => browser?.close());
  beforeEach(async () => {
    ({ page: own.page, errors } = await openPage({ newContext: () => context }, server.url));
    await own.page.waitForFunction(() => document.title === "ready");
  });
  afterEach(async () => {
    await own.page.close();
    assert.deepEqual(errors, [], "uncaught errors in the page");
  });
  return own;
}

describe("with a WebGPU adapter", () => {
  const own = inBrowser(softwareGPU);
  const left = () =>
    own.page.evaluate(() =>
      navigator.gpu.requestAdapter().then(
        () => false,
        ({ message }) => message.includes("not yet available in Release"),
      ),
    );
  const test = (name, ...rest) => {
    const work = rest.pop();
    nodeTest(name, ...rest, async (context) =>
      (await left()) ? context.skip("this build has no WebGPU") : work(context),
    );
  };

  test('the device "gpu" tells the published story', async () => {
    const { info, chunks } = await own.page.evaluate(async () => {
      const engine = await load(story, { device: "gpu" });
      return { info: engine.info, chunks: await collect(await engine.completions.create({ ...greedy, stream: true })) };
    });
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), story);
    assert.equal(info.device, "gpu");
    assert.equal(info.deviceReason, "asked for");
    assert.equal(info.gpu.backend, "webgpu");
    if (browserName === "chromium") {
      assert.notEqual(info.gpu.adapter, "");
      assert.ok(info.gpu.features.includes("subgroups"), `${info.gpu.features}`);
      assert.ok(info.gpu.variants.includes("subgroups"), `${info.gpu.variants}`);
    } else assert.ok(info.gpu.features.includes("timestamps"), `${info.gpu.features}`); // It names no adapters, and has no subgroups.
  });

  test("an aborted answer leaves the engine ready for the next", async () => {
    const result = await own.page.evaluate(async () => {
      const engine = await load(story, { device: "gpu" });
      const errors = [];
      for (const stopAfter of [1, 2, 7]) {
        const abort = new AbortController();
        const stream = await engine.completions.create({ ...greedy, stream: true }, { signal: abort.signal });
        let count = 0;
        errors.push(
          (
            await failure(
              (async () => {
                for await (const _ of stream) if (++count === stopAfter) abort.abort();
              })(),
            )
          ).code,
        );
      }
      const { text } = (await engine.completions.create({ ...greedy, max_tokens: 60 })).choices[0];
      return { errors, text };
    });
    assert.deepEqual(result.errors, ["aborted", "aborted", "aborted"]);
    assert.ok(story.startsWith(result.text) && result.text.length > 100, result.text);
  });

  test("a sampled conversation is what its seed makes of it", async () => {
    const texts = await own.page.evaluate(async () => {
      const engine = await load("chat.gguf", { device: "gpu" });
      const messages = [{ role: "user", content: "Tell me of a cat." }];
      const ask = async (seed) =>
        (await engine.chat.completions.create({ messages, temperature: 1, seed, max_tokens: 24 })).choices[0].message
          .content;
      return [await ask(7), await ask(7), await ask(8)];
    });
    assert.equal(texts[0], texts[1]);
    assert.notEqual(texts[0], texts[2]);
  });

  test("kernels are measured where that was asked for", async () => {
    const { first, again, idle, not } = await own.page.evaluate(async () => {
      const engine = await load(story, { device: "gpu", profile: true });
      await engine.completions.create({ ...greedy, max_tokens: 8 });
      const first = await engine.profile();
      await engine.completions.create({ ...greedy, prompt: "a cat", max_tokens: 1 });
      const again = await engine.profile();
      const unmeasured = await load(story, { device: "gpu" });
      await unmeasured.completions.create({ ...greedy, max_tokens: 2 });
      return { first, again, idle: await engine.profile(), not: await unmeasured.profile() };
    });
    const calls = (times, name) =>
      times.filter(({ kernel }) => kernel.startsWith(name)).reduce((sum, { calls }) => sum + calls, 0);
    // Each step chooses once, in two dispatches; the device may be one step ahead.
    assert.ok(calls(first, "argmax") >= 16, JSON.stringify(first));
    assert.equal(calls(again, "argmax"), 2);
    assert.ok(first.every(({ nanoseconds }) => nanoseconds >= 0));
    assert.deepEqual([idle, not], [[], []]);
  });

  test(
    'the device "auto" leaves a software renderer alone',
    only(["chromium"], "adapters have no names, so that it measures"),
    async () => {
      const info = await own.page.evaluate(async () => (await load(story)).info);
      assert.equal(info.device, "cpu");
      assert.match(info.deviceReason, /software renderer/);
    },
  );
});

describe("without a WebGPU adapter", () => {
  const own = inBrowser([]);

  nodeTest('the device "auto" is the CPU, and says why', async () => {
    const { info, text } = await own.page.evaluate(async () => {
      const engine = await load(story);
      return { info: engine.info, text: (await engine.completions.create(greedy)).choices[0].text };
    });
    assert.equal(info.device, "cpu");
    assert.equal(info.deviceReason, "no WebGPU adapter");
    assert.equal(info.gpu, undefined);
    assert.equal(text, story);
  });

  nodeTest('the device "gpu" is an error that says what to do', async () => {
    const error = await own.page.evaluate(() => failure(load(story, { device: "gpu" })));
    assert.equal(error.code, "resource_exhausted");
    assert.ok(error.typed);
    assert.match(error.message, /no WebGPU adapter.*"cpu"/);
  });
});
