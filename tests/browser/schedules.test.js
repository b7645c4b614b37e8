/**
 * Downloads in real browsers over a network that fails, and pages that die: the vocabulary of faults is the server's
 * (tests/hub/server.js), the model of what may come of them that of tests/hub/schedules.rs. Each schedule ends in the
 * exact bytes or an error of a known kind; whatever happened, the storage is sound, and a calm server makes it whole.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { bytes, CDN_FAULTS, start } from "../hub/server.js";
import { blank, browserName, hasFiles, launch, launchOnDisk, only, reporting, serve } from "./support.js";

const COMMIT = "0123456789012345678901234567890123456789";
/** `CANDLEWICK_SCHEDULES=10` runs ten times as many, others among them. tests/hub/schedules.rs runs thousands natively. */
const TIMES = Number(process.env.CANDLEWICK_SCHEDULES ?? 1);
const SCHEDULES = TIMES * (browserName === "chromium" ? 96 : 32);
/** And so many where bytes have to be kept in the database. */
const IN_DATABASE = TIMES * (browserName === "chromium" ? 24 : 12);
const SIZE = 300_003;
/** What is committed at a time, what is asked for at a time, and how many of those at once. */
const [BLOCK, RANGE, PARALLEL] = [16 << 10, 48 << 10, 3];
const FAULTS = CDN_FAULTS.filter((kind) => kind !== "nonsense");
const KNOWN = ["network", "rate_limited", "corrupt_model"];

/** Silence that ends an attempt is short while servers stall on purpose, and of no account otherwise. */
const transfer = (silenceMs, attempts = 8) => ({
  range: RANGE,
  block: BLOCK,
  parallel: PARALLEL,
  attempts,
  longestWaitMs: 4,
  silenceMs,
});
const CALM = transfer(60_000);

let browser, context, hub, server;

before(async () => {
  browser = await launch();
  context = await browser.newContext();
  hub = await start();
  const script = (_, response) => response.setHeader("content-type", "text/javascript").end(engine);
  server = await serve({ routes: { "/": blank, "/look": look, "/schedules": schedules, "/engine": script } });
});
after(async () => {
  await browser?.close();
  await server?.close();
  hub?.close();
});

async function open(path = "/", within = context) {
  const page = await within.newPage();
  page.setDefaultTimeout(120_000);
  // A trap leaves promises that nobody settles: the page goes, and its test with it.
  page.on("pageerror", (error) => {
    console.error(error.stack);
    page.close();
  });
  await page.goto(server.url + path);
  await page.waitForFunction((title) => document.title === title, path.startsWith("/schedules") ? "running" : "ready");
  return page;
}

/** Ends a page's process, as a crash of the renderer does. */
async function crash(page) {
  const session = await context.newCDPSession(page);
  const crashed = page.waitForEvent("crash");
  // Nobody is left to answer.
  session.send("Page.crash").catch(() => {});
  await crashed;
}

/** Makes a Hub of one's own, or another of the same name; gives what to call it by. */
async function world(name, repo, description) {
  const { size, seed, ...faults } = description;
  const repos = { [repo]: { commit: COMMIT, files: { "m.gguf": { size, seed } } } };
  await fetch(`${hub.hub}/_/${name}`, { method: "PUT", body: JSON.stringify({ repos, ...faults }) });
  return `${hub.hub}/${name}`;
}

const state = async (name) => (await fetch(`${hub.hub}/_/${name}`)).json();

/** Bytes that a Hub's files were asked for, range by range. */
async function asked(name) {
  const ranges = (await state(name)).log
    .filter(({ at }) => at === "cdn")
    .map(({ line }) => /bytes=(\d+)-(\d+)/.exec(line));
  return ranges.reduce((sum, [, first, last]) => sum + Number(last) + 1 - Number(first), 0);
}

const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** The numbers of a schedule, all from its seed. */
function draws(seed) {
  let at = 0;
  const below = (limit) => createHash("sha256").update(`${seed} ${at++}`).digest().readUInt32LE(0) % limit;
  const kinds = [...new Set(Array.from({ length: 1 + below(4) }, () => FAULTS[below(FAULTS.length)]))];
  // Nothing would end in time where every second request hangs.
  const most = kinds.includes("stall") ? 8 : 65;
  return { seed, kinds, rate: Math.min(5 + below(60), most) / 100, signatures: [undefined, 2, 5][below(3)] };
}

