/** Every wrong input, and the code it is answered with. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { blank, hasFiles, launch, openPage, read, serve, storyteller } from "./support.js";

// A Worker that loads anything and crashes at the first request after that.
const crashingWorker = `postMessage({ hello: true }); onmessage = ({ data, ports: [port] }) => {
  if (data.method === "load") port.postMessage({ done: {} });
  else if (data.method) throw new Error("the wick is out");
}`;

// Sends the half of what it promised.
const breakOff = (type) => (_, response) => {
  const wasm = read("pkg/wasm/candlewick_bg.wasm");
  response.writeHead(200, { "content-length": wasm.length, "content-type": type });
  response.write(wasm.subarray(0, wasm.length >> 1), () => response.destroy());
};

// Sends a little, then nothing: a connection that hangs.
function hang(_, response) {
  response.writeHead(200, { "content-length": storyteller.length, "content-type": "application/octet-stream" });
  response.write(storyteller.subarray(0, 1000));
}

// The page's attempt fails, the Worker's does not. It breaks off where browsers do not try again by themselves.
let requests = 0;
function second(_, response) {
  const file = read("pkg/wasm/candlewick_bg.wasm");
  response.writeHead(200, { "content-type": "application/wasm", "content-length": file.length });
  requests++;
  if (requests === 1) return response.write(file.subarray(0, 1000), () => response.destroy());
  response.end(file);
}

let browser, server, session, page;

before(async () => {
  browser = await launch();
  server = await serve({
    routes: {
      "/": blank,
      "/page.gguf": "<!doctype html><title>Sign in</title>",
      "/empty.gguf": "",
      "/hanging.gguf": hang,
      "/forbidden.gguf": (_, response) => response.writeHead(403).end(),
      "/broken.gguf": (_, response) => response.writeHead(500).end(),
      "/crashing-worker.js": crashingWorker,
      "/cut.wasm": breakOff("application/wasm"),
      "/cut.bin": breakOff("application/octet-stream"),
      "/second.wasm": second,
      "/octets.bin": (_, response) => response.end(read("pkg/wasm/candlewick_bg.wasm")),
    },
  });
});
after(async () => {
  await browser?.close();
  await server?.close();
});
beforeEach(async () => {
  session = await openPage(browser, server.url);
  page = session.page;
  await page.waitForFunction(() => document.title === "ready");
});
afterEach(async () => {
  await session.close();
});

/** The error of loading something; `source` runs in the page. */
const loading = async (source, options) =>
  page.evaluate(
    async ([source, options]) => failure(load(await (0, eval)(`(${source})`)(), options)),
    [String(source), options],
  );

/** The error of asking the storyteller something. */
const asking = (body, options = {}) =>
  page.evaluate(
    async ([body, options]) => {
      const engine = await load(story, options);
      return failure(engine.completions.create(body).then(() => "answered"));
    },
    [body, options],
  );

function is(error, code, mention) {
  assert.equal(error.code, code, `${error.message ?? JSON.stringify(error)}`);
  assert.ok(error.typed, "a CandlewickError");
  if (mention) assert.match(error.message, mention);
}

