/** The engine with threads, in pages that are cross-origin isolated, and what it does where they are not. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { blank, browserName, isolation, launch, only, openPage, read, serve, story } from "./support.js";

// What the browser can do, and so the file that runs in an isolated page, and why. WebKit has no relaxed SIMD; Firefox
// before 145 has neither that nor Atomics.waitAsync, without which there are no threads.
let relaxed, waits, wasm, wasmReason;

// The engine's Worker as it is; but what it starts as a helper fails at once.
const helplessWorker = {
  "/helpless.js": `import "/fail.js"; import "/pkg/dist/worker.js";`,
  "/fail.js": `addEventListener("message", (event) => {
    if (!("work" in event.data)) return;
    event.stopImmediatePropagation();
    throw new Error("no help");
  });`,
};

// The engine's Worker as it is; but something never happens, or never ends.
const withFirst = (script) => `import "${script}"; import "/pkg/dist/worker.js";`;
const hangingWorkers = {
  "/silent.js": withFirst("/say-nothing.js"),
  "/say-nothing.js": `addEventListener("message", (event) => "work" in event.data && event.stopImmediatePropagation());`,
  "/stuck.js": withFirst("/get-stuck.js"),
  "/get-stuck.js": `addEventListener("message", ({ data }) => { if ("reason" in data && data.file !== "single") for (;;); });`,
  "/deaf.js": withFirst("/hear-nothing.js"),
  "/hear-nothing.js": `addEventListener("message", (event) => "reason" in event.data && event.data.file !== "single" && event.stopImmediatePropagation());`,
  "/childless.js": withFirst("/have-no-children.js"),
  "/have-no-children.js": `self.Worker = class { constructor() { throw new Error("a Worker in a Worker"); } };`,
};

// The engine without the package around it. Its helpers are the page's, as they are the package's: in Firefox, a Worker
// that starts another one hangs in that now and then.
const logitsWorker = (wasm) => `
  import init, { Engine, Stopper, useHelpers } from "/pkg/wasm/${wasm.replace("wasm", "js")}";
  import { help } from "/pkg/dist/helpers.js";
  const asked = [];
  onmessage = async ({ data }) => {
    if ("work" in data) return help(data);
    if ("outcome" in data) return asked[data.id](data.outcome);
    const module = await WebAssembly.compileStreaming(fetch("/pkg/wasm/${wasm.replace(".", "_bg.")}"));
    const { memory } = await init({ module_or_path: module });
    useHelpers(async (work, crashed) => {
      const outcome = new Promise((resolve) => asked.push(resolve));
      postMessage({ id: asked.length - 1, task: { file: "${wasm.includes("plain") ? "plain" : "threaded"}", module, memory, work, crashed } });
      return (await outcome) === "runs";
    });
    const file = new Uint8Array(await (await fetch(data.url)).arrayBuffer());
    const answer = [];
    for (const threads of data.threads) {
      const engine = await Engine.load(new Stopper(), [file], { device: "cpu", threads }, () => {});
      const logits = await engine.logits(data.tokens);
      answer.push({ threads: engine.info().threads, bits: new Uint32Array(logits.buffer, logits.byteOffset, logits.length) });
      engine.free();
    }
    postMessage({ answer });
  };
  addEventListener("unhandledrejection", ({ reason }) => postMessage({ failure: String(reason) }));
  postMessage({ listens: true });
`;

let browser, isolated, plain;
before(async () => {
  browser = await launch();
  const logits = {
    "/threaded.js": logitsWorker("candlewick-threads.wasm"),
    "/plain.js": logitsWorker("candlewick-threads-plain.wasm"),
  };
  isolated = await serve({
    routes: { "/": blank, "/broken.wasm": "no wasm", ...logits, ...helplessWorker, ...hangingWorkers },
    headers: isolation,
  });
  relaxed = await inPage(isolated.url, () =>
    WebAssembly.compileStreaming(fetch("/pkg/wasm/candlewick-threads_bg.wasm")).then(
      () => true,
      () => false,
    ),
  );
  waits = await inPage(isolated.url, () => "waitAsync" in Atomics);
  if (browserName === "chromium") assert.ok(relaxed && waits);
  wasm = relaxed ? "candlewick-threads.wasm" : "candlewick-threads-plain.wasm";
  wasmReason = relaxed ? "threads and relaxed SIMD" : "threads; this browser has no relaxed SIMD";
  // As the package's README has it.
  const [serviceWorker, registration] = [
    ...read("pkg/README.md")
      .toString()
      .matchAll(/```js\n(\/\/ isolat[^]*?)```/g),
  ].map(([, code]) => code);
  const trick = blank.replace("<script", () => `<script type="module">${registration}</script><script`);
  plain = await serve({ routes: { "/": blank, "/isolate.js": serviceWorker, "/trick": trick } });
});
after(async () => {
  await browser?.close();
  await isolated?.close();
  await plain?.close();
});

/** Runs `work` in a page of its own at `url`. */
async function inPage(url, work, argument) {
  const { page, errors, close } = await openPage(browser, url);
  try {
    await page.waitForFunction(() => document.title === "ready");
    const result = await page.evaluate(work, argument);
    assert.deepEqual(errors, [], "uncaught errors in the page");
    return result;
  } finally {
    await close();
  }
}

