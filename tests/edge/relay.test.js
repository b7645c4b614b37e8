/** The relay in workerd: who is let in, what passes, and what never does. */
import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { after, before, describe, test } from "node:test";
import { faults } from "../remote/server.js";
import { edge, events, gate, KEY, reading, start, TEXT, textOf, TOKEN } from "./support.js";

const PAGE = "https://page.example";
const messages = [{ role: "user", content: "Hi" }];
const body = { model: "org/large", messages };

let double, worker;
/** The double knows one world here; this replaces it. */
const define = (world) => double.define("edge", { token: TOKEN, ...world });
const log = () => double.log("edge");

before(async () => {
  double = await start();
  worker = await edge({
    UPSTREAM_URL: define(),
    ALLOWED_ORIGINS: `https://other.example, ${PAGE}`,
    MAX_BODY_BYTES: "2000",
  });
});
after(async () => {
  await worker?.close();
  double?.close();
});

describe("answers", () => {
  test("pass as they come: the first part before the upstream has sent the second", async () => {
    const { opened, open } = gate();
    define({ script: [{ hold: opened }] });
    const response = await worker.ask("/v1/chat/completions", { ...body, stream: true });
    assert.equal(response.status, 200);
    assert.match(response.headers.get("content-type"), /^text\/event-stream/);
    const text = reading(response);
    const first = await text.until("\n\n");
    assert.equal(events(first)[0].choices[0].delta.role, "assistant");
    open();
    const all = await text.end();
    assert.equal(textOf(events(all)), TEXT);
    assert.match(all, /data: \[DONE\]\n\n$/);
  });

  test("whole, with the upstream's own fields, and what was asked reaches it", async () => {
    define();
    const answer = await (await worker.ask("/v1/chat/completions", { ...body, top_k: 3 })).json();
    assert.equal(answer.choices[0].message.content, TEXT);
    assert.equal(answer.usage.completion_tokens, 7);
    const [entry] = log();
    assert.deepEqual([entry.authorization, entry.body], [`Bearer ${TOKEN}`, { ...body, top_k: 3 }]);
  });

  test("whatever type the upstream gives them", async () => {
    const hello = { choices: [{ index: 0, delta: { content: "Hello" }, finish_reason: "stop" }] };
    const forms = {
      "text/event-stream": `\ufeff\n: hello\n\ndata: ${JSON.stringify(hello)}\n\ndata: [DONE]\n\n`,
      "application/json": ` ${JSON.stringify(hello)}`,
    };
    for (const [form, sent] of Object.entries(forms)) {
      for (const type of ["text/plain; charset=utf-8", "application/octet-stream", "text/json", undefined]) {
        define({ script: [{ status: 200, body: sent, headers: type === undefined ? {} : { "Content-Type": type } }] });
        const response = await worker.ask("/v1/chat/completions", { ...body, stream: true });
        assert.deepEqual([response.status, response.headers.get("content-type")], [200, form], type);
        assert.equal((await response.text()).trimStart(), sent.replace("\ufeff", "").trimStart());
      }
    }
    define({ script: [{ status: 200, body: "Sign in first", headers: { "Content-Type": "text/plain" } }] });
    assert.equal((await worker.ask("/v1/chat/completions", body)).status, 502);
  });

  // Outside Cloudflare's network workerd notices it at the next write.
  test("a client that goes ends the upstream's transfer", async () => {
    define({ script: [{ after: 3, endless: true }] });
    const controller = new AbortController();
    const response = await worker.ask("/v1/chat/completions", { ...body, stream: true }, { signal: controller.signal });
    await reading(response).until("\n\n");
    const [entry] = log();
    controller.abort();
    while (!entry.gone) await new Promise(setImmediate);
  });

  test("the list of models has the one that runs here too", async () => {
    define();
    const { data } = await (await worker.ask("/v1/models")).json();
    assert.deepEqual(
      data.map(({ id }) => id),
      ["org/large", "org/small", "stories260K"],
    );
  });

  test("embeddings of Hugging Face's router are its task of feature extraction", async () => {
    for (const embeddings of ["documents", "tokens"]) {
      const hub = await edge({ UPSTREAM_URL: define({ embeddings }), HF_INFERENCE: "true" });
      try {
        const { data, model } = await (
          await hub.ask("/v1/embeddings", { model: "org/embed", input: ["one", "two"] })
        ).json();
        assert.deepEqual(
          [model, data.map(({ index, embedding }) => [index, embedding.length])],
          [
            "org/embed",
            [
              [0, 4],
              [1, 4],
            ],
          ],
        );
        const [entry] = log();
        assert.deepEqual(
          [entry.path, entry.body],
          ["hf-inference/models/org/embed/pipeline/feature-extraction", { inputs: ["one", "two"] }],
        );
        for (const model of ["../../other/v1/a", "..", "org/..", "a/b/c", "a?b"]) {
          const response = await hub.ask("/v1/embeddings", { model, input: "one" });
          assert.deepEqual([response.status, (await response.json()).error.code], [400, "invalid_argument"], model);
        }
        assert.equal(log().length, 1, "no name leads elsewhere");
      } finally {
        await hub.close();
      }
    }
  });

  test("so are its other tasks, pictures too", async () => {
    const hub = await edge({
      UPSTREAM_URL: define(),
      HF_INFERENCE: "true",
      ALLOWED_MODELS: "org/summary, image-model",
    });
    try {
      const task = async (model, more) => hub.ask(`/hf-inference/models/${model}`, { inputs: "a long text", ...more });
      assert.deepEqual(await (await task("org/summary")).json(), [{ summary_text: "a lon" }]);
      const picture = await task("image-model", { parameters: { width: 8 } });
      assert.equal(picture.headers.get("content-type"), "image/png");
      assert.deepEqual([...new Uint8Array(await picture.arrayBuffer()).slice(1, 4)], [...Buffer.from("PNG")]);
      assert.deepEqual(
        log().map(({ path, body }) => [path, body.parameters?.width]),
        [
          ["hf-inference/models/org/summary", undefined],
          ["hf-inference/models/image-model", 8],
        ],
      );
      for (const model of ["org/other", "..%2Fsecret", "org/../summary"])
        assert.equal((await task(model)).status, 404, model);
      assert.equal(log().length, 2);
    } finally {
      await hub.close();
    }
    assert.equal(
      (await worker.ask("/hf-inference/models/org/summary", { inputs: "x" })).status,
      404,
      "another upstream has none",
    );
  });

  test("1,000 streams at a time, none lost", { timeout: 120_000 }, async () => {
    const { opened, open } = gate();
    const count = 1000;
    define({ script: Array(count).fill({ hold: opened }) });
    let begun = 0;
    const answers = Array.from({ length: count }, async () => {
      const response = await worker.ask("/v1/chat/completions", { ...body, stream: true });
      const text = reading(response);
      await text.until("\n\n");
      // All have begun before any goes on.
      if (++begun === count) open();
      return textOf(events(await text.end()));
    });
    const texts = await Promise.all(answers);
    assert.deepEqual([...new Set(texts)], [TEXT]);
    assert.equal(log().length, count);
  });
});

