/** Clients of OpenAI's interface as they are, with `engine.fetch` in the place of the network. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { build } from "esbuild";
import { blank, conversationalist, launch, openPage, repository, serve, story } from "./support.js";

const clients = `
  export { default as OpenAI } from "openai";
  export { createOpenAICompatible } from "@ai-sdk/openai-compatible";
  export { embed, generateText, streamText } from "ai";
  export { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
`;

let browser, server, session, page;

before(async () => {
  browser = await launch();
  const { outputFiles } = await build({
    stdin: { contents: clients, resolveDir: `${repository}/tests` },
    bundle: true,
    format: "esm",
    platform: "browser",
    define: { "process.env.NODE_ENV": '"production"' },
    write: false,
    logLevel: "error",
  });
  const script = (_, response) => response.setHeader("content-type", "text/javascript").end(outputFiles[0].text);
  server = await serve({ routes: { "/": blank, "/talker.gguf": conversationalist(), "/clients.js": script } });
});
after(async () => {
  await browser?.close();
  await server?.close();
});
beforeEach(async () => {
  session = await openPage(browser, server.url);
  page = session.page;
  await page.waitForFunction(() => document.title === "ready");
  await page.evaluate(async () => {
    Object.assign(window, await import("/clients.js"));
    window.engine = await load("/talker.gguf", { cache: false });
    window.messages = [{ role: "user", content: "Once upon a time" }];
    const whole = await engine.chat.completions.create({ messages, temperature: 0, max_tokens: 20 });
    window.expected = whole.choices[0].message.content;
    window.client = new OpenAI({
      fetch: engine.fetch,
      apiKey: "-",
      baseURL: "http://local/v1",
      dangerouslyAllowBrowser: true,
      maxRetries: 0,
    });
    // What would go over the network is a fault.
    window.fetch = () => Promise.reject(new Error("this went over the network"));
  });
});
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

describe("OpenAI's client", () => {
  test("gets a whole answer, and a stream with its usage", async () => {
    const { whole, text, expected, usage, refusal } = await page.evaluate(async () => {
      const body = { model: "any", messages, temperature: 0, max_tokens: 20 };
      const { choices } = await client.chat.completions.create(body);
      let [text, usage] = ["", undefined];
      for await (const chunk of await client.chat.completions.create({
        ...body,
        stream: true,
        stream_options: { include_usage: true },
      })) {
        text += chunk.choices[0]?.delta.content ?? "";
        usage = chunk.usage ?? usage;
      }
      return { whole: choices[0].message.content, refusal: choices[0].message.refusal, text, expected, usage };
    });
    assert.ok(expected.length > 10);
    assert.deepEqual([whole, text, refusal], [expected, expected, null]);
    assert.equal(usage.completion_tokens, 20);
  });

  test("its own helpers work: runs of a stream, completions, models", async () => {
    const found = await page.evaluate(async () => {
      const final = await client.chat.completions
        .stream({ model: "any", messages, temperature: 0, max_tokens: 20 })
        .finalContent();
      const { choices } = await client.completions.create({
        model: "any",
        prompt: "",
        temperature: 0,
        max_tokens: 400,
      });
      const listed = [];
      for await (const { id } of client.models.list()) listed.push(id);
      const { id } = await client.models.retrieve(engine.info.name);
      return { final, expected, text: choices[0].text, listed, id, name: engine.info.name };
    });
    assert.equal(found.final, found.expected);
    assert.equal(found.text, story);
    assert.deepEqual([found.listed, found.id], [[found.name], found.name]);
  });

  test("is told what went wrong in its own errors, and does not try again in vain", async () => {
    const found = await page.evaluate(async () => {
      let asked = 0;
      const counting = (...request) => (asked++, engine.fetch(...request));
      const client = new OpenAI({
        fetch: counting,
        apiKey: "-",
        baseURL: "http://local/v1",
        dangerouslyAllowBrowser: true,
        maxRetries: 2,
      });
      const fails = (promise) =>
        promise.then(
          () => "none",
          (error) => [error.constructor.name, error.status, error.code, error.type],
        );
      return [
        await fails(client.chat.completions.create({ model: "any", messages, temperature: "hot" })),
        await fails(
          client.chat.completions.create({ model: "any", messages: [{ role: "user", content: "long ".repeat(3000) }] }),
        ),
        await fails(
          client.chat.completions.create({
            model: "any",
            messages: [{ role: "user", content: "long ".repeat(3000) }],
            stream: true,
          }),
        ),
        await fails(client.models.retrieve("another")),
        await fails(client.images.generate({ prompt: "a cat" })),
        await fails(client.embeddings.create({ model: "any", input: "a" })),
        asked,
      ];
    });
    assert.deepEqual(found, [
      ["BadRequestError", 400, "invalid_argument", "invalid_request_error"],
      ["BadRequestError", 400, "context_length_exceeded", "invalid_request_error"],
      ["BadRequestError", 400, "context_length_exceeded", "invalid_request_error"],
      ["NotFoundError", 404, "model_not_found", "invalid_request_error"],
      ["NotFoundError", 404, "invalid_argument", "invalid_request_error"],
      ["BadRequestError", 400, "unsupported_model", "invalid_request_error"],
      6,
    ]);
  });

  test("stops the model", async () => {
    const found = await page.evaluate(async () => {
      const controller = new AbortController();
      const body = { model: "any", messages, ignore_eos: true, max_tokens: 100_000, stream: true };
      let chunks = 0;
      const stream = await client.chat.completions.create(body, { signal: controller.signal });
      for await (const _ of stream) if (++chunks === 3) controller.abort();
      for await (const _ of await client.chat.completions.create(body)) if (++chunks > 6) break;
      const waiting = client.chat.completions.create({ ...body, stream: false }, { signal: AbortSignal.timeout(50) });
      const failed = await waiting.catch((error) => error.constructor.name);
      const again = await client.chat.completions.create({ model: "any", messages, temperature: 0, max_tokens: 20 });
      return { chunks, failed, text: again.choices[0].message.content, expected };
    });
    assert.ok(found.chunks < 12, `${found.chunks}`);
    assert.deepEqual([found.failed, found.text], ["APIUserAbortError", found.expected]);
  });
});

test("the AI SDK's provider answers, streams and stops", async () => {
  const found = await page.evaluate(async () => {
    const provider = createOpenAICompatible({
      name: "candlewick",
      baseURL: "http://local/v1",
      fetch: engine.fetch,
      includeUsage: true,
    });
    const request = { model: provider("any"), prompt: "Once upon a time", temperature: 0, maxOutputTokens: 20 };
    const { text: whole, usage } = await generateText(request);
    const streamed = streamText(request);
    let text = "";
    for await (const part of streamed.textStream) text += part;
    const controller = new AbortController();
    const long = streamText({ ...request, maxOutputTokens: 100_000, abortSignal: controller.signal, onError() {} });
    let parts = 0;
    for await (const _ of long.textStream) if (++parts === 3) controller.abort();
    const after = await generateText(request);
    return {
      whole,
      text,
      after: after.text,
      expected,
      tokens: usage.outputTokens,
      streamedTokens: (await streamed.usage).outputTokens,
      parts,
    };
  });
  const { expected } = found;
  assert.deepEqual([found.whole, found.text, found.after], [expected, expected, expected]);
  assert.deepEqual([found.tokens, found.streamedTokens], [20, 20]);
  assert.ok(found.parts < 30);
});

test("LangChain's ChatOpenAI answers and streams", async () => {
  const found = await page.evaluate(async () => {
    const model = new ChatOpenAI({
      model: "any",
      apiKey: "-",
      temperature: 0,
      maxTokens: 20,
      maxRetries: 0,
      configuration: { baseURL: "http://local/v1", fetch: engine.fetch, dangerouslyAllowBrowser: true },
    });
    const whole = await model.invoke("Once upon a time");
    let text = "";
    for await (const chunk of await model.stream("Once upon a time")) text += chunk.content;
    return { whole: whole.content, usage: whole.usage_metadata, text, expected };
  });
  assert.deepEqual([found.whole, found.text], [found.expected, found.expected]);
  assert.equal(found.usage.output_tokens, 20);
});

test("encoders answer OpenAI's client, the AI SDK and LangChain with the same vectors", async () => {
  const found = await page.evaluate(async () => {
    await engine.unload();
    const request = new XMLHttpRequest();
    request.responseType = "blob";
    request.open("GET", "/tests/fixtures/models/bert-f32.gguf");
    await new Promise((done) => ((request.onload = done), request.send()));
    const encoder = await load(request.response);
    const [{ embedding }] = await encoder.embed(["war"]);
    const client = new OpenAI({
      fetch: encoder.fetch,
      apiKey: "-",
      baseURL: "http://local/v1",
      dangerouslyAllowBrowser: true,
    });
    const { data, usage } = await client.embeddings.create({ model: "any", input: ["war", "peace"] });
    const provider = createOpenAICompatible({ name: "candlewick", baseURL: "http://local/v1", fetch: encoder.fetch });
    const sdk = await embed({ model: provider.embeddingModel("any"), value: "war" });
    const chain = new OpenAIEmbeddings({
      model: "any",
      apiKey: "-",
      configuration: { baseURL: "http://local/v1", fetch: encoder.fetch, dangerouslyAllowBrowser: true },
    });
    const refused = await client.chat.completions
      .create({ model: "any", messages })
      .catch(({ status, code }) => [status, code]);
    return {
      vectors: [embedding, data[0].embedding, sdk.embedding, await chain.embedQuery("war")],
      many: data.length,
      usage,
      refused,
    };
  });
  const [first, ...others] = found.vectors;
  assert.ok(first.length > 10 && found.many === 2 && found.usage.prompt_tokens > 0);
  for (const other of others) other.forEach((number, at) => assert.ok(Math.abs(number - first[at]) < 1e-6));
  assert.deepEqual(found.refused, [400, "unsupported_model"]);
});

describe("engine.fetch, as a fetch", () => {
  test("takes Requests, URLs and texts, and bodies of any kind", async () => {
    const found = await page.evaluate(async () => {
      const url = "https://any.example/some/where/v1/chat/completions";
      const body = JSON.stringify({ messages, temperature: 0, max_tokens: 20 });
      const told = async (response) => (await response.json()).choices[0].message.content;
      const stream = () => new Blob([body]).stream();
      const { fetch } = engine;
      return {
        expected,
        texts: [
          await told(await fetch(url, { method: "POST", body })),
          await told(await fetch(new URL(url), { method: "POST", body: new Blob([body]) })),
          await told(await fetch(new Request(url, { method: "POST", body }))),
          await told(
            await fetch(new Request(url, { method: "POST", body: "no" }), { body: new TextEncoder().encode(body) }),
          ),
          await told(await fetch(url, { method: "POST", body: stream(), duplex: "half" })),
        ],
      };
    });
    assert.deepEqual(
      found.texts,
      found.texts.map(() => found.expected),
    );
  });

  test("answers in OpenAI's form what it cannot do", async () => {
    const found = await page.evaluate(async () => {
      const ask = async (path, init) => {
        const response = await engine.fetch(`http://local${path}`, init);
        const { error } = await response.json();
        return [
          response.status,
          error.code,
          error.type,
          error.param,
          typeof error.message,
          response.headers.get("allow"),
        ];
      };
      return [
        await ask("/v1/nothing"),
        await ask("/elsewhere"),
        await ask("/v1/models/", { method: "POST" }),
        await ask("/v1/chat/completions"),
        await ask("/v1/models/another%2Fmodel"),
        await ask("/v1/chat/completions", { method: "POST", body: "{" }),
        await ask("/v1/completions", { method: "POST", body: "[]" }),
        await ask("/v1/completions", { method: "POST", body: "null" }),
        await ask("/v1/chat/completions", { method: "POST" }),
      ];
    });
    const wrong = (status, code, allow = null) => [status, code, "invalid_request_error", null, "string", allow];
    const invalid = wrong(400, "invalid_argument");
    assert.deepEqual(found, [
      wrong(404, "invalid_argument"),
      wrong(404, "invalid_argument"),
      wrong(405, "invalid_argument", "GET"),
      wrong(405, "invalid_argument", "POST"),
      wrong(404, "model_not_found"),
      invalid,
      invalid,
      invalid,
      invalid,
    ]);
  });

  test("streams events that end in [DONE], or in an error's", async () => {
    const { type, text, after } = await page.evaluate(async () => {
      const post = (body) =>
        engine.fetch("http://local/v1/completions", { method: "POST", body: JSON.stringify(body) });
      const response = await post({ prompt: "", temperature: 0, max_tokens: 5, stream: true });
      const text = await response.text();
      const long = await post({ prompt: "", ignore_eos: true, max_tokens: 100_000, stream: true });
      const reader = long.body.getReader();
      await reader.read();
      await engine.unload();
      let after = "";
      for (let piece; !(piece = await reader.read()).done;) after += new TextDecoder().decode(piece.value);
      return { type: response.headers.get("content-type"), text, after };
    });
    assert.match(type, /^text\/event-stream/);
    const events = text.trimEnd().split("\n\n");
    assert.equal(events.pop(), "data: [DONE]");
    const chunks = events.map((event) => JSON.parse(event.slice(6)));
    assert.ok(story.startsWith(chunks.map(({ choices }) => choices[0]?.text ?? "").join("")));
    assert.ok(!after.includes("[DONE]"));
    assert.equal(JSON.parse(after.trim().split("\n\n").at(-1).slice(6)).error.code, "aborted");
  });

  test("ends with its signal, as any fetch: before, while waiting and in the middle", async () => {
    const found = await page.evaluate(async () => {
      const post = (body, signal) =>
        engine.fetch("http://local/v1/completions", { method: "POST", body: JSON.stringify(body), signal });
      const long = { prompt: "", ignore_eos: true, max_tokens: 100_000 };
      const reason = new Error("enough");
      const [running, waiting] = [new AbortController(), new AbortController()];
      const stream = await post({ ...long, stream: true }, running.signal);
      const queued = post(long, waiting.signal).catch((error) => error === reason);
      waiting.abort(reason);
      const reader = stream.body.getReader();
      await reader.read();
      running.abort();
      let [ended, pieces] = [undefined, 0];
      while (!ended)
        await reader.read().then(
          () => pieces++,
          (error) => (ended = error.name),
        );
      return [
        await post(long, AbortSignal.abort(reason)).catch((error) => error === reason),
        await queued,
        ended,
        pieces < 20,
      ];
    });
    assert.deepEqual(found, [true, true, "AbortError", true]);
  });
});

describe("streams, as OpenAI's client has them", () => {
  const request = { prompt: "", temperature: 0, max_tokens: 60, stream: true };

  test("end when their controller aborts, and the model with them", async () => {
    const found = await page.evaluate(async (request) => {
      const stream = await engine.completions.create({ ...request, ignore_eos: true, max_tokens: 100_000 });
      let chunks = 0;
      for await (const _ of stream) if (++chunks === 3) stream.controller.abort();
      const before = await engine.completions.create(request);
      before.controller.abort();
      const after = await engine.completions.create({ ...request, stream: false });
      return [chunks, (await collect(before)).length, after.choices[0].text];
    }, request);
    assert.equal(found[0], 3);
    assert.equal(found[1], 0);
    assert.ok(story.startsWith(found[2]));
  });

  test("are told twice by tee(), at two paces", async () => {
    const found = await page.evaluate(async (request) => {
      const [left, right] = (await engine.completions.create(request)).tee();
      const first = text(await collect(left));
      const second = text(await collect(right));
      // One that is left does not stop the other; both stop the model.
      const [one, other] = (await engine.completions.create(request)).tee();
      for await (const _ of one) break;
      const [deep] = other.tee();
      const third = text(await collect(deep));
      const [some, none] = (
        await engine.completions.create({ ...request, ignore_eos: true, max_tokens: 100_000 })
      ).tee();
      none.controller.abort();
      for await (const _ of some) break;
      const after = await engine.completions.create({ ...request, stream: false });
      const lines = await new Response((await engine.completions.create(request)).tee()[0].toReadableStream()).text();
      return {
        first,
        second,
        third,
        after: after.choices[0].text,
        lines: text(lines.trim().split("\n").map(JSON.parse)),
      };
    }, request);
    assert.ok(story.startsWith(found.first) && found.first.length > 50);
    for (const same of [found.second, found.third, found.after, found.lines]) assert.equal(same, found.first);
  });
});
