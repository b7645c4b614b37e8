/** The package as published: packed, installed in a project of its own, and used by Vite, TypeScript and a CDN. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { build, createServer, preview } from "vite";
import { blank, launch, openPage, read, repository, serve, story, storyteller } from "./support.js";

let browser, project, packed;

before(async () => {
  browser = await launch();
  project = realpathSync(mkdtempSync(join(tmpdir(), "candlewick-consumer-")));
  const npm = (...args) => execFileSync("npm", args, { cwd: project, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  cpSync(join(repository, "tests/browser/consumer"), project, { recursive: true });
  cpSync(join(repository, "www/models/stories260K.gguf"), join(project, "public/stories260K.gguf"), { recursive: true });
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }));
  [packed] = JSON.parse(npm("pack", "--json", join(repository, "pkg")));
  npm("install", "--offline", "--no-audit", "--no-fund", `./${packed.filename}`);
});
after(async () => {
  await browser?.close();
  if (project) rmSync(project, { recursive: true });
});

async function tellsItsStory(url) {
  const { page, errors, close } = await openPage(browser, url);
  // Vite's dev server may reload the page once, after it has found the dependency.
  await page.waitForFunction(() => document.title === "done" || document.title.includes(":"));
  assert.equal(await page.title(), "done");
  const text = await page.textContent("pre");
  assert.ok(text.length > 40 && story.startsWith(text), text);
  // The page itself finds the engine; where it does not, its Worker does.
  const fetched = await page.evaluate(() =>
    performance.getEntriesByType("resource").filter(({ name }) => name.includes(".wasm")).map(({ responseStatus, decodedBodySize }) => [responseStatus, decodedBodySize > 1e6]),
  );
  assert.deepEqual(fetched, [[200, true]]);
  assert.deepEqual(errors, []);
  await close();
}

const config = () => ({ root: project, configFile: false, logLevel: "error", server: { port: 0 }, preview: { port: 0 }, build: { target: "es2022" } });

test("the tarball holds what is needed and nothing else", () => {
  const files = packed.files.map(({ path }) => path);
  for (const needed of ["package.json", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "dist/index.js", "dist/index.d.ts", "dist/worker.js", "wasm/candlewick.js", "wasm/candlewick_bg.wasm", "wasm/candlewick-threads_bg.wasm"]) {
    assert.ok(files.includes(needed), needed);
  }
  assert.deepEqual(files.filter((path) => !/^(dist\/\w+(\.d\.ts|\.js)|wasm\/[\w-]+(\.d\.ts|\.js|\.wasm|\.wasm\.d\.ts)|package\.json|README\.md|LICENSE-\w+)$/.test(path)), []);
});

test("it has no dependencies", () => {
  const { dependencies, peerDependencies } = JSON.parse(read("pkg/package.json"));
  assert.deepEqual({ ...dependencies, ...peerDependencies }, {});
});

test("its types are sound, and say what `stream` means", () => {
  const tsc = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc");
  execFileSync(process.execPath, [tsc, "-p", project], { stdio: "inherit" });
});

test("works in Vite's dev server", async () => {
  const server = await createServer(config());
  await server.listen();
  await tellsItsStory(server.resolvedUrls.local[0]);
  await server.close();
});

test("works in a Vite build", async () => {
  await build(config());
  const server = await preview(config());
  await tellsItsStory(server.resolvedUrls.local[0]);
  await server.close();
});

test("works from another origin, as from a CDN", async () => {
  const cdn = await serve({ headers: { "access-control-allow-origin": "*" } });
  const server = await serve({ routes: { "/": blank.replace("/pkg/dist", `${cdn.url}/pkg/dist`), "/model.gguf": storyteller } });
  const { page, close } = await openPage(browser, server.url);
  await page.waitForFunction(() => document.title === "ready");
  const text = await page.evaluate(async () => (await (await load("/model.gguf")).completions.create({ ...greedy, max_tokens: 20 })).choices[0].text);
  assert.ok(story.startsWith(text) && text.length > 10, text);
  await close();
  await server.close();
  await cdn.close();
});