describe("who is let in", () => {
  const from = (origin, init = {}) =>
    fetch(`${worker.url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify(body),
      ...init,
      headers: { Origin: origin, ...init.headers },
    });

  test("pages of origins on the list, and of its own", async () => {
    define();
    for (const origin of [PAGE, "https://other.example", worker.url]) {
      const response = await from(origin);
      assert.equal(response.status, 200, origin);
      assert.equal(response.headers.get("access-control-allow-origin"), origin);
      assert.match(response.headers.get("vary"), /Origin/);
    }
    const own = await fetch(`${worker.url}/v1/models`, { headers: { "Sec-Fetch-Site": "same-origin" } });
    assert.equal(own.status, 200);
  });

  test("no others, and the upstream hears nothing of them", async () => {
    define();
    for (const origin of ["https://evil.example", `${PAGE}.evil.example`, "http://page.example", "null"]) {
      const response = await from(origin);
      assert.equal(response.status, 403, origin);
      assert.equal(response.headers.get("access-control-allow-origin"), null);
      const { error } = await response.json();
      assert.deepEqual([error.type, error.code], ["permission_error", "unauthorized"]);
    }
    assert.equal(log().length, 0);
  });

  test("preflight", async () => {
    const ask = (origin) =>
      fetch(`${worker.url}/v1/chat/completions`, {
        method: "OPTIONS",
        headers: {
          Origin: origin,
          "Access-Control-Request-Method": "POST",
          "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        },
      });
    const good = await ask(PAGE);
    assert.equal(good.status, 204);
    assert.equal(good.headers.get("access-control-allow-origin"), PAGE);
    assert.match(good.headers.get("access-control-allow-headers"), /x-stainless-os/);
    const bad = await ask("https://evil.example");
    assert.deepEqual([bad.status, bad.headers.get("access-control-allow-origin")], [403, null]);
  });

  test("programs with a key", async () => {
    define();
    for (const [authorization, status] of [
      [`Bearer ${KEY}`, 200],
      ["Bearer wrong", 401],
      [`Bearer ${TOKEN}`, 401],
      [undefined, 401],
    ]) {
      const headers = authorization ? { Authorization: authorization } : {};
      const response = await fetch(`${worker.url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify(body),
        headers,
      });
      assert.equal(response.status, status, authorization);
      if (status === 401) assert.equal((await response.json()).error.type, "authentication_error");
    }
    assert.equal(log().length, 1);
  });

  test("each only so often", async () => {
    define();
    const strict = await edge(
      { UPSTREAM_URL: define(), CLIENT_KEYS: `${KEY}, another` },
      { ratelimits: { RATE_LIMITER: { simple: { limit: 2, period: 60 } } } },
    );
    try {
      let passed = 0;
      let response = await strict.ask("/v1/chat/completions", body);
      // The period may end between two of them, and another two may pass then.
      for (; response.status === 200 && passed < 4; response = await strict.ask("/v1/chat/completions", body)) passed++;
      assert.ok(passed >= 2, `${passed} passed`);
      assert.equal(response.status, 429);
      const { error } = await response.json();
      assert.deepEqual(
        [error.type, error.code, response.headers.get("retry-after")],
        ["rate_limit_error", "rate_limited", "10"],
      );
      assert.equal(log().length, passed);
      const other = await strict.ask("/v1/chat/completions", body, { headers: { Authorization: "Bearer another" } });
      assert.equal(other.status, 200);
    } finally {
      await strict.close();
    }
  });

  for (const [who, headers, status] of [
    ["wrong keys", { Authorization: "Bearer guessed" }, 401],
    ["no key", { Authorization: "" }, 401],
    ["pages of other origins", { Authorization: "", Origin: "https://evil.example" }, 403],
  ]) {
    test(`${who} too`, async () => {
      const strict = await edge(
        { UPSTREAM_URL: define() },
        { ratelimits: { RATE_LIMITER: { simple: { limit: 2, period: 60 } } } },
      );
      try {
        const statuses = [];
        for (let i = 0; i < 6; i++) statuses.push((await strict.ask("/v1/models", undefined, { headers })).status);
        assert.deepEqual([statuses[0], statuses.includes(429)], [status, true], `${statuses}`);
        assert.equal(
          (await strict.ask("/v1/chat/completions", body)).status,
          200,
          "whoever has a key is not kept out by them",
        );
      } finally {
        await strict.close();
      }
    });
  }
});

