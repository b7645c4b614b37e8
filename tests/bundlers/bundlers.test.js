/** The bundlers that are too large for every run: the tarball, installed in a project, built, and opened in Chromium. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { copyEngine, pack, project, tellsItsStory, ways, worksBuilt } from "../browser/consumer.js";
import { launch } from "../browser/support.js";

const here = dirname(fileURLToPath(import.meta.url));
const require = createRequire(import.meta.url);
const telling = readFileSync(join(here, "../browser/consumer/tell.js"), "utf8");
const page = (script) =>
  `<!doctype html><title>consumer</title><pre></pre><script type="module" src="${script}"></script>`;
const entry = 'import { tell } from "./tell.js";\ntell();\n';

/** Beside the bundlers' own folder, from which projects have them. */
const projects = join(here, "projects");
let browser, packed;
before(async () => {
  rmSync(projects, { recursive: true, force: true });
  mkdirSync(projects, { recursive: true });
  packed = { ...pack(projects), folder: projects };
  browser = await launch();
});
after(async () => {
  await browser?.close();
  rmSync(projects, { recursive: true, force: true });
});

const made = (name, files) => project(join(projects, name), { "tell.js": telling, ...files }, ways.tarball(packed));

/** Runs one of a package's programs to its end. */
async function program(folder, name, bin, args) {
  const running = started(folder, name, bin, args);
  const [code] = await once(running.process, "exit");
  assert.equal(code, 0, running.output());
}

function started(folder, name, bin, args) {
  const path = join(dirname(require.resolve(`${name}/package.json`)), bin);
  const env = { ...process.env, NEXT_TELEMETRY_DISABLED: "1", PARCEL_WORKERS: "1", CI: "1", NODE_ENV: undefined };
  const process_ = spawn(process.execPath, [path, ...args], { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [process_.stdout, process_.stderr]) stream.on("data", (data) => (text += data));
  return { process: process_, output: () => text };
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** A server of its own, as long as `use` takes. */
async function serving(folder, name, bin, args, use) {
  const port = await freePort();
  const running = started(folder, name, bin, args(port));
  try {
    const url = `http://localhost:${port}/`; // The one that Next lets use its dev server.
    for (let left = 240; ; left--) {
      assert.ok(left > 0 && running.process.exitCode === null, running.output());
      if (
        await fetch(url).then(
          ({ ok }) => ok,
          () => false,
        )
      )
        break;
      await new Promise((wake) => setTimeout(wake, 500));
    }
    await use(url);
  } catch (error) {
    error.message += `\n${running.output()}`;
    throw error;
  } finally {
    running.process.kill();
    if (running.process.exitCode === null) await once(running.process, "exit");
  }
}

test("webpack", async () => {
  const folder = made("webpack", { "main.js": entry, "public/index.html": page("main.js") });
  const { default: webpack } = await import("webpack");
  const compiler = webpack({
    mode: "production",
    context: folder,
    entry: "./main.js",
    output: { path: join(folder, "dist"), filename: "main.js", publicPath: "auto" },
    performance: false,
  });
  const stats = await new Promise((done, fail) => compiler.run((error, stats) => (error ? fail(error) : done(stats))));
  await new Promise((done) => compiler.close(done));
  assert.deepEqual([stats.toJson().errors, stats.toJson().warnings], [[], []]);
  await worksBuilt(browser, [join(folder, "dist"), join(folder, "public")]);
});

test("rollup, with the Worker and the WebAssembly served by oneself", async () => {
  const folder = made("rollup", {
    "main.js":
      'import { tell } from "./tell.js";\ntell({ workerURL: "/engine/worker.js", wasmURL: "/engine/candlewick_bg.wasm", threadsWasmURL: "/engine/candlewick-threads_bg.wasm" });\n',
    "public/index.html": page("main.js"),
  });
  const [{ rollup }, { nodeResolve }] = await Promise.all([import("rollup"), import("@rollup/plugin-node-resolve")]);
  const warnings = [];
  const bundle = await rollup({
    input: join(folder, "main.js"),
    plugins: [nodeResolve({ browser: true })],
    onwarn: ({ message }) => warnings.push(message),
  });
  await bundle.write({ dir: join(folder, "dist"), format: "es" });
  await bundle.close();
  assert.deepEqual(warnings, []);
  copyEngine(folder);
  await worksBuilt(browser, [join(folder, "dist"), join(folder, "public")]);
});

test("Parcel", async () => {
  const folder = made("parcel", { "main.js": entry, "index.html": page("./main.js") });
  await program(folder, "parcel", "lib/bin.js", ["build", "index.html", "--no-cache", "--log-level", "warn"]);
  await worksBuilt(browser, [join(folder, "dist"), join(folder, "public")]);
});

describe("Next", () => {
  let folder;
  before(() => {
    folder = made("next", {
      "app/layout.js":
        'export default ({ children }) => <html lang="en"><head><title>consumer</title></head><body>{children}</body></html>;\n',
      "app/page.js":
        '"use client";\nimport { useEffect } from "react";\nimport { tell } from "../tell.js";\nlet told;\nexport default function Page() {\n  useEffect(() => { told ??= tell(); }, []);\n  return <pre suppressHydrationWarning />;\n}\n',
      "next.config.js": "export default {};\n",
    });
  });
  test("build", async () => {
    await program(folder, "next", "dist/bin/next", ["build"]);
    await serving(
      folder,
      "next",
      "dist/bin/next",
      (port) => ["start", "-p", `${port}`],
      (url) => tellsItsStory(browser, url),
    );
  });
  test("dev", () =>
    serving(
      folder,
      "next",
      "dist/bin/next",
      (port) => ["dev", "-p", `${port}`],
      (url) => tellsItsStory(browser, url),
    ));
});
