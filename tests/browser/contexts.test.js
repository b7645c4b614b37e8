/** load() where it is not a page that calls it, or a page with less than others have: it works, or says what to do. */
import assert from "node:assert/strict";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { blank, isolation, launch, launchOnDisk, openPage, repository, serve, story } from "./support.js";

const STORY = "/www/models/stories260K.gguf";

/** Tells a story to whoever asks, and what ran it; or the error. `base`: where the package is. */
const teller = (base = "") => `
  import { CandlewickError, load, models } from "${base}/pkg/dist/index.js";
  const tell = async ([source, options]) => {
    try {
      const engine = await load(source, options);
      const { choices } = await engine.completions.create({ prompt: "", temperature: 0, max_tokens: 400 });
      const { wasm, threads } = engine.info;
      await engine.unload();
      return { text: choices[0].text, wasm, threads };
    } catch (error) {
      return { typed: error instanceof CandlewickError, code: error.code, message: error.message };
    }
  };
  const answer = async ({ data, ports: [port] }) => port.postMessage(await tell(data));`;

const scripts = {
  "/teller.js": `${teller()} onmessage = answer;`,
  "/shared-teller.js": `${teller()} onconnect = ({ ports: [port] }) => (port.onmessage = answer);`,
  "/service-teller.js": `import "/pkg/dist/worker.js"; ${teller()} onmessage = answer; oninstall = () => skipWaiting();`,
  "/careless-service-teller.js": `${teller()} onmessage = answer; oninstall = () => skipWaiting();`,
  // The parts of a page in a frame.
  "/framed": `<!doctype html><script type="module">${teller()} onmessage = answer; parent.postMessage("ready", "*");</script>`,
};
const cors = { "Access-Control-Allow-Origin": "*" };

let browser, server, isolated, open, sandboxed;
before(async () => {
  browser = await launch();
  server = await serve({ routes: { "/": blank, ...scripts } });
  isolated = await serve({ routes: { "/": blank, ...scripts }, headers: isolation });
  // To everybody, as a CDN.
  open = await serve({ routes: { "/": blank, ...scripts }, headers: cors });
  sandboxed = await serve({
    routes: { "/": blank },
    headers: { ...cors, "Content-Security-Policy": "sandbox allow-scripts" },
  });
});
after(async () => {
  await browser?.close();
  await Promise.all([server, isolated, open, sandboxed].map((each) => each?.close()));
});

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

/** In the page: has a teller of the given kind tell. Its answer, or how its script failed. */
const ask = async ([kind, script, question]) => {
  const { port1, port2 } = new MessageChannel();
  let fail;
  const answer = new Promise((resolve, reject) => {
    port1.onmessage = ({ data }) => resolve(data);
    fail = ({ message }) => reject(new Error(`the ${kind} has failed: ${message}`));
  });
  if (kind === "Worker" || kind === "blob") {
    const url =
      kind === "Worker"
        ? script
        : origin === "null"
          ? `data:text/javascript,${encodeURIComponent(script)}`
          : URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const worker = new Worker(url, { type: "module" });
    worker.onerror = fail;
    worker.postMessage(question, [port2]);
  }
  if (kind === "SharedWorker") {
    const worker = new SharedWorker(script, { type: "module" });
    worker.onerror = fail;
    worker.port.postMessage(question, [port2]);
  }
  if (kind === "service worker") {
    const registration = await navigator.serviceWorker.register(script, { type: "module" });
    const worker = registration.installing ?? registration.waiting ?? registration.active;
    while (worker.state !== "activated")
      await new Promise((changed) => worker.addEventListener("statechange", changed, { once: true }));
    worker.postMessage(question, [port2]);
  }
  if (kind === "frame") {
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.src = script;
    document.body.append(frame);
    await new Promise((ready) => addEventListener("message", ready, { once: true }));
    frame.contentWindow.postMessage(question, "*", [port2]);
  }
  return answer;
};