describe("what is refused", () => {
  const oversized = JSON.stringify({ ...body, messages: [{ role: "user", content: "long ".repeat(1000) }] });
  const refused = async (response, status, code) => {
    assert.equal(response.status, status);
    const { error } = await response.json();
    assert.deepEqual(
      [error.code, typeof error.message, typeof error.type, error.param],
      [code, "string", "string", null],
    );
  };

  test("a body that is too large, whether it says so or not", async () => {
    define();
    await refused(
      await worker.ask("/v1/chat/completions", undefined, { method: "POST", body: oversized }),
      413,
      "invalid_argument",
    );
    // In chunks, without a Content-Length.
    const status = await new Promise((resolve, reject) => {
      const headers = { Authorization: `Bearer ${KEY}`, "Transfer-Encoding": "chunked" };
      const request = httpRequest(`${worker.url}/v1/chat/completions`, { method: "POST", headers }, (response) =>
        resolve(response.resume().statusCode),
      );
      request.on("error", reject);
      request.write(oversized.slice(0, 100));
      request.end(oversized.slice(100));
    });
    assert.equal(status, 413);
    assert.equal(log().length, 0);
  });

  for (const [what, path, init, status, code] of [
    ["no JSON", "/v1/chat/completions", { method: "POST", body: "{" }, 400, "invalid_argument"],
    ["no object", "/v1/chat/completions", { method: "POST", body: "[1]" }, 400, "invalid_argument"],
    ["no body", "/v1/embeddings", { method: "POST" }, 400, "invalid_argument"],
    ["no model", "/v1/chat/completions", { method: "POST", body: "{}" }, 400, "invalid_argument"],
    ["no such address", "/v1/audio/speech", { method: "POST", body: "{}" }, 404, "invalid_argument"],
    ["the cache's address", `/v1/cache/${"0".repeat(64)}`, {}, 404, "invalid_argument"],
    ["the wrong method", "/v1/chat/completions", {}, 405, "invalid_argument"],
  ]) {
    test(what, async () => refused(await worker.ask(path, undefined, init), status, code));
  }

  test("models that are not offered", async () => {
    const choosy = await edge({ UPSTREAM_URL: define(), ALLOWED_MODELS: "org/small" });
    try {
      await refused(await choosy.ask("/v1/chat/completions", body), 404, "model_not_found");
      assert.equal((await choosy.ask("/v1/chat/completions", { ...body, model: "org/small" })).status, 200);
      const { data } = await (await choosy.ask("/v1/models")).json();
      assert.deepEqual(
        data.map(({ id }) => id),
        ["org/small", "stories260K"],
      );
    } finally {
      await choosy.close();
    }
  });

  test("the list has the offered models as requests spell them", async () => {
    const ai = { name: "ai", modules: true, script: "export default () => ({ run() {} });" };
    const list = async (models, options) => {
      const choosy = await edge({ UPSTREAM_URL: define(), ALLOWED_MODELS: models }, options);
      try {
        const { data } = await (await choosy.ask("/v1/models")).json();
        return data.map(({ id }) => id);
      } finally {
        await choosy.close();
      }
    };
    const models = "@cf/one, org/large:fastest, org/large, org/none, org/larger:fastest";
    assert.deepEqual(await list(models), ["org/large:fastest", "org/large", "stories260K"]);
    const bound = { wrappedBindings: { AI: { scriptName: "ai" } }, beside: [ai] };
    assert.deepEqual(await list(models, bound), ["@cf/one", "org/large:fastest", "org/large", "stories260K"]);
  });

  test("settings that are wrong are named", async () => {
    const wrong = await edge({ UPSTREAM_URL: "router.huggingface.co", MAX_BODY_BYTES: "much" });
    try {
      const response = await wrong.ask("/v1/chat/completions", body);
      assert.equal(response.status, 500);
      assert.match((await response.json()).error.message, /UPSTREAM_URL/);
    } finally {
      await wrong.close();
    }
  });
});