describe("sources", () => {
  for (const [name, source, code, mention, options] of [
    ["a missing file", () => "/nowhere.gguf", "model_not_found", /nowhere\.gguf/],
    ["a forbidden file", () => "/forbidden.gguf", "unauthorized", /forbidden\.gguf/],
    ["a failing server", () => "/broken.gguf", "network", /broken\.gguf/],
    ["no server", () => "http://127.0.0.1:9/model.gguf", "network", /model\.gguf/],
    ["a web page", () => "/page.gguf", "corrupt_model"],
    ["an empty file", () => "/empty.gguf", "corrupt_model"],
    ["an empty Blob", () => new Blob([]), "corrupt_model"],
    [
      "bytes that are elsewhere now",
      () => {
        const bytes = new Uint8Array(100);
        structuredClone(bytes, { transfer: [bytes.buffer] });
        return bytes.buffer;
      },
      "invalid_argument",
    ],
    ["three bytes", () => new Uint8Array([71, 71, 85]), "corrupt_model"],
    ["noise", () => crypto.getRandomValues(new Uint8Array(50000)), "corrupt_model"],
    ["a header cut short", async () => (await (await fetch(story)).blob()).slice(0, 3000), "corrupt_model"],
    ["weights cut short", async () => (await (await fetch(story)).blob()).slice(0, 900000), "corrupt_model"],
    ["no name of a model", () => "a candle", "invalid_argument", /owner\/repo/],
    ["a malformed URL", () => "https://", "invalid_argument"],
    ["nothing", () => undefined, "invalid_argument", /URL/],
    ["an empty string", () => "", "invalid_argument"],
    ["a number", () => 42, "invalid_argument"],
    [
      "a File that is gone",
      async () => {
        const root = await navigator.storage.getDirectory();
        const handle = await root.getFileHandle("gone.gguf", { create: true });
        const writable = await handle.createWritable();
        await writable.write(await (await fetch(story)).blob());
        await writable.close();
        const file = await handle.getFile();
        await root.removeEntry("gone.gguf");
        return file;
      },
      "model_not_found",
      /gone/,
      hasFiles,
    ],
  ]) {
    test(name, options ?? {}, async () => is(await loading(source), code, mention));
  }

  for (const [name, contextLength, code] of [
    ["a context of zero", 0, /invalid_argument/],
    ["a negative context", -1, /invalid_argument/],
    ["a context that is no number", Number.NaN, /invalid_argument/],
    ["half a token of context", 0.5, /invalid_argument/],
    ["a huge context", 1e9, /invalid_argument|resource_exhausted/],
    ["a context without an end that is no maximum", Number.POSITIVE_INFINITY, /invalid_argument/],
    ["another word for a context", "most", /invalid_argument/],
    ["a context of nothing", {}, /invalid_argument/],
    ["a maximum of zero", { max: 0 }, /invalid_argument/],
    ["a maximum that is no number", { max: "all" }, /invalid_argument/],
    ["a maximum that is NaN", { max: Number.NaN }, /invalid_argument/],
    ["a minimum", { max: Number.POSITIVE_INFINITY, min: 10 }, /invalid_argument/],
    ["a list of contexts", [512], /invalid_argument/],
  ]) {
    test(name, async () => {
      const error = await loading(() => story, { contextLength });
      assert.match(error.code, code, error.message);
      assert.match(error.message, /contextLength|context of \d+ tokens/);
      assert.ok(error.typed);
    });
  }

  test("an unknown device", async () =>
    is(await loading(() => story, { device: "abacus" }), "invalid_argument", /abacus|device/));

  test("a load aborted while the server hangs", async () => {
    const error = await page.evaluate(async () => {
      const controller = new AbortController();
      const loading = failure(load("/hanging.gguf", { signal: controller.signal }));
      await sleep(200);
      controller.abort();
      return loading;
    });
    is(error, "aborted");
  });
});