/** A page that looks at what is stored. */
const look = `<!doctype html><script type="module">
  const wait = (request) => new Promise((done, fail) => Object.assign(request, { onsuccess: () => done(request.result), onerror: () => fail(request.error) }));

  const contentOf = (repo, etag) => [repo.replace("/", "@"), etag].join("@");

  /** The bytes of pieces whose ids end so are in a file of their content's name, at the place that they have in that. */
  async function inFile([repo, etag, start, end]) {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("candlewick");
    const handle = await folder.getFileHandle(contentOf(repo, etag));
    return (await handle.getFile()).slice(start, end);
  }

  /** What is there: the file's record, and each piece with its hash. */
  async function stored(repo) {
    // Opening it would make it.
    if (!(await indexedDB.databases()).some(({ name }) => name === "candlewick")) return { files: [], pieces: [] };
    const database = await wait(indexedDB.open("candlewick"));
    const within = IDBKeyRange.bound([repo], [repo, []]);
    const [file] = await wait(database.transaction("files").objectStore("files").getAll(within));
    // What was being written when a download failed is written to its end.
    return navigator.locks.request("candlewick " + contentOf(repo, file?.key.etag), () => read(database, within));
  }

  async function read(database, within) {
    const transaction = database.transaction(["files", "pieces"]);
    const pieces = transaction.objectStore("pieces");
    const [files, keys, values] = await Promise.all([transaction.objectStore("files").getAll(within), pieces.getAllKeys(within), pieces.getAll(within)].map(wait));
    database.close();
    const hex = async (value) => Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", value)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const blobs = await Promise.all(values.map((value, at) => (keys[at][4] === "file" ? inFile(keys[at]) : new Blob([value]))));
    const list = await Promise.all(blobs.map(async (blob, at) => {
      const bytes = await blob.arrayBuffer();
      return { start: keys[at][2], end: keys[at][3], place: keys[at][4] ?? "database", length: bytes.byteLength, hash: await hex(bytes) };
    }));
    return { files, pieces: list, whole: await hex(await new Blob(blobs).arrayBuffer()) };
  }

  Object.assign(window, { stored });
  document.title = "ready";
</script>`;

/** A Worker that runs many schedules with one engine; `?database` takes it what private files are written with. */
const engine = `
  import init, { Models, Stopper } from "/pkg/wasm/candlewick.js";

  if (location.search === "?database") delete FileSystemFileHandle.prototype.createSyncAccessHandle;

  /** Pieces that were written, by repository. */
  const puts = new Map();
  const { put } = IDBObjectStore.prototype;
  IDBObjectStore.prototype.put = function (value, key) {
    if (this.name === "pieces") {
      const [repo, , start, end] = key;
      puts.set(repo, [...(puts.get(repo) ?? []), [start, end]]);
    }
    return put.call(this, value, key);
  };

  async function pull(repo, options) {
    try {
      return await (await Models.open(options)).pull(new Stopper(), repo, () => {});
    } catch ({ code, message }) {
      return { code, message };
    }
  }

  const ready = init();
  onmessage = async ({ data: [repo, options], ports: [port] }) => {
    await ready;
    port.postMessage(options ? await pull(repo, options) : (puts.get(repo) ?? []));
  };
`;

/** And its page. */
const schedules = `${look}<script type="module">
  const worker = new Worker("/engine" + location.search, { type: "module" });
  worker.onerror = ({ message }) => reportError(new Error(message));
  const ask = (...question) => new Promise((answer) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => answer(data);
    worker.postMessage(question, [port2]);
  });
  Object.assign(window, { pull: (repo, options) => ask(repo, options), puts: (repo) => ask(repo) });
  document.title = "running";
</script>`;

