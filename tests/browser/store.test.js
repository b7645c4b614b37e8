/** Models by name: the real storage of a real Chromium, and a Hub with faults (tests/hub/server.js). */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { start } from "../hub/server.js";
import { blank, launch, reporting, repository, serve, story, storyteller } from "./support.js";

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
      "/no-blobs.js": `const { put } = IDBObjectStore.prototype;
        IDBObjectStore.prototype.put = function (value, key) {
          if (value instanceof Blob) throw new DOMException("no Blobs here", "DataCloneError");
          return put.call(this, value, key);
        };`,
      "/no-blobs-worker.js": `import "/no-blobs.js"; import "/pkg/dist/worker.js";`,
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
  page.setDefaultTimeout(120_000);
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
      const { reached } = await reporting(victim, (loaded) => loaded >= until);
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
    assert.deepEqual((await list(page, options)).map(({ model }) => model), ["owner/repo/other.gguf"], "nothing goes for what can never fit");
  });

  test("that is removed while it comes leaves nothing", async () => {
    const { options, calm } = await world({ allowance: 100_000 });
    const { reached } = await reporting(page, (loaded) => loaded >= 100_000);
    const pulled = page.evaluate(
      ([model, options]) => failure(models.pull(model, { ...options, onProgress: ({ loaded }) => report(loaded) })),
      [MODEL, options],
    );
    await reached;
    const other = await open();
    assert.ok((await other.evaluate((model) => models.remove(model), MODEL)) > 0);
    await calm();
    const { code, message } = await pulled;
    assert.equal(code, "internal", message);
    assert.match(message, /was removed .* meanwhile\. Load it again/);
    const pieces = await page.evaluate(
      () =>
        new Promise((done) => {
          indexedDB.open("candlewick").onsuccess = ({ target: { result: database } }) => {
            database.transaction("pieces").objectStore("pieces").count().onsuccess = ({ target }) => (database.close(), done(target.result));
          };
        }),
    );
    assert.equal(pieces, 0);
    assert.equal((await tell(page, options)).trimEnd(), story);
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

  test("keeps what is there until a forced download has brought more", async () => {
    const { options, log, calm } = await world();
    await tell(page, options);
    // Another Hub of the same name, on which every byte is wrong.
    const wrong = await world({ rate: 1, kinds: ["flip"] });
    assert.equal((await tell(page, { ...wrong.options, force: true })).code, "corrupt_model");
    const [{ complete, stored }, ...others] = await list(page, options);
    assert.deepEqual([complete, stored, others], [true, storyteller.length, []]);
    await calm();
    assert.equal((await tell(page, options)).trimEnd(), story);
    assert.equal(asked(await log()), 0);
    assert.equal((await tell(page, { ...options, force: true })).trimEnd(), story);
    assert.equal(asked(await log()), storyteller.length);
    assert.equal((await page.evaluate(() => models.usage())).models, storyteller.length);
  });

  test("of several parts is refused before any of it is fetched where they do not fit together", async () => {
    const parts = [1, 2].map((index) => `llama-split-0000${index}-of-00002.gguf`);
    const files = Object.fromEntries(parts.map((name) => [name, { file: join(repository, "tests/fixtures/models", name) }]));
    const sizes = Object.values(files).map(({ file }) => statSync(file).size);
    const { options, log } = await world({ repo: { files } });
    const total = sizes[0] + sizes[1];
    const pull = (cacheBudget) => page.evaluate(([options]) => failure(models.pull("owner/repo", options)), [{ ...options, cacheBudget }]);
    const refused = await pull(total - 1);
    assert.equal(refused.code, "quota_exceeded", refused.message);
    assert.equal(asked(await log()), 0);
    const { value } = await pull(total);
    assert.deepEqual([value.model, value.size, value.complete], [`owner/repo/${parts[0]}`, total, true]);
  });

  test("at a plain address is kept, and its server asked for its version", async () => {
    const own = await start();
    const put = (name, description) =>
      fetch(`${own.hub}/_/${name}`, { method: "PUT", body: JSON.stringify({ repos: { "a/b": { commit: COMMIT, files: { "m.gguf": description } } } }) });
    const log = async () => (await (await fetch(`${own.hub}/_/plain`)).json()).log;
    try {
      await put("plain", { file: FILE });
      const url = `${own.hub}/plain/a/b/resolve/main/m.gguf?key=secretsecret`;
      const options = { device: "cpu", transfer };
      assert.equal((await tell(page, options, url)).trimEnd(), story);
      assert.equal(asked(await log()), storyteller.length + 1);
      assert.equal((await tell(page, options, url)).trimEnd(), story);
      assert.equal(asked(await log()), storyteller.length + 2, "one byte to see what there is");
      const [{ model, complete }] = await list(page);
      assert.deepEqual([model, complete], ["m.gguf", true]);
      assert.deepEqual((await page.evaluate(() => models.verify())).map(({ verdict }) => verdict), ["unknown"]);
      assert.ok((await page.evaluate((url) => inspect(url, { device: "cpu" }), url)).cached.complete);
      // Another version, of another size, takes its place.
      await put("plain", { base64: Buffer.concat([storyteller, Buffer.alloc(32)]).toString("base64") });
      assert.equal((await tell(page, options, url)).trimEnd(), story);
      assert.deepEqual((await list(page)).map(({ size }) => size), [storyteller.length + 32]);
      assert.ok(!(await everything(page)).includes("secretsecret"));
      const refused = await tell(page, options, url.replace("/a/b/", "/a/c/"));
      assert.ok(refused.code && !refused.message.includes("secretsecret"), refused.message);
      own.close();
      assert.equal((await tell(page, options, url)).trimEnd(), story, "without its server");
      assert.equal(await page.evaluate((url) => models.remove(url), url), storyteller.length + 32);
    } finally {
      own.close();
    }
  });

  test("is loaded where the browser has no storage", async () => {
    const { options } = await world();
    const warned = page.waitForEvent("console", (message) => message.text().includes("keeps no models"));
    assert.equal((await tell(page, { ...options, workerURL: "/no-storage-worker.js" })).trimEnd(), story);
    await warned;
  });

  test("is kept where the browser stores no Blobs", async () => {
    const { options, log } = await world();
    const workerURL = "/no-blobs-worker.js";
    assert.equal((await tell(page, { ...options, workerURL })).trimEnd(), story);
    for (const more of [{ workerURL }, {}]) assert.equal((await tell(page, { ...options, ...more })).trimEnd(), story);
    assert.equal(asked(await log()), storyteller.length);
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
    const heard = [];
    context.on("request", (request) => heard.push(request.url()));
    context.on("console", (message) => heard.push(message.text()));
    await page.evaluate(() => console.log("a word"));
    assert.equal((await tell(page, options)).code, "model_not_found");
    const refused = await tell(page, { ...options, token: `${token}-wrong` });
    assert.ok(refused.code === "model_not_found" && !refused.message.includes(token), refused.message);
    assert.equal((await tell(page, { ...options, token })).trimEnd(), story);
    assert.equal((await page.evaluate((options) => inspect("owner/repo", options), { ...options, token })).name, "stories260K");
    for (const { at, line, query, authorization } of await log()) {
      assert.ok(!line.includes(token) && !query?.includes(token));
      assert.ok(at === "hub" || authorization === undefined, "the CDN gets no token");
    }
    const text = await everything(page);
    for (const part of ["story.gguf", "owner/repo", COMMIT, "stories260K"]) assert.ok(text.includes(part), `the search sees ${part}`);
    assert.ok(heard.some((text) => text.includes("/resolve/")) && heard.includes("a word"), "and what was asked and said");
    for (const text of [await everything(page), ...heard]) assert.ok(!text.includes(token));
    assert.ok(!text.includes("Signature"));
  });
});

