/** The built Worker in workerd, with the settings of its wrangler.jsonc, and the double of the router as its upstream. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { start } from "../remote/server.js";

export const repository = join(dirname(fileURLToPath(import.meta.url)), "../..");
const folder = join(repository, "www/edge");
if (!existsSync(join(folder, "dist/index.js"))) throw new Error("www/edge/dist is missing; run ./build.sh edge first");

const require = createRequire(join(folder, "package.json"));
export const { Miniflare } = require("miniflare");
const { unstable_getMiniflareWorkerOptions: optionsOf } = require("wrangler");

export const TOKEN = "hf_secretsecretsecret";
export const KEY = "key-of-a-program";
export const TEXT = "Süße Grüße: 你好 🌍, it works.";
export const story = readFileSync(join(repository, "tests/fixtures/goldens/stories260K.greedy.txt"), "utf8").trimEnd();

/** What workerd runs of a folder: its first file is the Worker. */
export const modules = (files) =>
  files.map((path) => ({ type: path.endsWith(".wasm") ? "CompiledWasm" : "ESModule", path }));

/** Runs Workers; `log` is all that they and workerd have written. */
export async function run(workers) {
  const lines = [];
  const listen = (stream) => stream.setEncoding("utf8").on("data", (text) => lines.push(text));
  const miniflare = new Miniflare({
    workers,
    handleRuntimeStdio: (stdout, stderr) => [stdout, stderr].forEach(listen),
  });
  const url = (await miniflare.ready).origin;
  return {
    url,
    log: () => lines.join(""),
    bucket: (name) => miniflare.getR2Bucket(name),
    close: () => miniflare.dispose(),
  };
}

/** A Worker made for tests, with candlewick's WebAssembly beside it. */
export function withWasm(file) {
  const wasm = ["candlewick.js", "candlewick_bg.wasm"].map((name) => ({
    name,
    path: join(repository, "pkg/wasm", name),
  }));
  const named = [{ name: file, path: join(repository, "tests/edge", file) }, ...wasm];
  // By name, as if they lay in one folder: their imports are relative.
  const all = named.map(({ name, path }) =>
    name.endsWith(".wasm")
      ? { type: "CompiledWasm", path: name, contents: readFileSync(path) }
      : { type: "ESModule", path: name, contents: readFileSync(path, "utf8") },
  );
  return run([{ name: "test", compatibilityDate: "2026-04-15", modules: all }]);
}

/** Starts the Worker: `bindings` are variables and secrets, `options` change miniflare's, `beside` are more Workers, `files` is a folder in place of the page's. */
export async function edge(bindings = {}, { beside = [], files: page, ...options } = {}) {
  const { workerOptions } = optionsOf(join(folder, "wrangler.jsonc"));
  const dist = join(folder, "dist");
  const files = ["index.js", ...readdirSync(dist).filter((file) => file.endsWith(".wasm"))];
  const worker = {
    ...workerOptions,
    // The tests of other things make more requests than one person does.
    ratelimits: { RATE_LIMITER: { simple: { limit: 100_000, period: 60 } } },
    ...(page === undefined ? {} : { assets: { ...workerOptions.assets, directory: page } }),
    ...options,
    name: "edge",
    modulesRoot: dist,
    modules: modules(files.map((file) => join(dist, file))),
    bindings: { ...workerOptions.bindings, HF_TOKEN: TOKEN, CLIENT_KEYS: KEY, ...bindings },
  };
  const running = await run([worker, ...beside]);
  /** Asks as a program does: with the key. */
  const ask = (path, body, init = {}) =>
    fetch(running.url + path, {
      ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
      ...init,
      headers: { Authorization: `Bearer ${KEY}`, ...init.headers },
    });
  return { ...running, ask };
}

export { start };

/** A promise and what settles it. */
export function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { opened, open };
}

/** An answer's text, as far as it is asked for. */
export function reading(response) {
  const [reader, decoder] = [response.body.getReader(), new TextDecoder()];
  let [text, done] = ["", false];
  const more = async () => {
    const piece = await reader.read();
    done = piece.done;
    text += decoder.decode(piece.value, { stream: !done });
  };
  return {
    soFar: () => text,
    until: async (mark) => {
      while (!done && !text.includes(mark)) await more();
      return text;
    },
    end: async () => {
      while (!done) await more();
      return text;
    },
  };
}

/** The parsed events of a stream, without its end. */
export const events = (text) =>
  text
    .split("\n")
    .filter((line) => line.startsWith("data: ") && line !== "data: [DONE]")
    .map((line) => JSON.parse(line.slice(6)));

/** The text of a stream of a conversation, or of a text's continuation. */
export const textOf = (chunks) =>
  chunks.map(({ choices }) => choices[0]?.delta?.content ?? choices[0]?.text ?? "").join("");
