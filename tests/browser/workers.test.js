/** How long Workers live: with engines, without, and those that several calls share. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { start } from "../hub/server.js";
import { blank, isolation, launch, repository, serve, story } from "./support.js";

const transfer = { range: 32 << 10, block: 16 << 10, parallel: 1, attempts: 2, longestWaitMs: 4, silenceMs: 60_000 };
const repos = {
  "owner/repo": {
    commit: "0123456789012345678901234567890123456789",
    files: { "story.gguf": { file: `${repository}/www/models/stories260K.gguf` } },
  },
};

let browser,
  server,
  hub,
  context,
  page,
  worlds = 0;
before(async () => {
  browser = await launch(["--js-flags=--expose-gc"]);
  hub = await start();
  server = await serve({
    routes: { "/": blank, "/trap.js": `import "/set-trap.js"; import "/pkg/dist/worker.js";`, "/set-trap.js": trap },
    headers: isolation,
  });
});
after(async () => {
  await browser?.close();
  await server?.close();
  hub?.close();
});
beforeEach(async () => {
  context = await browser.newContext();
  page = await context.newPage();
  page.setDefaultTimeout(120_000);
  await page.goto(server.url);
  await page.waitForFunction(() => document.title === "ready");
});
afterEach(() => context.close());

// A call of this name ends its Worker.
const trap = `addEventListener("message", ({ data }) => { if (data.model === "owner/trap") throw new Error("trapped"); });`;

/** A Hub of one's own. */
async function world(faults = {}) {
  const name = `workers-${++worlds}`;
  await fetch(`${hub.hub}/_/${name}`, { method: "PUT", body: JSON.stringify({ repos, seed: name, ...faults }) });
  return {
    options: { hubURL: `${hub.hub}/${name}`, transfer },
    log: async () => (await (await fetch(`${hub.hub}/_/${name}`)).json()).log,
  };
}

/** What the garbage collector finds takes some turns. */
async function collected() {
  while (page.workers().length > 0) {
    await page.evaluate(async () => {
      await new Promise((next) => setTimeout(next, 10));
      gc();
    });
  }
}

describe("an engine that nobody has any more", () => {
  for (const threads of [1, 3]) {
    test(`ends its Workers: ${threads}`, async () => {
      await page.evaluate(async (threads) => {
        const engine = await load(story, { threads, onProgress() {} });
        await engine.completions.create({ ...greedy, max_tokens: 5 });
        for await (const _ of await engine.completions.create({ ...greedy, max_tokens: 5, stream: true }));
      }, threads);
      await collected();
    });
  }

  test("lives as long as a part of it, or an answer, is in use", async () => {
    const texts = await page.evaluate(async () => {
      const settle = async () => {
        for (let turn = 0; turn < 20; turn++) await sleep(10).then(() => gc());
      };
      const { completions } = await load(story);
      await settle();
      const whole = await completions.create(greedy);
      const stream = await (await load(story)).completions.create({ ...greedy, stream: true });
      await settle();
      const { embeddings, tasks } = await load(story);
      await settle();
      const failures = [await failure(embeddings.create({ input: "x" })), await failure(tasks.summarize("x"))];
      return {
        whole: whole.choices[0].text,
        streamed: text(await collect(stream)),
        codes: failures.map(({ code }) => code),
      };
    });
    assert.equal(texts.whole, story);
    assert.equal(texts.streamed, story);
    assert.ok(!texts.codes.includes("internal"), texts.codes.join());
  });
});