describe("options that a call does not have", () => {
  test("are refused by each call, with those that it has", async () => {
    const errors = await page.evaluate(async () => {
      const calls = {
        "load()": (options) => load(story, options),
        "connect()": (options) => connect({ model: "a/b" }, options),
        "inspect()": (options) => inspect(story, options),
        "models.list()": (options) => models.list(options),
        "models.pull()": (options) => models.pull("a/b", options),
        "models.remove()": (options) => models.remove("a/b", options),
        "models.usage()": (options) => models.usage(options),
        "models.verify()": (options) => models.verify("a/b", options),
        "sessions.list()": (options) => sessions.list(options),
        "sessions.remove()": (options) => sessions.remove("a", options),
      };
      const found = [];
      for (const [name, call] of Object.entries(calls)) {
        found.push([name, await failure(call({ candles: 3 })), await failure(call({ Signal: null }))]);
      }
      return { found, device: await failure(models.list({ device: "cpu" })) };
    });
    for (const [name, unknown, meant] of errors.found) {
      is(unknown, "invalid_argument");
      assert.ok(unknown.message.startsWith(`${name}: there is no option "candles". There are `), unknown.message);
      assert.equal(
        unknown.message.includes("cacheBudget"),
        ["load()", "models.pull()"].includes(name),
        unknown.message,
      );
      assert.match(meant.message, /Did you mean "signal"\?/);
    }
    is(errors.device, "invalid_argument", /models\.list\(\): there is no option "device"/);
  });

  test("models without a name or an address", async () => {
    const errors = await page.evaluate(() => {
      const calls = [
        models.pull(new Blob()),
        models.remove(new Uint8Array(3)),
        models.verify([new File([], "m.gguf")]),
        models.pull(),
        models.pull([]),
        models.remove(""),
      ];
      return Promise.all(calls.map(failure));
    });
    for (const error of errors) is(error, "invalid_argument");
  });
});

describe("addresses that are none", () => {
  for (const name of ["hubURL", "wasmURL", "threadsWasmURL", "workerURL", "remote.baseURL"]) {
    test(name, async () => {
      const options =
        name === "remote.baseURL" ? { remote: { model: "a/b", baseURL: "http://[" } } : { [name]: "http://[" };
      is(await loading(() => story, options), "invalid_argument", new RegExp(name));
    });
  }

  test("questions about models fail later, not at once", async () => {
    const errors = await page.evaluate(() => {
      const options = { hubURL: "http://[" };
      const questions = [
        models.list(options),
        models.usage(options),
        models.pull("a/b", options),
        models.remove("a/b", options),
        models.verify("a/b", options),
        inspect("a/b", options),
      ];
      return Promise.all(questions.map(failure));
    });
    for (const error of errors) is(error, "invalid_argument", /hubURL/);
  });

  test("tasks too", async () => {
    const error = await page.evaluate(async () => {
      const engine = await load(story);
      return failure(engine.tasks.generate("Once", { parameters: { max_length: 10n } }));
    });
    is(error, "invalid_argument", /task/);
  });
});

describe("requests", () => {
  for (const [name, body, code, mention] of [
    ["a negative temperature", { prompt: "", temperature: -1 }, "invalid_argument", /temperature/],
    ["a temperature that is no number", { prompt: "", temperature: "warm" }, "invalid_argument"],
    ["top_p above one", { prompt: "", top_p: 1.5 }, "invalid_argument", /top_p/],
    ["a negative top_k", { prompt: "", top_k: -2 }, "invalid_argument"],
    ["min_p above one", { prompt: "", min_p: 2 }, "invalid_argument", /min_p/],
    ["a repeat penalty of zero", { prompt: "", repeat_penalty: 0 }, "invalid_argument", /repeat_penalty/],
    ["no prompt", {}, "invalid_argument", /prompt/],
    ["token ids outside the vocabulary", { prompt: [1, 99999] }, "invalid_argument", /99999/],
    ["a prompt longer than the context", { prompt: "Once upon a time ".repeat(500) }, "context_length_exceeded"],
  ]) {
    test(name, async () => is(await asking(body), code, mention));
  }

  test("an error in a stream comes from create()", async () => {
    const error = await page.evaluate(async () => {
      const engine = await load(story);
      return failure(engine.completions.create({ prompt: "", temperature: -1, stream: true }).then(() => "answered"));
    });
    is(error, "invalid_argument", /temperature/);
  });

  test("the engine goes on after an error", async () => {
    const text = await page.evaluate(async () => {
      const engine = await load(story);
      await failure(engine.completions.create({ prompt: "", temperature: -1 }));
      return (await engine.completions.create({ ...greedy, max_tokens: 8 })).choices[0].text;
    });
    assert.match(text, /^ Once/);
  });

  test("what cannot be sent to a Worker", async () => {
    const error = await page.evaluate(async () => {
      const engine = await load(story);
      return failure(engine.completions.create({ prompt: "", stop: () => {} }));
    });
    is(error, "invalid_argument");
  });

  test("chat with a model that has no chat template", async () => {
    const error = await page.evaluate(async () => {
      const engine = await load(story);
      return failure(engine.chat.completions.create({ messages: [{ role: "user", content: "Hello" }] }));
    });
    is(error, "invalid_argument", /template/);
  });
});

