/** Models by name: the real storage of a real Chromium, and a Hub with faults (tests/hub/server.js). */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { start } from "../hub/server.js";
import { blank, launch, repository, serve, story, storyteller } from "./support.js";

const COMMIT = "0123456789012345678901234567890123456789";
const FILE = join(repository, "www/models/stories260K.gguf");
const MODEL = "owner/repo/story.gguf";
const transfer = { range: 160 << 10, block: 32 << 10, parallel: 3, attempts: 12, longestWaitMs: 4, silenceMs: 3000 };

let browser, server, hub, context, page, worlds = 0;

before(async () => {
  browser = await launch();
  hub = await start();
  server = await serve({
    routes: {
      "/": blank,
      "/no-storage.js": `Object.defineProperty(self, "indexedDB", { value: undefined });`,
      "/no-storage-worker.js": `import "/no-storage.js"; import "/pkg/dist/worker.js";`,
    },
  });
});
after(async () => {
  await browser?.close();
  await server?.close();
  hub?.close();
});
beforeEach(async () => {
  context = await browser.newContext();
  page = await open();
});
afterEach(() => context.close());

async function open() {
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  await page.goto(server.url);
  await page.waitForFunction(() => document.title === "ready");
  return page;
}

/** A Hub of one's own with one model. */
async function world({ repo = {}, ...faults } = {}) {
  const name = `world-${++worlds}`;
  const files = { "story.gguf": { file: FILE } };
  const control = `${hub.hub}/_/${name}`;
  const change = (faults) =>
    fetch(control, {
      method: "PUT",
      body: JSON.stringify({ repos: { "owner/repo": { commit: COMMIT, files, ...repo } }, seed: name, ...faults }),
    });
  await change(faults);
  return {
    options: { hubURL: `${hub.hub}/${name}`, device: "cpu", transfer },
    log: async () => (await (await fetch(control)).json()).log,
    /** The same Hub without faults, its log empty. */
    calm: () => change({}),
  };
}

/** Bytes that were asked for, range by range. */
function asked(log) {
  const ranges = log.filter(({ at }) => at === "cdn").map(({ line }) => /bytes=(\d+)-(\d+)/.exec(line));
  return ranges.reduce((sum, [, first, last]) => sum + Number(last) + 1 - Number(first), 0);
}

/** What a model says; `{ code, message }` where it cannot be loaded. */
const tell = (page, options, model = MODEL) =>
  page.evaluate(
    ([model, options]) =>
      load(model, options).then(
        async (engine) => {
          const { choices } = await engine.completions.create(greedy);
          await engine.unload();
          return choices[0].text;
        },
        ({ code, message }) => ({ code, message }),
      ),
    [model, options],
  );

const list = (page, options) => page.evaluate((options) => models.list(options), options);