/** Runs one schedule, and checks all there is to check. */
async function run(page, seed) {
  const { kinds, rate, signatures } = draws(seed);
  const [name, repo] = [`schedule-${seed}`, `owner/repo-${seed}`];
  const data = bytes(String(seed), SIZE);
  const about = `seed ${seed}: ${kinds} at ${rate}`;
  const described = { size: SIZE, seed: String(seed) };
  const hubURL = await world(name, repo, { ...described, rate, kinds, signatures });
  const pull = (transfer) => page.evaluate(([repo, options]) => pull(repo, options), [repo, { hubURL, transfer }]);
  const stored = () => page.evaluate((repo) => stored(repo), repo);

  const result = await pull(transfer(kinds.includes("stall") ? 1000 : 20_000));
  const faults = (await state(name)).log.filter(({ fault }) => fault).length;
  const exact = result.code === undefined;
  const there = await stored();
  if (exact) {
    assert.deepEqual([result.size, result.stored, result.complete], [SIZE, SIZE, true], about);
    assert.equal(there.whole, sha256(data), about);
  } else {
    assert.ok(KNOWN.includes(result.code), `${about}: ${JSON.stringify(result)}`);
    assert.ok(!result.message.includes("Signature"), `${about}: ${result.message}`);
  }
  assert.ok(
    there.files.every(({ whole }) => whole === exact),
    about,
  );
  // No piece lies, nor lies over another. Those that were changed on their way are found when all have come.
  let end = 0;
  for (const piece of there.pieces) {
    assert.ok(
      piece.start >= end && piece.end <= SIZE && piece.length === piece.end - piece.start,
      `${about}: ${JSON.stringify(piece)}`,
    );
    if (!kinds.includes("flip")) assert.equal(piece.hash, sha256(data.subarray(piece.start, piece.end)), about);
    end = piece.end;
  }

  // The weather clears.
  await world(name, repo, described);
  const again = await pull(CALM);
  assert.equal(again.complete, true, `${about}: ${JSON.stringify(again)}`);
  assert.equal((await stored()).whole, sha256(data), about);
  // Where a server ignores ranges, one transfer catches up with the others; wrong pieces are written again.
  if (!kinds.includes("flip") && !kinds.includes("ignored")) {
    const written = await page.evaluate((repo) => puts(repo), repo);
    assert.equal(
      written.reduce((sum, [start, end]) => sum + end - start, 0),
      SIZE,
      `${about}: nothing is written twice`,
    );
  }
  const places = there.pieces.map(({ place }) => place);
  return { exact, faults, inFiles: places.filter((place) => place === "file").length, pieces: places.length };
}

