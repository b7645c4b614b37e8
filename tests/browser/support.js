/** What the browser tests share: a static server without any special headers, the browsers, and a page with the package in it. */
import { once } from "node:events";
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, extname, join, normalize, sep } from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { launchFirefox, launchFirefoxOnDisk, launchWebKit } from "./drivers.js";

export const repository = join(dirname(fileURLToPath(import.meta.url)), "../..");

for (const [built, command] of [
  ["pkg/wasm/candlewick_bg.wasm", "./build.sh wasm"],
  ["pkg/dist/index.js", "./build.sh npm"],
  ["www/dist/index.html", "./build.sh demo"],
]) {
  if (!existsSync(join(repository, built))) throw new Error(`${built} is missing; run ${command} first`);
}

export const read = (path) => readFileSync(join(repository, path));
export const storyteller = read("www/models/stories260K.gguf");
export const story = read("tests/fixtures/goldens/stories260K.greedy.txt").toString().trimEnd();

const types = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".woff2": "font/woff2",
};

/**
 * Serves the repository, and `routes` before it: path → bytes, text, or a function of (request, response). Files answer
 * ranges, routes do not, so both ways of fetching a model are used. `headers` go on every answer.
 */
export async function serve({ routes = {}, headers = {} } = {}) {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    const route = routes[path];
    if (typeof route === "function") return route(request, response);
    const file = join(repository, normalize(path));
    const inside = file.startsWith(repository + sep) && extname(file) !== "" && existsSync(file);
    if (route === undefined && !inside)
      return response.writeHead(404, { "content-type": "text/html" }).end("<h1>Not found</h1>");
    response.setHeader("content-type", types[extname(path) || ".html"] ?? "application/octet-stream");
    if (route !== undefined) return response.end(route);
    const { size } = statSync(file);
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    response.setHeader("accept-ranges", "bytes");
    const start = Number(range?.[1] ?? 0);
    const end = Math.min(Number(range?.[2] || Infinity), size - 1);
    if (range && start > end) return response.writeHead(416, { "content-range": `bytes */${size}` }).end();
    response.setHeader("content-length", end + 1 - start);
    if (range) response.writeHead(206, { "content-range": `bytes ${start}-${end}/${size}` });
    pipeline(createReadStream(file, { start, end, highWaterMark: 1 << 20 }), response).catch(() => {}); // Clients may hang up.
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };
}

/** What the built page asks its host to send: isolation for threads, and the content security policy, which binds the Worker too. */
export const publishedHeaders = () =>
  Object.fromEntries(
    [
      ...read("www/dist/_headers")
        .toString()
        .matchAll(/^ +([^:]+): (.*)$/gm),
    ].map(([, name, value]) => [name, value]),
  );

/** What gives a browser a WebGPU adapter where there is no GPU. */
export const softwareGPU = [
  "--enable-unsafe-webgpu",
  "--enable-unsafe-swiftshader",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
];

const browserOptions = (flags) => ({
  executablePath: process.env.CHROME ?? "/usr/bin/chromium",
  args: [
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    ...flags,
  ],
});

/** The browser in which this run's tests are: `chromium`, `firefox` or `webkit`. */
export const browserName = process.env.CANDLEWICK_TEST_BROWSER ?? "chromium";

/** For a test's options: it needs what only some browsers have, or what only their drivers can do. */
export const only = (names, why) => ({ skip: !names.includes(browserName) && `not in ${browserName}: ${why}` });

/**
 * That browser; without it the tests fail, they are not skipped. What its contexts store is in memory. All of them take
 * the calls of Playwright's that tests use; what only Chromium has, only Chromium has. `flags` are Chromium's.
 */
export function launch(flags = [], { name = browserName, privateWindow = false } = {}) {
  const gpu = flags === softwareGPU;
  if (name === "chromium") return chromium.launch(browserOptions(privateWindow ? ["--incognito", ...flags] : flags));
  if (name === "firefox") return launchFirefox({ gpu, privateWindow });
  if (name === "webkit") return launchWebKit();
  throw new Error(`${name} is no browser of these tests`);
}

/** For a test's options: it needs the private file system. */
export const hasFiles = only(["chromium", "firefox"], "windows under its driver are private ones, which have no files");