describe("an upstream that fails", () => {
  for (const [fault, status, code] of [
    ["400", 400, "invalid_argument"],
    ["400-context", 400, "context_length_exceeded"],
    ["401", 401, "unauthorized"],
    ["402", 402, "resource_exhausted"],
    ["403", 403, "unauthorized"],
    ["404", 404, "model_not_found"],
    ["422", 422, "invalid_argument"],
    ["429-second", 429, "rate_limited"],
    ["500", 500, "provider_error"],
    ["502", 502, "provider_error"],
    ["504", 504, "network"],
    ["loading", 503, "provider_error"],
    ["reset", 502, "network"],
    ["nonsense", 502, "provider_error"],
  ]) {
    test(`${fault}: ${code}`, async () => {
      define({ script: [fault] });
      const response = await worker.ask("/v1/chat/completions", { ...body, stream: true });
      assert.equal(response.status, status);
      const answer = await response.json();
      assert.equal(answer.error.code, code);
      assert.ok(answer.error.message.length > 3 && !answer.error.message.includes("<html>"), answer.error.message);
      if (fault === "429-second") assert.equal(response.headers.get("retry-after"), "1");
      if (fault === "loading") assert.equal(answer.estimated_time, 0.001);
      assert.equal(log().length, 1, "trying again is the client's business");
    });
  }

  test("credits that are used up are no rate that is exceeded", async () => {
    const error = { message: "You exceeded your current quota", type: "insufficient_quota" };
    define({ script: [{ status: 429, body: JSON.stringify({ error }), headers: { "retry-after-ms": "20" } }] });
    const response = await worker.ask("/v1/chat/completions", body);
    assert.deepEqual([response.status, response.headers.get("retry-after-ms")], [402, "20"]);
    assert.equal((await response.json()).error.code, "resource_exhausted");
  });

  test("a stream that breaks off does so for the client", async () => {
    const { opened, open } = gate();
    define({ script: [{ hold: opened, after: 3, cut: true }] });
    const response = await worker.ask("/v1/chat/completions", { ...body, stream: true });
    const text = reading(response);
    await text.until("\n\n");
    open();
    await text.end().catch(() => {});
    assert.ok(!text.soFar().includes("[DONE]"));
  });
});

