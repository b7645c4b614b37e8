/**
 * Firefox, through WebDriver BiDi, and WebKitGTK's MiniBrowser, through classic WebDriver: both with the calls of
 * Playwright's that the tests make of Chromium. Neither is a patched build: they are what users have.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";
import { Builder, Capabilities } from "selenium-webdriver";

// ---------------------------------------------------------------- Firefox

/** Lavapipe, Mesa's Vulkan renderer in software. */
function lavapipe() {
  const folder = "/usr/share/vulkan/icd.d";
  const file = existsSync(folder) && readdirSync(folder).find((name) => name.startsWith("lvp_icd"));
  if (!file) throw new Error("lavapipe is missing: install mesa-vulkan-drivers");
  return join(folder, file);
}

const firefox = ({ gpu = false, privateWindow = false, folder }) =>
  puppeteer.launch({
    browser: "firefox",
    protocol: "webDriverBiDi",
    executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
    headless: true,
    timeout: 120_000,
    protocolTimeout: 300_000,
    userDataDir: folder,
    env: { ...process.env, ...(gpu && { VK_DRIVER_FILES: lavapipe() }) },
    extraPrefsFirefox: {
      "browser.privatebrowsing.autostart": privateWindow,
      ...(gpu && {
        "dom.webgpu.enabled": true,
        "dom.webgpu.workers.enabled": true,
        "gfx.webgpu.ignore-blocklist": true,
      }),
    },
  });

/** Firefox; each of its contexts stores things of its own, and in private windows nothing beyond its end. */
export async function launchFirefox(options) {
  const browser = await firefox(options);
  return {
    newContext: async () => {
      const context = await browser.createBrowserContext();
      return { newPage: async () => firefoxPage(await context.newPage()), close: () => context.close() };
    },
    close: () => browser.close(),
  };
}

/** A Firefox of its own, which stores things in `folder`. */
export async function launchFirefoxOnDisk(folder) {
  const browser = await firefox({ folder });
  return {
    newPage: async () => firefoxPage(await browser.newPage()),
    close: () => browser.close(),
    async kill() {
      const ended = once(browser.process(), "exit");
      browser.process().kill("SIGKILL");
      await ended;
    },
  };
}

function firefoxPage(page) {
  return Object.assign(page, { waitForFunction: waitForFunction(page) });
}

/** With Playwright's arguments. A fixed interval, because pages in the background get no animation frames. */
const waitForFunction = (page) => async (condition, argument) => {
  while (!(await page.evaluate(condition, argument))) await new Promise((next) => setTimeout(next, 20));
};

// ---------------------------------------------------------------- WebKit

/** What Safari has and WebKitGTK, by default, has not. */
const features = "+StorageAPI,+StorageAPIEstimate,+FileSystem,+AccessHandle,+FileSystemWritableStream";

/**
 * WebKit in MiniBrowsers, each of which keeps in memory what its pages store. Each context has one of its own; as
 * starting one takes seconds, there is also one that all share to whom it is the same what others have stored.
 */
export async function launchWebKit() {
  const display = await startDisplay();
  const all = new Set();
  let shared;
  const startSession = async () => {
    const session = await startMiniBrowser(display.name);
    all.add(session);
    return session;
  };
  const contextIn = (session, close) => {
    const pages = [];
    return {
      newPage: async () => {
        const page = await webkitPage(session);
        pages.push(page);
        return page;
      },
      close: async () => {
        for (const page of pages) await page.close();
        await close();
      },
    };
  };
  return {
    newContext: async () => {
      const session = await startSession();
      return contextIn(session, () => (all.delete(session), session.end()));
    },
    sharedContext: async () => contextIn(await (shared ??= startSession()), () => {}),
    close: async () => {
      await Promise.all([...all].map(({ end }) => end()));
      display.stop();
    },
  };
}

/** Programs of this process, which end with it, whatever ends it. */
const programs = new Set();
process.on("exit", () => programs.forEach((program) => program.kill()));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));

async function run(name, args, options) {
  const program = spawn(name, args, options);
  programs.add(program);
  program.once("exit", () => programs.delete(program));
  await once(program, "spawn");
  return program;
}