/** Loads the storyteller and lets it tell its story. */
const tell = async (options) => {
  const engine = await load(story, options);
  const { choices } = await engine.completions.create(greedy);
  const { threads, wasm, wasmReason, device } = engine.info;
  await engine.unload();
  return { text: choices[0].text, threads, wasm, wasmReason, device };
};

/** A test of threads. */
const threaded = (name, ...rest) => {
  const work = rest.pop();
  test(name, ...rest, (context) => (waits ? work(context) : context.skip("this browser has no Atomics.waitAsync")));
};

describe("in a cross-origin isolated page", () => {
  test("a browser that cannot wait for other threads has none", async (context) => {
    if (waits) return context.skip("this one can");
    const told = await inPage(isolated.url, tell, { threads: 2 });
    const alone = { threads: 1, wasm: "candlewick.wasm", wasmReason: "this browser has no Atomics.waitAsync" };
    assert.deepEqual(told, { text: story, device: "cpu", ...alone });
  });

  for (const threads of [1, 2, 5]) {
    threaded(`${threads} threads tell the published story`, async () => {
      const told = await inPage(isolated.url, tell, { threads });
      assert.deepEqual(told, { text: story, threads, wasm, wasmReason, device: "cpu" });
    });
  }

  threaded("as many threads as are the fastest tell it too", async () => {
    const told = await inPage(isolated.url, tell, {});
    assert.equal(told.text, story);
    assert.equal(told.wasm, wasm);
    assert.ok(told.threads >= 1, `${told.threads} threads`);
  });

  for (const file of ["quant-q4_0", "quant-q8_0", "quant-q4_k", "quant-q6_k", "quant-f16", "gemma3", "phi3-swa"]) {
    threaded(`logits are the same to the bit: ${file}`, async () => {
      const result = await inPage(
        isolated.url,
        async ({ file, script }) => {
          const { Crew } = await import("/pkg/dist/crew.js");
          const crew = new Crew(script);
          const worker = new Worker(script, { type: "module" });
          const tokens = Uint32Array.from({ length: 100 }, (_, index) => (index * 7) % 256);
          const answer = await new Promise((resolve, reject) => {
            worker.onmessage = async ({ data }) => {
              if ("listens" in data)
                worker.postMessage({ url: `/tests/fixtures/models/${file}.gguf`, tokens, threads: [1, 2, 4] });
              else if ("task" in data) worker.postMessage({ id: data.id, outcome: await crew.start(data.task) });
              else if ("failure" in data) reject(new Error(data.failure));
              else resolve(data.answer);
            };
            worker.onerror = ({ message }) => reject(new Error(message));
          });
          crew.end();
          worker.terminate();
          const [{ bits: alone }] = answer;
          const same = ({ bits }) => bits.length === alone.length && bits.every((word, index) => word === alone[index]);
          return { length: alone.length, threads: answer.map(({ threads }) => threads), same: answer.map(same) };
        },
        { file, script: relaxed ? "/threaded.js" : "/plain.js" },
      );
      assert.ok(result.length >= 100 * 256, `${result.length} logits`);
      assert.deepEqual(result.threads, [1, 2, 4]);
      assert.deepEqual(result.same, [true, true, true]);
    });
  }

  test("threads do not change what a seed gives", async () => {
    const texts = await inPage(isolated.url, async () => {
      const prompt = Array.from({ length: 200 }, (_, index) => 10 + ((index * 37) % 400));
      const texts = [];
      for (const threads of [1, 2, 3]) {
        const engine = await load(story, { threads });
        const request = { prompt, temperature: 1.5, top_k: 0, seed: 7, max_tokens: 200, ignore_eos: true };
        texts.push((await engine.completions.create(request)).choices[0].text);
        await engine.unload();
      }
      return texts;
    });
    assert.notEqual(texts[0], "");
    assert.deepEqual(texts, [texts[0], texts[0], texts[0]]);
  });

  test("an aborted answer leaves the engine ready for the next", async () => {
    const result = await inPage(isolated.url, async () => {
      const engine = await load(story, { threads: 3 });
      const errors = [];
      for (const stopAfter of [1, 2, 7]) {
        const abort = new AbortController();
        const stream = await engine.completions.create({ ...greedy, stream: true }, { signal: abort.signal });
        let count = 0;
        const reading = async () => {
          for await (const _ of stream) if (++count === stopAfter) abort.abort();
        };
        errors.push((await failure(reading())).code);
      }
      return { errors, text: (await engine.completions.create(greedy)).choices[0].text };
    });
    assert.deepEqual(result, { errors: ["aborted", "aborted", "aborted"], text: story });
  });

  threaded("unloading ends every Worker", only(["chromium"], "its driver does not tell of Workers"), async () => {
    const { page, close } = await openPage(browser, isolated.url);
    const session = await browser.newBrowserCDPSession();
    const workers = async () => {
      const { targetInfos } = await session.send("Target.getTargets", { filter: [{ type: "worker" }] });
      return targetInfos.length;
    };
    // Those of the tests before may still be ending.
    await until(async () => (await workers()) === 0);
    await page.waitForFunction(() => document.title === "ready");
    await page.evaluate(async () => {
      window.engine = await load(story, { threads: 4 });
      await window.engine.completions.create(greedy);
    });
    assert.equal(await workers(), 4);
    await page.evaluate(() => window.engine.unload());
    await until(async () => (await workers()) === 0);
    await close();
  });

  threaded(
    "a page that is closed ends them too, in the middle of an answer",
    only(["chromium"], "its driver does not tell of Workers"),
    async () => {
      const { page, close } = await openPage(browser, isolated.url);
      const session = await browser.newBrowserCDPSession();
      const workers = async () =>
        (await session.send("Target.getTargets", { filter: [{ type: "worker" }] })).targetInfos.length;
      await page.waitForFunction(() => document.title === "ready");
      await page.evaluate(async () => {
        const engine = await load(story, { threads: 4 });
        const stream = await engine.completions.create({ ...greedy, stream: true });
        for await (const _ of stream) break;
      });
      await close();
      await until(async () => (await workers()) === 0);
    },
  );

  threaded("where the file with threads is broken, the other one runs", async () => {
    const told = await inPage(isolated.url, tell, {
      threadsWasmURL: "/broken.wasm",
      threadsPlainWasmURL: "/broken.wasm",
      wasmURL: "/pkg/wasm/candlewick_bg.wasm",
    });
    assert.equal(told.text, story);
    assert.equal(told.wasm, "candlewick.wasm");
    assert.match(told.wasmReason, /could not be started/);
    assert.equal(told.threads, 1);
  });

  threaded("where helpers cannot start, the engine works alone", async () => {
    const told = await inPage(isolated.url, tell, { threads: 4, workerURL: "/helpless.js" });
    assert.deepEqual({ ...told, wasmReason: "" }, { text: story, threads: 1, wasm, wasmReason: "", device: "cpu" });
  });

  // In Firefox, a Worker that starts another one hangs in that now and then.
  threaded("the page starts the helpers", async () => {
    const told = await inPage(isolated.url, tell, { threads: 3, workerURL: "/childless.js" });
    assert.deepEqual([told.text, told.threads], [story, 3]);
  });

  threaded("where helpers do not answer, the engine works alone", async () => {
    const told = await inPage(isolated.url, tell, { threads: 3, workerURL: "/silent.js" });
    assert.deepEqual([told.text, told.threads, told.wasm], [story, 1, wasm]);
    assert.match(told.wasmReason, /2 of its helpers did not come up/);
  });

  const plain = { threadsPlainWasmURL: "/pkg/wasm/candlewick-threads-plain_bg.wasm" };
  const files = { threadsWasmURL: "/pkg/wasm/candlewick-threads_bg.wasm", wasmURL: "/pkg/wasm/candlewick_bg.wasm" };
  for (const worker of ["/stuck.js", "/deaf.js"]) {
    threaded(`where it does not start with threads, it starts without: ${worker}`, async () => {
      const told = await inPage(isolated.url, tell, { threads: 3, workerURL: worker, ...files, ...plain });
      assert.deepEqual([told.text, told.threads, told.wasm], [story, 1, "candlewick.wasm"]);
      assert.match(told.wasmReason, /^candlewick-threads.*\.wasm was given up: it did not start within/);
    });
  }

  threaded("a browser without relaxed SIMD has threads, too", async () => {
    const told = await inPage(
      isolated.url,
      async (tell) => {
        const { validate } = WebAssembly;
        WebAssembly.validate = (bytes) => bytes.length > 64 && validate(bytes);
        return (0, eval)(tell)({ threads: 2 });
      },
      String(tell),
    );
    assert.deepEqual([told.text, told.threads, told.wasm], [story, 2, "candlewick-threads-plain.wasm"]);
    assert.equal(told.wasmReason, "threads; this browser has no relaxed SIMD");
  });

  threaded("which files were given decides, too", async (context) => {
    if (!relaxed) return context.skip("this browser has no relaxed SIMD");
    const { wasmURL } = files;
    const ran = [];
    for (const options of [{ wasmURL }, { wasmURL, ...plain }, { ...files, ...plain }]) {
      const { text, wasm, wasmReason } = await inPage(isolated.url, tell, { threads: 2, ...options });
      assert.equal(text, story);
      ran.push(`${wasm}: ${wasmReason}`);
    }
    assert.deepEqual(ran, [
      "candlewick.wasm: wasmURL was given without threadsWasmURL",
      "candlewick-threads-plain.wasm: threads; threadsWasmURL was not given",
      "candlewick-threads.wasm: threads and relaxed SIMD",
    ]);
  });

  test("a number of threads that makes no sense", async () => {
    const codes = await inPage(isolated.url, async () => {
      const failures = [0, 65, -1, 1.5, "two"].map((threads) => failure(load(story, { threads })));
      return (await Promise.all(failures)).map(({ code }) => code);
    });
    assert.deepEqual(codes, Array(5).fill("invalid_argument"));
  });
});

describe("in any other page", () => {
  test("the engine works alone", async () => {
    const told = await inPage(plain.url, tell, { threads: 2 });
    const wasmReason = "the page is not cross-origin isolated";
    assert.deepEqual(told, { text: story, threads: 1, wasm: "candlewick.wasm", wasmReason, device: "cpu" });
  });

  threaded(
    "a service worker can isolate the page, as the package's README has it",
    only(["chromium", "firefox"], "its driver loses a page that reloads itself"),
    async () => {
      const { page, close } = await openPage(browser, `${plain.url}/trick`);
      await page.waitForFunction(() => crossOriginIsolated && document.title === "ready");
      const told = await page.evaluate(tell, { threads: 2 });
      assert.equal(told.text, story);
      assert.equal(told.threads, 2);
      await close();
    },
  );
});

async function until(condition) {
  while (!(await condition())) await new Promise((next) => setImmediate(next));
}