describe("a download", () => {
  for (const [where, path, first, count] of [
    ["files", "/schedules", 0, SCHEDULES],
    ["the database", "/schedules?database", SCHEDULES, IN_DATABASE],
  ]) {
    const options = path === "/schedules" ? hasFiles : {};
    test(
      `into ${where} ends in the exact bytes or a typed error, in ${count} schedules of faults`,
      options,
      async () => {
        const page = await open(path);
        const seeds = Array.from({ length: count }, (_, at) => first + at).values();
        const outcomes = [];
        const worker = async () => {
          for (const seed of seeds) outcomes.push(await run(page, seed));
        };
        await Promise.all(Array.from({ length: 8 }, worker));
        const exact = outcomes.filter(({ exact }) => exact).length;
        const sum = (key) => outcomes.reduce((sum, outcome) => sum + outcome[key], 0);
        console.log(
          `${where}: ${exact} exact, ${count - exact} errors, ${sum("faults")} faults, ${sum("inFiles")} of ${sum("pieces")} pieces in files`,
        );
        // The schedules are neither too kind nor too cruel to say anything; of few perhaps none ends in an error.
        assert.ok(exact > count / 2 && sum("faults") > 2 * count, `${exact} exact, ${sum("faults")} faults`);
        if (path === "/schedules") {
          assert.ok(exact < count, "some end in an error");
          // What takes the place of wrong bytes is kept in the database.
          assert.ok(sum("inFiles") > 0.9 * sum("pieces"));
        } else assert.equal(sum("inFiles"), 0);
        await page.close();
      },
    );
  }

  test("goes on where its page, its Worker or its process was killed", async () => {
    const KILLS = browserName === "chromium" ? 12 : 6;
    const size = 4_000_037;
    const [name, repo] = ["kills", "owner/killed"];
    const described = { size, seed: "kills" };
    const below = (() => {
      let at = 0;
      return (limit) => createHash("sha256").update(`kill ${at++}`).digest().readUInt32LE(0) % limit;
    })();
    const data = bytes("kills", size);
    const kept = async () => {
      // A new one each time: a crash may take other pages of its process with it.
      const observer = await open("/look");
      const { pieces } = await observer.evaluate((repo) => stored(repo), repo);
      await observer.close();
      for (const { start, end, hash } of pieces) assert.equal(hash, sha256(data.subarray(start, end)));
      return pieces.reduce((sum, { start, end }) => sum + end - start, 0);
    };
    let before = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      // The server falls silent on the way, so that the page dies with transfers under way wherever it got to.
      const allowance = 1 + below(2 * Math.floor(size / KILLS));
      const hubURL = await world(name, repo, { ...described, allowance });
      const victim = await open();
      const until = before + allowance;
      const { reached } = await reporting(victim, (loaded) => loaded >= until);
      await victim.evaluate(
        ([repo, options]) => {
          window.controller = new AbortController();
          models
            .pull(repo, { ...options, signal: controller.signal, onProgress: ({ loaded }) => report(loaded) })
            .catch(() => {});
        },
        [repo, { hubURL, transfer: CALM }],
      );
      await reached;
      // A third of the pages are closed, a third lose their Worker first, which ends as it is, and a third crash.
      if (kill % 3 === 1) await victim.evaluate(() => controller.abort());
      if (kill % 3 === 2 && browserName === "chromium") await crash(victim);
      await victim.close();
      const stored = await kept();
      const lost = until - stored;
      assert.ok(lost >= 0 && lost <= RANGE, `kill ${kill} at ${until}: ${lost} bytes will be fetched twice`);
      before = stored;
    }
    const hubURL = await world(name, repo, described);
    const page = await open();
    const done = await page.evaluate(
      ([repo, options]) => models.pull(repo, options),
      [repo, { hubURL, transfer: CALM }],
    );
    assert.ok(done.complete && done.stored === size);
    assert.equal((await page.evaluate((repo) => models.verify(repo), repo))[0].verdict, "right");
    assert.equal(await asked(name), size - before, "what was there is not asked for again");
    await page.close();
  });

  test("goes on where the whole browser was killed", hasFiles, async () => {
    const size = 1_000_003;
    const [name, repo] = ["browsers", "owner/browsers"];
    const described = { size, seed: name };
    const data = bytes(name, size);
    const profile = mkdtempSync(join(tmpdir(), "candlewick-profile-"));
    /** What a new browser finds on the disk; then it goes on, with `work`. */
    const visit = async (work) => {
      const context = await launchOnDisk(profile);
      const page = await open("/look", context);
      const { pieces } = await page.evaluate((repo) => stored(repo), repo);
      for (const { start, end, hash } of pieces) assert.equal(hash, sha256(data.subarray(start, end)));
      await page.goto(server.url);
      await page.waitForFunction(() => document.title === "ready");
      await work(
        page,
        pieces.reduce((sum, { start, end }) => sum + end - start, 0),
      );
      return context;
    };
    for (const allowance of [200_000, 300_000]) {
      const hubURL = await world(name, repo, { ...described, allowance });
      const context = await visit(async (page, before) => {
        const { reached } = await reporting(page, (loaded) => loaded >= before + allowance);
        await page.evaluate(
          ([repo, options]) =>
            void models.pull(repo, { ...options, onProgress: ({ loaded }) => report(loaded) }).catch(() => {}),
          [repo, { hubURL, transfer: CALM }],
        );
        await reached;
      });
      await context.kill();
    }
    const hubURL = await world(name, repo, described);
    const context = await visit(async (page, before) => {
      assert.ok(before > 0, "what was committed is there");
      const done = await page.evaluate(
        ([repo, options]) => models.pull(repo, options),
        [repo, { hubURL, transfer: CALM }],
      );
      assert.ok(done.complete && done.stored === size);
      assert.equal((await page.evaluate((repo) => models.verify(repo), repo))[0].verdict, "right");
      assert.equal(await asked(name), size - before, "and is not asked for again");
    });
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  });

  test("is shared by two tabs, and taken over where one of them dies", async () => {
    const size = 1_000_003;
    for (const kill of [false, true]) {
      const [name, repo] = [`shared-${kill}`, `owner/shared-${kill}`];
      const described = { size, seed: name };
      const allowance = kill ? 400_000 : undefined;
      const hubURL = await world(name, repo, { ...described, allowance });
      const tabs = await Promise.all([open(), open()]);
      const options = { hubURL, transfer: CALM };
      const reports = await Promise.all(tabs.map((tab) => reporting(tab, (loaded) => loaded >= 400_000)));
      const pulls = tabs.map((tab) =>
        tab.evaluate(
          ([repo, options]) => models.pull(repo, { ...options, onProgress: ({ loaded }) => report(loaded) }),
          [repo, options],
        ),
      );
      if (kill) {
        const at = await Promise.race(reports.map(({ reached }, at) => reached.then(() => at)));
        // The other one will find the same Hub without its silence.
        await world(name, repo, described);
        pulls[at].catch(() => {});
        await tabs[at].close();
        pulls.splice(at, 1);
      }
      for (const pulled of await Promise.all(pulls)) assert.ok(pulled.complete && pulled.stored === size);
      const bytes = await asked(name);
      // The one that died had asked for so many ranges at once, of which some never came.
      assert.ok(kill ? bytes <= size - 400_000 + PARALLEL * RANGE : bytes === size, `${bytes} bytes were asked for`);
      await Promise.all(tabs.map((tab) => tab.close()));
    }
  });
});