describe("the engine's own files", () => {
  test("a Worker script that is missing", async () =>
    is(await loading(() => story, { workerURL: "/nowhere.js" }), "network", /worker/i));

  test("a wasm file that is missing", async () =>
    is(await loading(() => story, { wasmURL: "/nowhere.wasm" }), "network", /nowhere\.wasm/));

  for (const file of ["/cut.wasm", "/cut.bin"]) {
    test(`a connection that breaks while ${file} comes`, async () =>
      is(await loading(() => story, { wasmURL: file }), "network", new RegExp(file)));
  }

  test("a page in place of the wasm file", async () =>
    is(await loading(() => story, { wasmURL: "/page.gguf" }), "internal", /page\.gguf/));

  test("a wasm file that the page cannot fetch is fetched by the Worker", async () => {
    requests = 0;
    assert.equal(await page.evaluate(async () => (await load(story, { wasmURL: "/second.wasm" })).info.layers), 5);
    assert.equal(requests, 2);
    // Then it is the page that has it.
    assert.equal(await page.evaluate(async () => (await load(story, { wasmURL: "/second.wasm" })).info.layers), 5);
    assert.equal(requests, 3);
  });

  test("a wasm file with the wrong MIME type works", async () => {
    const layers = await page.evaluate(async () => (await load(story, { wasmURL: "/octets.bin" })).info.layers);
    assert.equal(layers, 5);
  });

  test("a crash fails everything under way, and what comes after", async () => {
    const errors = await page.evaluate(async () => {
      const engine = await load(story, { workerURL: "/crashing-worker.js" });
      const pending = [
        failure(engine.completions.create(greedy)),
        failure(engine.completions.create({ ...greedy, stream: true })),
      ];
      return [...(await Promise.all(pending)), await failure(engine.tokenize("Lily"))];
    });
    for (const error of errors) is(error, "internal", /the wick is out/);
  });
});

describe("Content-Security-Policy", () => {
  const under = async (policy, check) => {
    const strict = await serve({
      routes: { "/": blank.replace('type="module"', 'type="module" nonce="n"') },
      headers: { "content-security-policy": policy },
    });
    const { page, close } = await openPage(browser, strict.url);
    await page.waitForFunction(() => document.title === "ready", undefined, { polling: 50 });
    await check(page);
    await close();
    await strict.close();
  };

  test("'self' and 'wasm-unsafe-eval' suffice", () =>
    under(
      "default-src 'none'; script-src 'self' 'nonce-n' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'",
      async (page) => {
        const text = await page.evaluate(
          async () => (await (await load(story)).completions.create({ ...greedy, max_tokens: 4 })).choices[0].text,
        );
        assert.match(text, /^ Once/);
      },
    ));

  test("without 'wasm-unsafe-eval' the error says so", () =>
    under("default-src 'none'; script-src 'self' 'nonce-n'; worker-src 'self'; connect-src 'self'", async (page) =>
      is(await page.evaluate(() => failure(load(story))), "internal", /wasm-unsafe-eval/),
    ));

  test("without worker-src the error says so", () =>
    under("default-src 'none'; script-src 'self' 'nonce-n'; worker-src 'none'", async (page) =>
      is(await page.evaluate(() => failure(load(story))), "network", /worker-src/),
    ));
});