describe("a model by name", () => {
  test("comes from the Hub once, and from the storage after that", async () => {
    const { options, log } = await world();
    const progress = await page.evaluate(
      async ([model, options]) => {
        const reports = [];
        const engine = await load(model, { ...options, onProgress: (report) => reports.push(report) });
        await engine.unload();
        return reports;
      },
      [MODEL, options],
    );
    const downloads = progress.filter(({ stage }) => stage === "download");
    assert.deepEqual(downloads.at(-1).loaded, storyteller.length);
    assert.ok(downloads.every(({ total, loaded }) => total === storyteller.length && loaded <= total));
    assert.ok(downloads.at(-1).bytesPerSecond > 0 && downloads.at(-1).etaSeconds === 0, JSON.stringify(downloads.at(-1)));
    const before = await log();
    assert.equal(asked(before), storyteller.length, "every byte once");

    await page.reload();
    await page.waitForFunction(() => document.title === "ready");
    assert.equal((await tell(page, options)).trimEnd(), story);
    assert.equal((await log()).length, before.length, "nobody was asked");

    const [cached, ...others] = await list(page, options);
    assert.deepEqual(others, []);
    assert.deepEqual(
      { ...cached, lastUsed: 0 },
      { model: MODEL, commit: COMMIT, size: storyteller.length, stored: storyteller.length, complete: true, lastUsed: 0 },
    );
    const usage = await page.evaluate(() => models.usage());
    assert.ok(usage.models === storyteller.length && usage.used >= usage.models && usage.quota > usage.used, JSON.stringify(usage));
    assert.deepEqual(await page.evaluate(() => models.verify()), [{ model: MODEL, commit: COMMIT, verdict: "right" }]);
    assert.equal(await page.evaluate(() => models.remove("owner/repo")), storyteller.length);
    assert.deepEqual(await list(page, options), []);
  });

  test("is resumed where its page was killed", async () => {
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const { options, log, calm } = await world();
      await page.evaluate(() => models.remove("owner/repo").catch(() => 0));
      const victim = await open();
      const until = Math.floor((storyteller.length * seed) / 7);
      const reached = new Promise((resolve) => victim.exposeFunction("report", (loaded) => loaded >= until && resolve(loaded)));
      await victim.evaluate(
        ([model, options]) => {
          const tell = ({ stage, loaded }) => stage === "download" && report(loaded);
          load(model, { ...options, onProgress: tell }).catch(() => report(Infinity));
        },
        [MODEL, options],
      );
      const loaded = await reached;
      await victim.close();
      const before = asked(await log());
      assert.ok(before > 0);
      await calm();
      assert.equal((await tell(page, options)).trimEnd(), story, `killed at ${until}`);
      const twice = asked(await log()) - (storyteller.length - loaded);
      assert.ok(twice <= transfer.range, `killed at ${loaded}: ${twice} bytes were fetched twice`);
    }
  });

  test("that is wrong on its server is refused and not kept", async () => {
    const { options, calm } = await world({ rate: 1, kinds: ["flip"] });
    const error = await tell(page, options);
    assert.equal(error.code, "corrupt_model", error.message);
    assert.deepEqual(await list(page, options), []);
    await calm();
    assert.equal((await tell(page, options)).trimEnd(), story);
  });

  // Chromium tells of 10 GB whatever there is, so only what it does when it is full can be tried.
  test("that does not fit says so, and goes on where there is room again", async () => {
    const { options } = await world();
    const session = await context.newCDPSession(page);
    await session.send("Storage.overrideQuotaForOrigin", { origin: server.url, quotaSize: 500_000 });
    const error = await tell(page, options);
    assert.equal(error.code, "quota_exceeded", error.message);
    assert.match(error.message, /story\.gguf does not fit.* \d\.\d MB .*cache: false/);
    assert.ok((await list(page, options)).every(({ complete }) => !complete));
    await session.send("Storage.overrideQuotaForOrigin", { origin: server.url });
    assert.equal((await tell(page, options)).trimEnd(), story);
  });

  test("makes room within a budget for what was not used for longest", async () => {
    const { options } = await world();
    const other = await world({ repo: { commit: COMMIT.replace("0", "1"), files: { "story.gguf": { file: FILE }, "other.gguf": { base64: Buffer.concat([storyteller, Buffer.alloc(32)]).toString("base64") } } } });
    const cacheBudget = storyteller.length + 1000;
    await tell(page, { ...options, cacheBudget });
    assert.equal((await tell(page, { ...other.options, cacheBudget, force: true }, "owner/repo/other.gguf")).trimEnd?.(), story);
    assert.deepEqual((await list(page, options)).map(({ model }) => model), ["owner/repo/other.gguf"]);
    assert.equal((await tell(page, { ...options, cacheBudget: 1000, force: true })).code, "quota_exceeded");
  });

  test("is fetched once by two tabs", async () => {
    const { options, log } = await world();
    const second = await open();
    const told = await Promise.all([tell(page, options), tell(second, options)]);
    assert.deepEqual(told.map((text) => text.trimEnd()), [story, story]);
    assert.equal(asked(await log()), storyteller.length);
  });

  test("is fetched again when its storage was deleted, by force, and without a cache", async () => {
    const { options, log } = await world();
    await tell(page, options);
    await page.evaluate(
      () => new Promise((done, fail) => Object.assign(indexedDB.deleteDatabase("candlewick"), { onsuccess: done, onerror: fail, onblocked: fail })),
    );
    assert.equal((await tell(page, options)).trimEnd(), story);
    assert.equal(asked(await log()), 2 * storyteller.length);
    assert.equal((await tell(page, { ...options, force: true })).trimEnd(), story);
    assert.equal(asked(await log()), 3 * storyteller.length);
    await page.evaluate(() => models.remove("owner/repo"));
    assert.equal((await tell(page, { ...options, cache: false })).trimEnd(), story);
    assert.deepEqual(await list(page, options), []);
  });

  test("is loaded where the browser has no storage", async () => {
    const { options } = await world();
    const warned = page.waitForEvent("console", (message) => message.text().includes("keeps no models"));
    assert.equal((await tell(page, { ...options, workerURL: "/no-storage-worker.js" })).trimEnd(), story);
    await warned;
  });

  test("is kept where the engine has threads", async () => {
    const { options, log } = await world();
    const isolated = await serve({
      routes: { "/": blank },
      headers: { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" },
    });
    await page.goto(isolated.url);
    await page.waitForFunction(() => document.title === "ready");
    assert.ok(await page.evaluate(() => crossOriginIsolated));
    assert.equal((await tell(page, options)).trimEnd?.(), story);
    const before = (await log()).length;
    assert.equal((await tell(page, options)).trimEnd?.(), story);
    assert.equal((await log()).length, before, "nobody was asked");
    assert.ok((await list(page, options))[0].complete);
    await page.close();
    await isolated.close();
  });

  test("leaves its token nowhere", async () => {
    const token = "hf_secretsecretsecret";
    const { options, log } = await world({ repo: { token } });
    assert.equal((await tell(page, options)).code, "model_not_found");
    const refused = await tell(page, { ...options, token: `${token}-wrong` });
    assert.ok(refused.code === "model_not_found" && !refused.message.includes(token), refused.message);
    assert.equal((await tell(page, { ...options, token })).trimEnd(), story);
    for (const { at, line, query, authorization } of await log()) {
      assert.ok(!line.includes(token) && !query?.includes(token));
      assert.ok(at === "hub" || authorization === undefined, "the CDN gets no token");
    }
    const kept = await page.evaluate(async () => {
      const wait = (request) => new Promise((done, fail) => Object.assign(request, { onsuccess: () => done(request.result), onerror: fail }));
      let text = JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]);
      for (const { name } of await indexedDB.databases()) {
        const database = await wait(indexedDB.open(name));
        for (const store of database.objectStoreNames) {
          const files = database.transaction(store).objectStore(store);
          text += JSON.stringify([await wait(files.getAllKeys())]);
          for (const value of await wait(files.getAll())) {
            text += value instanceof Uint8Array ? new TextDecoder("latin1").decode(value) : JSON.stringify(value);
          }
        }
        database.close();
      }
      return text;
    });
    assert.ok(kept.includes("story.gguf"), "the search sees what is kept");
    assert.ok(!kept.includes(token) && !kept.includes("Signature"));
  });
});
