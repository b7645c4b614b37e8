/** Hosted models in a page: the double of the router, the policy, and what the network sees. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { meetFaults } from "../remote/schedule.js";
import { start } from "../remote/server.js";
import { blank, conversationalist, launch, openPage, serve } from "./support.js";

const TOKEN = "hf_secretsecretsecret";
const TEXT = "Süße Grüße: 你好 🌍, it works.";

let browser, server, double, session, page, requests;

before(async () => {
  browser = await launch();
  server = await serve({
    routes: { "/": blank, "/talker.gguf": conversationalist(), "/broken.gguf": "this is no model" },
  });
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
  // Everything that the page and its Worker send, below the level of `fetch`.
  requests = [];
  session.page.context().on("request", (request) => requests.push(request.url()));
  await page.waitForFunction(() => document.title === "ready");
});
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

const quick = { base: 1, cap: 1, loading: 1 };
const remote = (baseURL, more = {}) => ({ baseURL, model: "org/large", token: TOKEN, retry: quick, ...more });
/** Requests that left for the double, as the browser's network saw them. */
const left = () => requests.filter((url) => url.startsWith(double.url));

/** Asks in the page; a stream's chunks, or the failure. */
const ask = (options, body = {}, source = "/talker.gguf") =>
  page.evaluate(
    async ([options, body, source]) => {
      const engine = source === null ? await connect(options) : await load(source, { device: "cpu", remote: options });
      const retries = [];
      const messages = [{ role: "user", content: "Hi" }];
      const request = { messages, stream: true, temperature: 0, max_tokens: 8, ...body };
      const outcome = await failure(
        engine.chat.completions
          .create(request, { onRetry: (retry) => retries.push(retry.code) })
          .then((answer) => (request.stream ? collect(answer) : answer)),
      );
      const text =
        Array.isArray(outcome.value) && outcome.value.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
      return {
        info: engine.info,
        ...outcome,
        text,
        retries,
        origin: (outcome.value?.[0] ?? outcome.value)?.candlewick,
      };
    },
    [options, body, source],
  );