describe("the token", () => {
  test(
    "is in no answer, no header and no line of the log, whatever the upstream says",
    { timeout: 60_000 },
    async () => {
      const echo = `{"choices":[],"note":"${TOKEN}"}`;
      const scripts = [
        ...Object.keys(faults).filter((name) => name !== "429-long"),
        { events: [echo, "[DONE]"] },
        { events: [echo, echo], pieces: 1 },
        { events: [echo], pieces: 7 },
        { events: [TOKEN.slice(0, 9) + TOKEN, TOKEN.slice(0, 8)], pieces: 3 },
        {
          status: 200,
          body: JSON.stringify({ echo: TOKEN }),
          headers: { "Content-Type": "application/json", "x-request-id": TOKEN, "set-cookie": TOKEN },
        },
        {
          status: 400,
          body: JSON.stringify({ error: TOKEN }),
          headers: { "Content-Type": "application/json", "Retry-After": TOKEN },
        },
        { status: 302, body: "", headers: { Location: `/?${TOKEN}` } },
      ];
      let seen = "";
      const look = async (stream) => {
        const response = await worker.ask("/v1/chat/completions", { ...body, stream });
        seen += JSON.stringify([...response.headers]) + (await response.text().catch(() => "cut"));
      };
      for (const script of scripts) {
        for (const stream of [true, false]) {
          define({ script: [script] });
          await look(stream);
        }
      }
      define({ token: "another: the double repeats the one it was given" });
      await look(false);
      seen += await (await worker.ask(`/v1/${TOKEN}`)).text();
      assert.match(seen, /Invalid credentials: Bearer \[token\]/);
      assert.ok(seen.includes(TOKEN.slice(0, 8)), "what is only like it passes");
      assert.ok(!seen.includes(TOKEN));
      const written = worker.log();
      assert.match(written, /"path":"\/v1\/chat\/completions","status":200/);
      for (const secret of [TOKEN, KEY]) assert.ok(!written.includes(secret));
    },
  );
});

describe("the cache", () => {
  test("keeps what would come again, once it has come whole", async () => {
    define({ script: ["end-middle", "error-middle"] });
    const ask = async (more, init) => {
      const response = await worker.ask("/v1/chat/completions", { ...body, ...more }, init);
      return [response.headers.get("x-candlewick-cache"), await response.text()];
    };
    const fixed = { seed: 11, stream: true };
    await ask(fixed);
    await ask(fixed);
    assert.equal(log().length, 2, "neither was whole");
    const [miss, first] = await ask(fixed);
    const [hit, second] = await ask({ stream: true, seed: 11, user: "somebody else" });
    assert.deepEqual([miss, hit, second], ["miss", "hit", first]);
    assert.equal(textOf(events(second)), TEXT);
    assert.equal(log().length, 3);
    assert.equal((await ask({ temperature: 0 }))[0], "miss");
    assert.equal((await ask({ temperature: 0 }))[0], "hit");
    assert.equal((await ask({ ...fixed, seed: 12 }))[0], "miss");
    assert.equal((await ask(fixed, { headers: { "Cache-Control": "no-store" } }))[0], null);
    assert.equal((await ask({ temperature: 0.5 }))[0], null);
    assert.equal(log().length, 7);
  });
});