/** An X server without a screen. */
async function startDisplay() {
  const server = await run("Xvfb", ["-displayfd", "3", "-screen", "0", "1024x768x24", "-nolisten", "tcp"], {
    stdio: ["ignore", "ignore", "ignore", "pipe"],
  });
  const [number] = await Promise.race([
    once(createInterface(server.stdio[3]), "line"),
    once(server, "exit").then(([code]) => Promise.reject(new Error(`Xvfb ended with ${code}`))),
  ]);
  return { name: `:${number}`, stop: () => server.kill() };
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** Beside the library that it shows. */
function miniBrowser() {
  const places = ["x86_64", "aarch64"].map((machine) => `/usr/lib/${machine}-linux-gnu/webkit2gtk-4.1/MiniBrowser`);
  const found = process.env.MINIBROWSER ?? places.find((path) => existsSync(path));
  if (!found)
    throw new Error("WebKit's MiniBrowser is missing: install webkit2gtk-driver, or set MINIBROWSER to its path");
  return found;
}

async function startMiniBrowser(display) {
  const port = await freePort();
  const service = await run("WebKitWebDriver", [`--port=${port}`], {
    stdio: "ignore",
    env: {
      ...process.env,
      DISPLAY: display,
      GDK_BACKEND: "x11",
      LIBGL_ALWAYS_SOFTWARE: "1",
      WEBKIT_DISABLE_COMPOSITING_MODE: "1",
      // As in Safari; WebKitGTK leaves it out even where pages are isolated.
      JSC_useSharedArrayBuffer: "1",
    },
  });
  const url = `http://127.0.0.1:${port}`;
  while (!(await fetch(`${url}/status`).catch(() => undefined))) await new Promise((next) => setTimeout(next, 20));
  // Without pages that are kept to go back to: those that are left are to end, with their Workers.
  const args = ["--automation", `--features=${features}`, "--enable-page-cache=false"];
  const capabilities = new Capabilities({
    browserName: "MiniBrowser",
    "webkitgtk:browserOptions": { binary: miniBrowser(), args },
  });
  const driver = await new Builder().usingServer(url).withCapabilities(capabilities).build();
  await driver.manage().setTimeouts({ script: 600_000 });
  // WebDriver speaks to one window at a time.
  let turn = Promise.resolve();
  const inTurn = (work) => (turn = turn.then(work, work));
  const end = async () => {
    await inTurn(() => driver.quit().catch(() => {}));
    service.kill();
  };
  return { driver, inTurn, end, windows: [await driver.getWindowHandle()] };
}

/** Values travel as JSON, with what JSON leaves out. Both functions run here and there. */
function pack(value) {
  return JSON.stringify(value, (_, part) =>
    part === undefined
      ? { __: "undefined" }
      : typeof part === "number" && !Number.isFinite(part)
        ? { __: "number", text: String(part) }
        : part,
  );
}
function unpack(text, handles) {
  const revive = (part) => {
    if (part === null || typeof part !== "object") return part;
    if (part.__ === "undefined") return undefined;
    if (part.__ === "number") return Number(part.text);
    if (part.__ === "handle" && handles) return handles[part.id];
    for (const key of Object.keys(part)) part[key] = revive(part[key]);
    return part;
  };
  return revive(JSON.parse(text));
}

/** For the page: starts `source`, and leaves what becomes of it for `outcome`. Without `eval`, which policies forbid. */
const begin = (source) => `
  const [argument, id, keep] = arguments;
  ${pack} ${unpack}
  if (!window.__errors) {
    window.__errors = [];
    addEventListener("error", ({ message }) => window.__errors.push(message));
    addEventListener("unhandledrejection", ({ reason }) => window.__errors.push(String(reason)));
  }
  const handles = (window.__handles ??= {}), jobs = (window.__jobs ??= {});
  const job = (jobs[id] = {});
  (async () => (${source})(unpack(argument, handles)))().then(
    (value) => {
      if (keep) handles[id] = value;
      job.done = pack({ value: keep ? { __: "handle", id } : value });
    },
    (error) => { job.done = pack({ error: String(error?.stack ? error + "\\n" + error.stack : error) }); },
  );`;

/** Answers soon in any case: other windows want their turn. */
const outcome = `
  const [id, answer] = arguments;
  const job = window.__jobs?.[id], end = performance.now() + 100;
  (function look() {
    if (job && !job.done && performance.now() < end) return setTimeout(look, 4);
    if (job?.done) delete window.__jobs[id];
    answer({ lost: !job, done: job?.done, errors: window.__errors?.splice(0) ?? [], reports: window.__reports?.splice(0) ?? [] });
  })();`;

async function webkitPage({ driver, inTurn, windows }) {
  const window =
    windows.pop() ??
    (await inTurn(async () => {
      await driver.switchTo().newWindow("window");
      return driver.getWindowHandle();
    }));
  let jobs = 0,
    closed = false;
  const listeners = {},
    exposed = {};
  const emit = (event, value) => listeners[event]?.forEach((listener) => listener(value));
  const here = (work) =>
    inTurn(async () => {
      if (closed) throw new Error("the page was closed");
      await driver.switchTo().window(window);
      return work();
    });
  const start = async (work, argument, keep) => {
    const id = `job${++jobs}`;
    const source = typeof work === "string" ? `() => (${work})` : String(work);
    await here(() => driver.executeScript(begin(source), pack(argument), id, keep));
    for (;;) {
      const { lost, done, errors, reports } = await here(() => driver.executeAsyncScript(outcome, id));
      for (const message of errors) emit("pageerror", new Error(message));
      for (const { name, value } of reports) exposed[name](value);
      if (lost) throw new Error("the page went away while it worked");
      if (!done) continue;
      const { value, error } = unpack(done);
      if (error !== undefined) throw new Error(error);
      return value;
    }
  };
  const page = {
    setDefaultTimeout() {},
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    once: (event, listener) => page.on(event, listener),
    goto: (url) => here(() => driver.get(String(url))),
    reload: () => here(() => driver.navigate().refresh()),
    evaluate: (work, argument) => start(work, argument, false),
    evaluateHandle: (work, argument) => start(work, argument, true),
    // What it is told arrives while something is evaluated in the page.
    exposeFunction: async (name, listener) => {
      exposed[name] = listener;
      await page.evaluate((name) => {
        window.__reports ??= [];
        window[name] = (value) => window.__reports.push({ name, value });
      }, name);
    },
    close: async () => {
      if (closed) return;
      await here(() => driver.get("about:blank"));
      closed = true;
      windows.push(window);
      emit("close");
    },
  };
  page.waitForFunction = waitForFunction(page);
  return page;
}