describe("hosted models alone", () => {
  test("answer in parts and whole", async () => {
    const url = double.define("alone", { token: TOKEN });
    const streamed = await ask(remote(url), {}, null);
    assert.equal(streamed.text, TEXT);
    const { name, device, deviceReason } = streamed.info;
    assert.deepEqual([name, device, deviceReason], ["org/large", "remote", 'when is "always"']);
    assert.equal(streamed.origin.ran, "remote");
    const whole = await ask(remote(url), { stream: false }, null);
    assert.equal(whole.value.choices[0].message.content, TEXT);
    assert.equal(whole.value.object, "chat.completion");
    assert.equal(whole.value.usage.completion_tokens, 7);
    assert.ok(left().length >= 2 && left().every((address) => !address.includes(TOKEN)));
  });

  for (const [faults, code, retries] of [
    [["429-after", "loading", "reset"], "none", ["rate_limited", "provider_error", "network"]],
    [["cut", "cut-role", "garbage", "nonsense"], "none", ["network", "network", "provider_error", "provider_error"]],
    [["slow"], "none", []],
    [["windows"], "none", []],
    [["whole"], "none", []],
    [["401"], "unauthorized", []],
    [["402"], "resource_exhausted", []],
    [["404"], "model_not_found", []],
    [["422"], "invalid_argument", []],
    [["400-context"], "context_length_exceeded", []],
    [["500", "500", "500", "500", "500"], "provider_error", Array(4).fill("provider_error")],
    [["error-middle"], "provider_error", []],
  ]) {
    test(`${faults.join(", ")}: ${code}`, async () => {
      const name = faults.join("-");
      const outcome = await ask(remote(double.define(name, { script: faults })), {}, null);
      assert.equal(outcome.code ?? "none", code, outcome.message);
      assert.deepEqual(outcome.retries, retries);
      const attempts = retries.length + 1;
      assert.equal(double.log(name).length, attempts);
      if (code === "none") assert.deepEqual([outcome.text, outcome.origin.attempts], [TEXT, attempts]);
      else assert.ok(outcome.typed && !outcome.message.includes(TOKEN));
    });
  }

  test("answers as hosts really write them", async () => {
    const chunk = (delta, more = {}) =>
      `data: ${JSON.stringify({ created: 1.5, choices: [{ index: "0", delta, finish_reason: null, ...more }] })}\n\n`;
    const call = (id, name) => ({ index: 0, id, function: { name, arguments: { x: 1 } } });
    const end = { finish_reason: 1 };
    const plain = (body) => ({ status: 200, body, headers: { "Content-Type": "text/plain" } });
    for (const [name, body, expected] of [
      [
        "no end",
        `event: ping\ndata: {"type":"ping"}\n\n${chunk({ content: [{ type: "text", text: "Hello" }] }, end).trimEnd()}`,
        { content: "Hello" },
      ],
      [
        "halves",
        chunk({ content: "a?" }).replace("?", "\\ud83d") + chunk({ content: "?b" }, end).replace("?", "\\ude00"),
        { content: "a😀b" },
      ],
      [
        "a refusal",
        chunk({ content: "", refusal: null }) + chunk({ refusal: "No." }) + chunk({}, end),
        { refusal: "No." },
      ],
      [
        "thoughts",
        chunk({ reasoning: "Think", reasoning_content: "" }) + chunk({ content: "Hello" }, end),
        { reasoning_content: "Think", content: "Hello" },
      ],
      ["calls", chunk({ tool_calls: [call("a", "f"), call("b", "g")] }) + chunk({}, end), { tool_calls: ["f", "g"] }],
    ]) {
      const url = double.define("shapes", { script: [plain(body)] });
      const outcome = await page.evaluate(async (options) => {
        const engine = await connect(options);
        const chunks = await collect(
          await engine.chat.completions.create({ messages: [{ role: "user", content: "Hi" }], stream: true }),
        );
        const found = {};
        for (const { choices } of chunks) {
          for (const [name, value] of Object.entries(choices[0]?.delta ?? {})) {
            if (name === "tool_calls")
              found[name] = [...(found[name] ?? []), ...value.map((call) => call.function.name)];
            else if (name !== "role" && value) found[name] = (found[name] ?? "") + value;
          }
        }
        return found;
      }, remote(url));
      assert.deepEqual(outcome, expected, name);
    }
    const bounded = await ask(
      remote(
        double.define("shapes-usage", {
          script: [
            plain(
              '{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"cost":0.01}}',
            ),
          ],
        }),
      ),
      { stream: false },
      null,
    );
    assert.deepEqual(
      [bounded.value.choices[0].message.content, bounded.value.usage.cost, bounded.value.usage.total_tokens],
      ["Hello", 0.01, 3],
    );
  });

  test("what is posted is not sent on by a redirect", async () => {
    const target = double.define("redirect-target");
    for (const status of [302, 303, 307, 308]) {
      const headers = { Location: `${target.replace("127.0.0.1", "localhost")}/chat/completions` };
      const outcome = await ask(
        remote(double.define("redirect", { script: [{ status, body: "", headers }] })),
        {},
        null,
      );
      assert.equal(outcome.code, "provider_error", outcome.message);
      assert.match(outcome.message, /the request was redirected/);
      assert.equal(double.log("redirect").length, 1, "it is not tried again");
    }
    assert.deepEqual(double.log("redirect-target"), []);
  });

  test("the query of an address stays as it is", async () => {
    const asked = [];
    const seen = (request) => asked.push(request.url());
    session.page.context().on("request", seen);
    const { code } = await page.evaluate(() => failure(load("/none.gguf?key=value&more")));
    assert.equal(code, "model_not_found");
    assert.deepEqual(
      [...new Set(asked.filter((url) => url.includes("none.gguf")))],
      [`${server.url}/none.gguf?key=value&more`],
    );
  });

  test("random faults end as the policy says", async () => {
    await page.evaluate(
      async (options) => (globalThis.engine = await connect(options)),
      remote(double.define("schedule-0")),
    );
    await meetFaults(double, () =>
      page.evaluate(async () => {
        let [text, retries, attempts, code] = ["", 0, 0];
        try {
          const body = { messages: [{ role: "user", content: "Hi" }], stream: true };
          for await (const chunk of await engine.chat.completions.create(body, { onRetry: () => retries++ })) {
            text += chunk.choices[0]?.delta.content ?? "";
            attempts = chunk.candlewick?.attempts ?? attempts;
          }
        } catch (error) {
          code = error.code;
        }
        return [{ text, retries, attempts, code }];
      }),
    );
  });

  // A broken connection takes along what the page has not read yet, so the cut waits for the first text.
  test("a cut after the first text is not tried again", async () => {
    const url = double.define("cut-later", { script: [{ after: 3, hang: true }] });
    const retries = await page.evaluate(async (options) => {
      const engine = await connect(options);
      const messages = [{ role: "user", content: "Hi" }];
      const retries = [];
      const stream = await engine.chat.completions.create(
        { messages, stream: true },
        { onRetry: (retry) => retries.push(retry.code) },
      );
      globalThis.chunks = stream[Symbol.asyncIterator]();
      while (!(await chunks.next()).value.choices[0].delta.content);
      return retries;
    }, remote(url));
    const [entry] = double.log("cut-later");
    entry.cut();
    const outcome = await page.evaluate(async () => {
      const rest = async () => {
        while (!(await chunks.next()).done);
      };
      return failure(rest());
    });
    assert.deepEqual([outcome.code, outcome.typed, retries, double.log("cut-later").length], ["network", true, [], 1]);
    assert.ok(!outcome.message.includes(TOKEN));
  });

  test("an abort ends the transfer", async () => {
    const url = double.define("abort", { script: [{ after: 3, hang: true }] });
    const outcome = await page.evaluate(async (options) => {
      const engine = await connect(options);
      const controller = new AbortController();
      const messages = [{ role: "user", content: "Hi" }];
      const stream = await engine.chat.completions.create({ messages, stream: true }, { signal: controller.signal });
      const chunks = stream[Symbol.asyncIterator]();
      await chunks.next();
      controller.abort();
      return failure(chunks.next().then(() => chunks.next()));
    }, remote(url));
    assert.equal(outcome.code, "aborted");
    const [entry] = double.log("abort");
    while (!entry.gone) await new Promise(setImmediate);
  });

  for (const [name, work] of [
    ["embeddings", (engine, options) => engine.embed(["one", "two"], options)],
    ["a list of embeddings", (engine, options) => engine.embeddings.create({ input: "one" }, options)],
    ["a task", (engine, options) => engine.tasks.summarize("a long text", { model: "org/summary", ...options })],
    ["a comparison", (engine, options) => engine.compare({ messages: [{ role: "user", content: "Hi" }] }, options)],
  ]) {
    test(`an abort ends the transfer of ${name}`, async () => {
      const world = `abort ${name}`.replaceAll(" ", "-");
      const url = double.define(world, { script: [{ after: 1, hang: true }] });
      const handle = await page.evaluateHandle(`(${work})`);
      await page.evaluate(
        async ([work, options]) => {
          const engine = await connect(options);
          globalThis.controller = new AbortController();
          globalThis.outcome = failure(work(engine, { signal: controller.signal }));
          globalThis.again = () => work(engine, {});
        },
        [handle, remote(url, { hfInference: name === "a task" })],
      );
      while (double.log(world).length === 0) await new Promise(setImmediate);
      const outcome = await page.evaluate(() => (controller.abort(), outcome));
      assert.equal(outcome.code, "aborted");
      const [entry] = double.log(world);
      while (!entry.gone) await new Promise(setImmediate);
      assert.ok(await page.evaluate(() => again()), "the engine answers on");
      assert.equal(double.log(world).length, 2);
    });

    test(`${name}: the page hears of another attempt`, async () => {
      const url = double.define(`again ${name}`.replaceAll(" ", "-"), { script: ["503"] });
      const retries = await page.evaluate(
        async ([work, options]) => {
          const retries = [];
          await work(await connect(options), { onRetry: ({ attempt, code }) => retries.push([attempt, code]) });
          return retries;
        },
        [await page.evaluateHandle(`(${work})`), remote(url, { hfInference: name === "a task" })],
      );
      assert.deepEqual(retries, [[1, "provider_error"]]);
    });
  }

  test("budgets, bills, embeddings, abilities", async () => {
    const url = double.define("more", { bad: "BAD" });
    const found = await page.evaluate(
      async (options) => {
        const engine = await connect(options);
        const body = { messages: [{ role: "user", content: "Hi" }] };
        const vectors = await engine.embed(["one", "two"]);
        // One of the two is within the budget, though neither has ended.
        const beside = await Promise.all([1, 2].map(() => failure(engine.chat.completions.create(body))));
        return {
          vectors,
          beside: beside.map(({ code }) => code),
          beyond: await failure(engine.embed(["three"])),
          spent: await engine.spent(),
          capabilities: await engine.capabilities(),
        };
      },
      remote(url, { budget: { requests: 2 }, prices: { "org/large": { input: 1, output: 1 } } }),
    );
    assert.deepEqual(found.beside.sort(), ["none", "resource_exhausted"]);
    assert.equal(found.beyond.code, "resource_exhausted");
    assert.equal(found.spent[0].totals.requests, 2);
    assert.ok(found.spent[0].totals.dollars > 0);
    assert.equal(found.capabilities.tools, true);
    assert.equal(found.vectors[1].embedding.length, 4);
  });
});