/** A context of a browser of its own that stores things in `folder`, as users' do. `kill` ends it at once. */
export async function launchOnDisk(folder, flags = []) {
  if (browserName === "firefox") return launchFirefoxOnDisk(folder);
  const context = await chromium.launchPersistentContext(folder, browserOptions(flags));
  return Object.assign(context, {
    async kill() {
      const session = await context.browser().newBrowserCDPSession();
      const { processInfo } = await session.send("SystemInfo.getProcessInfo");
      const closed = new Promise((resolve) => context.once("close", resolve));
      process.kill(processInfo.find(({ type }) => type === "browser").id, "SIGKILL");
      await closed;
    },
  });
}

/** What makes a page cross-origin isolated. */
export const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/**
 * A page with the package in a browser of its own, served by a server of its own: what a script needs that looks into
 * one thing in one browser. `page.errors` are the uncaught ones, and `page.close` ends all of it.
 */
export async function open(
  name = browserName,
  { isolated = false, privateWindow = false, gpu = false, routes = {} } = {},
) {
  const server = await serve({ routes: { "/": blank, ...routes }, headers: isolated ? isolation : {} });
  const browser = await launch(gpu ? softwareGPU : [], { name, privateWindow });
  const { page, errors } = await openPage(browser, server.url);
  await page.waitForFunction(() => document.title === "ready");
  const close = async () => {
    await browser.close();
    await server.close();
  };
  return {
    url: server.url,
    errors,
    evaluate: (work, argument) => page.evaluate(work, argument),
    reload: () => page.reload(),
    close,
  };
}

/** A page that imports the built package as any static page would. Serve it as a route. */
export const blank = `<!doctype html><title>test</title><script type="module">
  import * as candlewick from "/pkg/dist/index.js";
  const story = "/www/models/stories260K.gguf";
  Object.assign(window, candlewick, {
    story,
    greedy: { prompt: "", temperature: 0, max_tokens: 400 },
    /** The code, name and message of the error that a promise ends in. */
    failure: (promise) => promise.then(
      (value) => ({ code: "none", value }),
      (error) => ({ typed: error instanceof candlewick.CandlewickError, code: error.code, name: error.name, message: error.message }),
    ),
    /** The chunks of a stream. */
    collect: async (stream) => { const all = []; for await (const chunk of stream) all.push(chunk); return all; },
    text: (chunks) => chunks.map((chunk) => chunk.choices[0]?.text ?? "").join(""),
    sleep: (ms) => new Promise((done) => setTimeout(done, ms)),
  });
  document.title = "ready";
</script>`;

/** Opens `url` in a context of its own, where that costs nothing, and tells of uncaught errors in the page. */
export async function openPage(browser, url, options = {}) {
  const context = await (browser.sharedContext?.() ?? browser.newContext(options));
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  await page.goto(url);
  return { page, errors, close: () => context.close() };
}

/**
 * Gives a page `report`, to be told how far it got; `reached` is the first report that is `enough`, and fails where the
 * page goes before it came.
 */
export async function reporting(page, enough) {
  let reach, fail;
  const reached = new Promise((resolve, reject) => ([reach, fail] = [resolve, reject]));
  reached.catch(() => {}); // Where nobody waits for it any more.
  page.once("close", () => fail(new Error("the page was closed before it got there")));
  await page.exposeFunction("report", (value) => enough(value) && reach(value));
  return { reached };
}

/** What axe has to say against a page as it is now. */
export async function accessibilityViolations(page) {
  await page.evaluate(readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8"));
  // Transitions would be caught half way.
  await page.emulateMedia({ reducedMotion: "reduce" });
  const { violations } = await page.evaluate(() => axe.run(document));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

/** The storyteller with a chat template in its metadata: a small model that converses, after a fashion. */
export function conversationalist() {
  const template =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
  const string = (text, size) => {
    const bytes = Buffer.from(text.padEnd(size ?? text.length));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(bytes.length));
    return Buffer.concat([length, bytes]);
  };
  const key = string("tokenizer.chat_template");
  const type = Buffer.from([8, 0, 0, 0]); // a string
  // The new entry goes in front of all others and is a multiple of the alignment long, so that no tensor moves.
  const size = Math.ceil((key.length + type.length + 8 + template.length) / 32) * 32 - key.length - type.length - 8;
  const head = Buffer.from(storyteller.subarray(0, 24)); // magic, version, number of tensors, number of entries
  head.writeBigUInt64LE(head.readBigUInt64LE(16) + 1n, 16);
  return Buffer.concat([head, key, type, string(template, size), storyteller.subarray(24)]);
}