describe("in a Worker", () => {
  test("of one's own", async () => {
    const told = await inPage(server.url, ask, ["Worker", "/teller.js", [STORY]]);
    assert.deepEqual(told, { text: story, wasm: "candlewick.wasm", threads: 1 });
  });

  test("with threads, where the page is isolated", async () => {
    const told = await inPage(isolated.url, ask, ["Worker", "/teller.js", [STORY, { threads: 2 }]]);
    assert.equal(told.text, story);
    assert.equal(told.threads, 2);
  });

  test("made of a Blob, addresses are relative to the page's origin", async () => {
    const told = await inPage(server.url, ask, ["blob", `${teller(server.url)} onmessage = answer;`, [STORY]]);
    assert.equal(told.text, story, told.message);
  });

  test("that is shared, which cannot start others in Chromium", async () => {
    const told = await inPage(server.url, ask, ["SharedWorker", "/shared-teller.js", [STORY]]);
    assert.deepEqual(told, { text: story, wasm: "candlewick.wasm", threads: 1 });
  });

  test("that serves a page", async () => {
    const told = await inPage(server.url, ask, ["service worker", "/service-teller.js", [STORY]]);
    assert.deepEqual(told, { text: story, wasm: "candlewick.wasm", threads: 1 });
  });

  test("that serves a page, and more than one engine", async () => {
    const told = await inPage(
      server.url,
      async ([ask, argument]) => Promise.all([1, 2].map(() => (0, eval)(ask)(argument))),
      [String(ask), ["service worker", "/service-teller.js", [STORY]]],
    );
    assert.deepEqual(
      told.map(({ text }) => text),
      [story, story],
    );
  });

  test("that serves a page and has not imported the engine is told to", async () => {
    const told = await inPage(server.url, ask, ["service worker", "/careless-service-teller.js", [STORY]]);
    assert.deepEqual([told.typed, told.code], [true, "invalid_argument"]);
    assert.match(told.message, /import "candlewick\/worker\.js"/);
  });

  test("an address that none can be relative to", async () => {
    const script = `${teller(open.url)} onmessage = answer;`;
    const told = await inPage(sandboxed.url, ask, ["blob", script, ["./story.gguf"]]);
    assert.deepEqual([told.typed, told.code], [true, "invalid_argument"]);
  });
});