describe("Hugging Face's tasks", () => {
  test("texts, classes and pictures", async () => {
    const url = double.define("tasks", { token: TOKEN });
    const found = await page.evaluate(
      async (options) => {
        const { tasks } = await connect(options);
        const picture = await tasks.textToImage("a candle", {
          model: "org/image",
          width: 64,
          aspectRatio: "2:1",
          seed: 3,
        });
        return {
          summary: await tasks.summarize("a long text", { model: "org/summary", parameters: { max_length: 5 } }),
          translation: await tasks.translate("hello", { model: "org/translate" }),
          generated: await tasks.generate("once", { model: "org/text" }),
          labels: await tasks.classify("good", { model: "org/sentiment" }),
          picture: [
            picture instanceof Blob,
            picture.type,
            [...new Uint8Array(await picture.slice(1, 4).arrayBuffer())],
          ],
          wrong: await failure(tasks.textToImage("a candle", { model: "org/image", aspectRatio: "wide" })),
          aborted: await failure(tasks.summarize("x", { signal: AbortSignal.abort() })),
        };
      },
      remote(url, { hfInference: true }),
    );
    const { picture, wrong, aborted, ...texts } = found;
    assert.deepEqual(texts, {
      summary: "a lon",
      translation: "HELLO",
      generated: "once and so on",
      labels: [
        { label: "POSITIVE", score: 0.9 },
        { label: "NEGATIVE", score: 0.1 },
      ],
    });
    assert.deepEqual(picture, [true, "image/png", [...Buffer.from("PNG")]]);
    assert.deepEqual([wrong.code, aborted.code], ["invalid_argument", "aborted"]);
    const bodies = Object.fromEntries(double.log("tasks").map(({ path, body }) => [path.split("/").at(-1), body]));
    assert.deepEqual(bodies.image.parameters, { width: 64, height: 32, seed: 3 });
    assert.deepEqual(bodies.summary, { inputs: "a long text", parameters: { max_length: 5 } });
  });

  test("only there", async () => {
    const url = double.define("no-tasks");
    const { code, message } = await page.evaluate(
      async (options) => failure((await connect(options)).tasks.classify("good")),
      remote(url),
    );
    assert.equal(code, "invalid_argument");
    assert.match(message, /hfInference/);
  });
});