describe("calls without an engine", () => {
  test("share one Worker", async () => {
    const { options } = await world();
    const started = [];
    page.on("worker", (worker) => started.push(worker));
    await page.evaluate(async (options) => {
      await Promise.all([models.list(options), models.usage(options), models.list(options)]);
      await models.pull("owner/repo", options);
      await models.verify("owner/repo/story.gguf", options);
      await models.remove("owner/repo/story.gguf", options);
    }, options);
    assert.equal(started.length, 1);
    // Another one where threads may be of use.
    await page.evaluate((options) => Promise.all([inspect(story, options), inspect("owner/repo", options)]), {
      device: "cpu",
      threads: 1,
      ...options,
    });
    assert.equal(started.length, 2);
    await page.evaluate((workerURL) => models.list({ workerURL }), `${server.url}/pkg/dist/worker.js`);
    assert.equal(started.length, 3, "another script is another Worker");
  });

  test("let go of it when they are over", async () => {
    await page.evaluate(() => models.list());
    assert.equal(page.workers().length, 1);
    while (page.workers().length > 0) await page.waitForTimeout(100);
  });

  test("go on in another one when it has crashed", async () => {
    const result = await page.evaluate(async () => {
      const options = { workerURL: "/trap.js" };
      const [pulled, listed] = await Promise.all([
        failure(models.pull("owner/trap", options)),
        failure(models.list(options)),
      ]);
      return [pulled.code, listed.code, (await models.list(options)).length];
    });
    assert.equal(result[0], "internal");
    assert.equal(result[2], 0);
  });

  test("that are aborted end, with their transfers, and others go on", async () => {
    const { options, log } = await world();
    const result = await page.evaluate(async (options) => {
      const abort = new AbortController();
      const pulling = failure(
        models.pull("owner/repo", { ...options, signal: abort.signal, onProgress: () => abort.abort("enough") }),
      );
      const listing = models.list(options);
      return { pulled: await pulling, listed: (await listing).length, later: await models.list(options) };
    }, options);
    assert.equal(result.pulled.code, "aborted");
    assert.ok(result.later.every(({ complete }) => !complete));
    const asked = (await log()).length;
    await page.waitForTimeout(1500);
    assert.ok((await log()).length <= asked + 1, "it goes on fetching");
    assert.equal(page.workers().length, 1);
  });
});

describe("a reason to abort", () => {
  test("is the error's cause, whatever was aborted", async () => {
    const seen = await page.evaluate(async () => {
      const reason = new TypeError("lunch");
      const signal = () => AbortSignal.abort(reason);
      const soon = () => {
        const abort = new AbortController();
        setTimeout(() => abort.abort(reason), 5);
        return abort.signal;
      };
      const engine = await load(story);
      const endless = { ...greedy, max_tokens: 100_000, ignore_eos: true };
      const reading = async (signal) => {
        for await (const _ of await engine.completions.create({ ...endless, stream: true }, { signal }));
      };
      const calls = {
        load: load(story, { signal: signal() }),
        loading: load(story, { signal: soon() }),
        whole: engine.completions.create(endless, { signal: soon() }),
        stream: reading(soon()),
        before: engine.tokenize("x", { signal: signal() }),
        list: models.list({ signal: signal() }),
        inspect: inspect(story, { signal: signal() }),
      };
      const entries = Object.entries(calls).map(async ([name, call]) => {
        const error = await call.then(
          () => undefined,
          (error) => error,
        );
        return [name, [error?.code, error?.name, error?.cause === reason, error?.message]];
      });
      return Object.fromEntries(await Promise.all(entries));
    });
    for (const [name, found] of Object.entries(seen)) {
      assert.deepEqual(found, ["aborted", "AbortError", true, "The request was aborted: lunch"], name);
    }
  });

  test("of a time limit says so", async () => {
    const error = await page.evaluate(async () => {
      const engine = await load(story);
      const endless = { ...greedy, max_tokens: 100_000, ignore_eos: true };
      return engine.completions
        .create(endless, { signal: AbortSignal.timeout(50) })
        .catch(({ code, message, cause }) => ({ code, message, cause: cause.name }));
    });
    assert.deepEqual([error.code, error.cause], ["aborted", "TimeoutError"]);
    assert.match(error.message, /aborted: .*timed out/i);
  });
});

describe("storage that is cleared while a model loads", () => {
  for (const when of [0, 0.2, 0.5, 0.8, 1]) {
    test(`gives a typed error, or the model: after ${100 * when} % of it`, async () => {
      const { options } = await world();
      const session = await context.newCDPSession(page);
      let cleared = false;
      await page.exposeFunction("clear", async (progress) => {
        if (progress < when || cleared) return;
        cleared = true;
        await session.send("Storage.clearDataForOrigin", { origin: server.url, storageTypes: "all" });
      });
      const told = await page.evaluate(
        (options) =>
          load("owner/repo", {
            ...options,
            device: "cpu",
            onProgress: ({ loaded, total }) => clear(loaded / total),
          }).then(
            async (engine) => (await engine.completions.create(greedy)).choices[0].text,
            ({ name, code, message }) => ({ name, code, message }),
          ),
        options,
      );
      assert.ok(cleared);
      if (typeof told === "string") return assert.equal(told, story);
      assert.equal(told.name, "CandlewickError");
      assert.doesNotMatch(told.message, /UnknownError|InvalidState|Abort|crashed/);
    });
  }
});