/** All that a page's origin has kept, as text: every key and value of every database, caches, files, and the rest. */
async function everything(page) {
  const cookies = JSON.stringify(await page.context().cookies());
  return cookies + (await page.evaluate(async () => {
    const wait = (request) => new Promise((done, fail) => Object.assign(request, { onsuccess: () => done(request.result), onerror: fail }));
    const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);
    const parts = [JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href, name, history.state])];
    const add = async (value) => {
      if (value instanceof Blob) parts.push(latin1(await value.arrayBuffer()));
      else if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) parts.push(latin1(value));
      else if (value && typeof value === "object") for (const [key, inner] of Object.entries(value)) parts.push(key), await add(inner);
      else parts.push(String(value));
    };
    for (const { name } of await indexedDB.databases()) {
      const database = await wait(indexedDB.open(name));
      for (const store of database.objectStoreNames) {
        const records = database.transaction(store).objectStore(store);
        const [keys, values] = await Promise.all([wait(records.getAllKeys()), wait(records.getAll())]);
        await add([name, store, keys, values]);
      }
      database.close();
    }
    for (const name of await caches.keys()) {
      const cache = await caches.open(name);
      for (const request of await cache.keys()) {
        const response = await cache.match(request);
        await add([name, request.url, [...request.headers], [...response.headers], await response.blob()]);
      }
    }
    const files = async (folder) => {
      for await (const [name, handle] of folder.entries()) {
        parts.push(name);
        if (handle.kind === "directory") await files(handle);
        else await add(await handle.getFile());
      }
    };
    await files(await navigator.storage.getDirectory());
    return parts.join("\n");
  }));
}
