/** The package as its users have it: packed, installed in a project of theirs, and opened in Chromium. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, createReadStream, existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { once } from "node:events";
import { extname, join, normalize, sep } from "node:path";
import { openPage, read, repository, story } from "./support.js";

const npm = (cwd, ...args) =>
  execFileSync("npm", args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });

/** Packs the package into a folder; what npm says of the tarball. */
export function pack(folder) {
  return JSON.parse(npm(folder, "pack", "--json", join(repository, "pkg")))[0];
}

/** The ways of installing what is not published, as npm's arguments. */
export const ways = {
  tarball: ({ filename, folder }) => [join(folder, filename)],
  "--install-links": () => ["--install-links", join(repository, "pkg")],
  symlink: () => ["--no-install-links", join(repository, "pkg")],
};

/** A project with the package and a model to be served. */
export function project(folder, files, install) {
  mkdirSync(join(folder, "public"), { recursive: true });
  cpSync(join(repository, "www/models/stories260K.gguf"), join(folder, "public/stories260K.gguf"));
  const manifest = { name: "consumer", private: true, type: "module" };
  for (const [name, contents] of Object.entries({ "package.json": JSON.stringify(manifest), ...files })) {
    mkdirSync(join(folder, name, ".."), { recursive: true });
    writeFileSync(join(folder, name), contents);
  }
  npm(folder, "install", "--offline", "--no-audit", "--no-fund", ...install);
  return folder;
}

/** Opens the page that tells its story, and sees where it had it from. */
export async function tellsItsStory(browser, url) {
  const { page, errors, close } = await openPage(browser, url);
  try {
    // Vite's dev server may reload the page once, after it has found the dependency.
    await page.waitForFunction(() => document.title === "done" || document.title.includes(":"));
    assert.equal(await page.title(), "done");
    const text = await page.textContent("pre");
    assert.ok(text.length > 40 && story.startsWith(text), text);
    // The page itself finds the engine; where it does not, its Worker does.
    const fetched = await page.evaluate(() =>
      performance
        .getEntriesByType("resource")
        .filter(({ name }) => name.includes(".wasm"))
        .map(({ responseStatus, decodedBodySize }) => [responseStatus, decodedBodySize > 1e6]),
    );
    assert.deepEqual(fetched, [[200, true]]);
    assert.deepEqual(errors, []);
    return await page.evaluate(() => ({ isolated: crossOriginIsolated, ...document.querySelector("pre").dataset }));
  } finally {
    await close();
  }
}

const types = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};
const isolation = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** Serves folders as a static host does, the first that has a file; `isolated` for threads. */
export async function host(folders, { isolated = false } = {}) {
  const server = createServer(({ url }, response) => {
    const path = normalize(decodeURIComponent(new URL(url, "http://localhost").pathname)).replace(/\/$/, "/index.html");
    const files = folders.map((folder) => [folder, join(folder, path)]);
    const [, file] =
      files.find(([folder, file]) => file.startsWith(folder + sep) && existsSync(file) && statSync(file).isFile()) ??
      [];
    if (file === undefined) return response.writeHead(404).end();
    response.writeHead(200, {
      ...(isolated ? isolation : {}),
      "Content-Type": types[extname(file)] ?? "application/octet-stream",
      "Content-Length": statSync(file).size,
    });
    createReadStream(file).pipe(response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A built page works on a static host, with isolation and without. */
export async function worksBuilt(browser, folders) {
  const threads = read("pkg/wasm/candlewick-threads_bg.wasm").length > 0; // Where that could be built.
  for (const isolated of [false, true]) {
    if (isolated && !threads) continue;
    const served = await host(folders, { isolated });
    const told = await tellsItsStory(browser, served.url);
    assert.deepEqual([told.isolated, told.wasm], [isolated, isolated ? "candlewick-threads.wasm" : "candlewick.wasm"]);
    served.close();
  }
}

/** What the README tells those to copy whose bundler does not do it. */
export function copyEngine(folder) {
  for (const path of ["dist/worker.js", "wasm/candlewick_bg.wasm", "wasm/candlewick-threads_bg.wasm"]) {
    cpSync(
      join(folder, "node_modules/candlewick", path),
      join(folder, "public/engine", path.slice(path.indexOf("/") + 1)),
    );
  }
}