describe("in a page without an origin", () => {
  test("a sandboxed frame", async () => {
    const told = await inPage(open.url, ask, ["frame", "/framed", [STORY]]);
    assert.equal(told.text, story, told.message);
  });

  test("a sandboxed frame whose Worker's script is not for everybody", async () => {
    const told = await inPage(open.url, ask, [
      "frame",
      "/framed",
      [STORY, { workerURL: `${server.url}/pkg/dist/worker.js` }],
    ]);
    assert.deepEqual([told.typed, told.code], [true, "network"]);
    assert.match(told.message, /CORS/);
  });

  test("a file", async () => {
    const folder = mkdtempSync(join(tmpdir(), "candlewick-file-"));
    writeFileSync(
      join(folder, "page.html"),
      `<!doctype html><script type="module">${teller(open.url)} window.tell = tell; document.title = "ready";</script>`,
    );
    try {
      const told = await inPage(`file://${folder}/page.html`, (url) => tell([url]), `${open.url}${STORY}`);
      assert.equal(told.text, story, told.message);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("a Blob", async () => {
    const told = await inPage(
      open.url,
      async (page) => {
        const frame = document.createElement("iframe");
        frame.src = URL.createObjectURL(new Blob([page], { type: "text/html" }));
        document.body.append(frame);
        await new Promise((ready) => addEventListener("message", ready, { once: true }));
        const { port1, port2 } = new MessageChannel();
        const answer = new Promise((resolve) => (port1.onmessage = ({ data }) => resolve(data)));
        frame.contentWindow.postMessage([`${location.origin}/www/models/stories260K.gguf`], "*", [port2]);
        return answer;
      },
      `<!doctype html><script type="module">${teller(open.url)} onmessage = answer; parent.postMessage("ready", "*");</script>`,
    );
    assert.equal(told.text, story, told.message);
  });
});

describe("under Trusted Types", () => {
  const policy = "default-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; require-trusted-types-for 'script'";
  const under = async (more, work, argument) => {
    const page = await serve({
      routes: {
        "/": `<!doctype html><script type="module">${teller()} window.tell = tell; document.title = "ready";</script>`,
      },
      headers: { "Content-Security-Policy": policy + more, ...isolation },
    });
    try {
      return await inPage(page.url, work, argument);
    } finally {
      await page.close();
    }
  };
  const tellIt = (question) => window.tell(question);

  test("with any policy", async () => {
    const told = await under("", tellIt, [STORY, { threads: 2 }]);
    assert.deepEqual([told.text, told.threads], [story, 2], told.message);
  });

  test("with the policy candlewick, twice", async () => {
    const told = await under(
      "; trusted-types candlewick",
      async (question) => [await window.tell(question), await window.tell(question)],
      [STORY],
    );
    assert.deepEqual(
      told.map(({ text }) => text),
      [story, story],
    );
  });

  test("with other policies only, it says what is missing", async () => {
    const told = await under("; trusted-types mine", tellIt, [STORY]);
    assert.deepEqual([told.typed, told.code], [true, "invalid_argument"]);
    assert.match(told.message, /candlewick.*trusted-types.*workerURL/);
  });

  test("with an address that the page trusts", async () => {
    const told = await under(
      "; trusted-types mine",
      (source) => {
        const mine = trustedTypes.createPolicy("mine", { createScriptURL: (url) => url });
        return window.tell([source, { workerURL: mine.createScriptURL("/pkg/dist/worker.js"), threads: 2 }]);
      },
      STORY,
    );
    assert.deepEqual([told.text, told.threads], [story, 2], told.message);
  });

  test("with an address that it does not", async () => {
    const told = await under("; trusted-types mine", tellIt, [STORY, { workerURL: "/pkg/dist/worker.js" }]);
    assert.deepEqual([told.typed, told.code], [true, "invalid_argument"]);
  });

  test("where no Worker is allowed at all", async () => {
    const told = await under("; worker-src 'none'", tellIt, [STORY]);
    assert.deepEqual([told.typed, told.code], [true, "network"]);
  });
});

describe("in an extension", () => {
  let folder, context, id;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), "candlewick-extension-"));
    const extension = join(folder, "extension");
    mkdirSync(extension);
    for (const part of ["pkg/dist", "pkg/wasm", STORY.slice(1)])
      cpSync(join(repository, part), join(extension, part), { recursive: true });
    const files = {
      "manifest.json": JSON.stringify({
        manifest_version: 3,
        name: "teller",
        version: "1",
        background: { service_worker: "background.js", type: "module" },
        content_security_policy: { extension_pages: "script-src 'self' 'wasm-unsafe-eval'; object-src 'self'" },
      }),
      "page.html": `<!doctype html><script type="module" src="page.js"></script>`,
      "page.js": `${teller()} window.tell = tell; document.title = "ready";`,
      "background.js": `import "/pkg/dist/worker.js"; ${teller()} self.tell = tell;`,
    };
    for (const [name, text] of Object.entries(files)) writeFileSync(join(extension, name), text);
    context = await launchOnDisk(join(folder, "profile"), [
      `--load-extension=${extension}`,
      `--disable-extensions-except=${extension}`,
      "--disable-features=DisableLoadExtensionCommandLineSwitch",
    ]);
    const [worker] = context.serviceWorkers().length
      ? context.serviceWorkers()
      : [await context.waitForEvent("serviceworker")];
    id = new URL(worker.url()).host;
  });
  after(async () => {
    await context?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test("its page", async () => {
    const page = await context.newPage();
    await page.goto(`chrome-extension://${id}/page.html`);
    await page.waitForFunction(() => document.title === "ready");
    const told = await page.evaluate((source) => window.tell([source]), STORY);
    assert.equal(told.text, story, told.message);
  });

  test("its background", async () => {
    const told = await context.serviceWorkers()[0].evaluate((source) => self.tell([source]), STORY);
    assert.equal(told.text, story, told.message);
  });
});
