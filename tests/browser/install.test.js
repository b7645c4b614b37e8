/** The package as published: packed, installed in a project of its own, and used by Vite, esbuild, TypeScript and a CDN. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import * as esbuild from "esbuild";
import { build, createServer, preview } from "vite";
import { copyEngine, pack, project, tellsItsStory, ways, worksBuilt } from "./consumer.js";
import { blank, launch, openPage, read, repository, serve, story, storyteller } from "./support.js";

const consumer = join(repository, "tests/browser/consumer");
const telling = readFileSync(join(consumer, "tell.js"), "utf8");
const pageOf = (script) =>
  `<!doctype html><title>consumer</title><pre></pre><script type="module" src="${script}"></script>`;

let browser, folder, packed;

before(async () => {
  browser = await launch();
  folder = realpathSync(mkdtempSync(join(tmpdir(), "candlewick-consumer-")));
  packed = { ...pack(folder), folder };
});
after(async () => {
  await browser?.close();
  if (folder) rmSync(folder, { recursive: true });
});

test("the tarball holds what is needed and nothing else", () => {
  const files = packed.files.map(({ path }) => path);
  for (const needed of [
    "package.json",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "dist/index.js",
    "dist/index.d.ts",
    "dist/worker.js",
    "dist/file.d.ts",
    "wasm/candlewick_bg.wasm",
    "wasm/candlewick-threads_bg.wasm",
    "wasm/candlewick-threads-plain_bg.wasm",
  ]) {
    assert.ok(files.includes(needed), needed);
  }
  assert.deepEqual(
    files.filter(
      (path) =>
        !/^(dist\/[\w-]+(\.d\.ts|\.js)|wasm\/[\w-]+(\.d\.ts|\.js|\.wasm|\.wasm\.d\.ts)|package\.json|README\.md|LICENSE-\w+)$/.test(
          path,
        ),
    ),
    [],
  );
});

test("it has no dependencies", () => {
  const { dependencies, peerDependencies } = JSON.parse(read("pkg/package.json"));
  assert.deepEqual({ ...dependencies, ...peerDependencies }, {});
});

test("the Worker's script is one file", () => {
  assert.doesNotMatch(read("pkg/dist/worker.js").toString(), /^\s*(import|export)\b(?!\.meta|\()/m);
});

const require = createRequire(import.meta.url);

describe("its types are sound, say what `stream` means, and OpenAI's fit them", () => {
  let typed;
  before(() => {
    typed = project(join(folder, "types"), {}, ways.tarball(packed));
    cpSync(consumer, typed, { recursive: true });
    symlinkSync(join(repository, "tests/node_modules/openai"), join(typed, "node_modules/openai"));
  });
  for (const typescript of ["typescript52", "typescript"]) {
    const { version } = require(`${typescript}/package.json`);
    for (const exact of ["true", "false"]) {
      test(`TypeScript ${version}, exactOptionalPropertyTypes ${exact}`, () => {
        const tsc = join(dirname(require.resolve(`${typescript}/package.json`)), "bin/tsc");
        execFileSync(process.execPath, [tsc, "-p", typed, "--exactOptionalPropertyTypes", exact], { stdio: "inherit" });
      });
    }
  }
});

describe("Vite needs no configuration", () => {
  /** What the README tells those who link the folder. */
  const hints = { symlink: { server: { fs: { allow: [".", join(repository, "pkg")] } } } };
  for (const [way, install] of Object.entries(ways)) {
    const hint = hints[way] ?? {};
    test(`${hints[way] ? "but a hint " : ""}where it was installed by ${way}`, async () => {
      const root = project(join(folder, `vite-${way}`), {}, install(packed));
      cpSync(consumer, root, { recursive: true });
      const config = () => ({
        root,
        configFile: false,
        logLevel: "error",
        ...hint,
        server: { port: 0, ...hint.server },
        preview: { port: 0 },
        build: { target: "es2022" },
      });
      const dev = await createServer(config());
      await dev.listen();
      await tellsItsStory(browser, dev.resolvedUrls.local[0]);
      await dev.close();
      await build(config());
      const built = await preview(config());
      await tellsItsStory(browser, built.resolvedUrls.local[0]);
      await built.close();
    });
  }
});

test("works in a plain page, from node_modules", async () => {
  const map = '<script type="importmap">{"imports": {"candlewick": "/node_modules/candlewick/dist/index.js"}}</script>';
  const root = project(
    join(folder, "plain"),
    {
      "tell.js": telling,
      "main.js": 'import { tell } from "./tell.js";\ntell();\n',
      "index.html": map + pageOf("/main.js"),
    },
    ways.tarball(packed),
  );
  await worksBuilt(browser, [root, join(root, "public")]);
});

test("works with esbuild, with the Worker and the WebAssembly served by oneself", async () => {
  const root = project(
    join(folder, "esbuild"),
    {
      "tell.js": telling,
      "main.js":
        'import { tell } from "./tell.js";\ntell({ workerURL: "/engine/worker.js", wasmURL: "/engine/candlewick_bg.wasm", threadsWasmURL: "/engine/candlewick-threads_bg.wasm" });\n',
      "public/index.html": pageOf("/main.js"),
    },
    ways.tarball(packed),
  );
  const { warnings } = await esbuild.build({
    entryPoints: [join(root, "main.js")],
    outfile: join(root, "dist/main.js"),
    bundle: true,
    format: "esm",
    logLevel: "silent",
  });
  assert.deepEqual(warnings, []);
  copyEngine(root);
  await worksBuilt(browser, [join(root, "dist"), join(root, "public")]);
});

test("works from another origin, as from a CDN", async () => {
  const cdn = await serve({ headers: { "access-control-allow-origin": "*" } });
  const server = await serve({
    routes: { "/": blank.replace("/pkg/dist", `${cdn.url}/pkg/dist`), "/model.gguf": storyteller },
  });
  const { page, close } = await openPage(browser, server.url);
  await page.waitForFunction(() => document.title === "ready");
  const text = await page.evaluate(
    async () => (await (await load("/model.gguf")).completions.create({ ...greedy, max_tokens: 20 })).choices[0].text,
  );
  assert.ok(story.startsWith(text) && text.length > 10, text);
  await close();
  await server.close();
  await cdn.close();
});