describe("local or hosted", () => {
  test("never makes no request at all", async () => {
    const url = double.define("never");
    const local = await ask(remote(url, { when: "never" }));
    assert.equal(local.origin.ran, "local");
    const failed = await page.evaluate(
      (options) => failure(load("/broken.gguf", { remote: options })),
      remote(url, { when: "never" }),
    );
    assert.equal(failed.code, "corrupt_model");
    const small = await page.evaluate(
      (options) => failure(load("/talker.gguf", { remote: options })),
      remote(url, { when: "never", maxMemory: 1000 }),
    );
    assert.equal(small.code, "resource_exhausted");
    assert.deepEqual([left(), double.log("never")], [[], []]);
  });

  test("without `remote` nothing leaves either, and answers say so", async () => {
    const chunk = await page.evaluate(async (story) => {
      const engine = await load(story, { device: "cpu" });
      return (await collect(await engine.completions.create({ ...greedy, max_tokens: 4, stream: true })))[0];
    }, "/www/models/stories260K.gguf");
    assert.equal(chunk.candlewick.ran, "local");
    assert.ok(
      requests.every((url) => url.startsWith(server.url) || url.startsWith("blob:")),
      requests.join(),
    );
  });

  test("needed: local while it goes", async () => {
    const url = double.define("local");
    const answer = await ask(remote(url));
    assert.deepEqual([answer.origin.ran, answer.origin.provider, answer.info.device], ["local", "cpu", "cpu"]);
    assert.deepEqual(left(), []);
  });

  test("a model that does not fit goes to a hosted one, with the reason", async () => {
    const url = double.define("fit");
    const answer = await ask(remote(url, { maxMemory: 100_000 }));
    assert.deepEqual([answer.text, answer.origin.ran], [TEXT, "remote"]);
    assert.match(answer.origin.reason, /talker\.gguf.*needs .* MB.*\[resource_exhausted\]/);
    assert.match(answer.info.deviceReason, /resource_exhausted/);
    assert.equal(left().length, 1);
  });

  test("so does one that the CPU is too slow for", async () => {
    const url = double.define("slow");
    const slow = await ask(remote(url, { minTokensPerSecond: 1e9 }));
    assert.deepEqual([slow.text, slow.origin.ran], [TEXT, "remote"]);
    assert.match(slow.origin.reason, /talker\.gguf: about [\d.]+ tokens a second on the CPU.*\[resource_exhausted\]/);
    assert.equal((await ask(remote(url, { minTokensPerSecond: 1 }))).origin.ran, "local");
    assert.equal(double.log("slow").length, 1);
  });

  test("so does a broken file, and a prompt that is too long", async () => {
    const url = double.define("broken");
    const broken = await ask(remote(url), {}, "/broken.gguf");
    assert.match(broken.origin.reason, /broken\.gguf.*\[corrupt_model\]/);
    const long = await ask(remote(url), { messages: [{ role: "user", content: "long ".repeat(2000) }] });
    assert.equal(long.info.device, "cpu");
    assert.match(long.origin.reason, /\[context_length_exceeded\]/);
    assert.equal(long.text, TEXT);
  });

  test("several sources, and several hosts", async () => {
    const [down, up] = [double.define("down", { script: ["401"] }), double.define("up")];
    const options = remote(down, { maxMemory: 100_000, fallbacks: [{ baseURL: up, model: "org/small" }] });
    const answer = await ask(options, {}, ["/broken.gguf", "/talker.gguf"]);
    assert.deepEqual([answer.text, answer.origin.model], [TEXT, "org/small"]);
    assert.match(answer.origin.reason, /corrupt_model.*resource_exhausted.*unauthorized/);
    const second = await ask(remote(down), {}, ["/broken.gguf", "/talker.gguf"]);
    assert.equal(second.origin.ran, "local");
  });

  test("the cache answers the second time", async () => {
    const url = double.define("cache");
    const found = await page.evaluate(
      async (options) => {
        const engine = await connect(options);
        const body = { messages: [{ role: "user", content: "Hi" }], seed: 3 };
        const answers = await Promise.all([1, 2].map(() => engine.chat.completions.create(body)));
        return [...answers, await engine.chat.completions.create(body)].map((answer) => [
          answer.choices[0].message.content,
          answer.candlewick.cached ?? false,
        ]);
      },
      remote(url, { cache: true }),
    );
    assert.deepEqual(
      [found[0], found[2]],
      [
        [TEXT, false],
        [TEXT, true],
      ],
    );
    assert.equal(double.log("cache").length, 1);
  });

  test("and after a reload, where it may stay", async () => {
    const url = double.define("kept");
    const answer = (persist, more) =>
      page.evaluate(
        async ([options, more]) => {
          const engine = await connect(options);
          const chunks = await collect(
            await engine.chat.completions.create({
              messages: [{ role: "user", content: "Hi" }],
              seed: 4,
              stream: true,
              ...more,
            }),
          );
          return [
            chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join(""),
            chunks[0].candlewick.cached ?? false,
          ];
        },
        [remote(url, { cache: { persist } }), more],
      );
    const reload = async () => {
      await page.reload();
      await page.waitForFunction(() => document.title === "ready");
    };
    assert.deepEqual(await answer(true), [TEXT, false]);
    await reload();
    assert.deepEqual(await answer(true), [TEXT, true]);
    assert.deepEqual(await answer(true, { seed: 5 }), [TEXT, false], "another request");
    await reload();
    assert.deepEqual(await answer(false), [TEXT, false], "this one does not look there");
    assert.equal(double.log("kept").length, 3);
  });

  test("one prompt over all", async () => {
    const [url, other] = [double.define("compare", { script: ["503"] }), double.define("compare-other")];
    const { all, retries } = await page.evaluate(
      async (options) => {
        const engine = await load("/talker.gguf", { device: "cpu", remote: options });
        const retries = [];
        const onRetry = ({ model, attempt, code }) => retries.push([model, attempt, code]);
        const all = await engine.compare({ messages: [{ role: "user", content: "Hi" }], max_tokens: 4 }, { onRetry });
        return { all, retries };
      },
      remote(url, { fallbacks: [{ baseURL: other, model: "org/none", token: TOKEN }] }),
    );
    assert.deepEqual(retries, [["org/large", 1, "provider_error"]]);
    assert.equal(all[1].candlewick.attempts, 2);
    assert.deepEqual(
      all.map(({ ran, error }) => [ran, error]),
      [
        ["local", null],
        ["remote", null],
        ["remote", "model_not_found"],
      ],
    );
    assert.equal(all[1].text, TEXT);
  });
});
