// Seconds from load() to the first token of a one-token prompt, in headless Chromium, of a model that is in memory or,
// with --file, a file as users pick it, and what they are made of.
// `node tests/bench/load.js [--model name] [--type T] [--rounds n] [--file] [--wasm FOLDER]`, after `./build.sh bench`.
// FOLDER has another build of pkg/wasm, measured beside it.
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { blank, launch, openPage, repository, serve } from "../browser/support.js";
import { writeRandomModel } from "./random-model.js";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-135m" },
    type: { type: "string", default: "Q4_0" },
    rounds: { type: "string", default: "5" },
    file: { type: "boolean", default: false },
    wasm: { type: "string" },
  },
});

const routes = { "/": blank };
const headers = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
const servers = {
  "candlewick.wasm": await serve({ routes }),
  "candlewick-threads.wasm": await serve({ routes, headers }),
};
if (options.wasm) {
  const names = readdirSync(options.wasm).filter((name) => /\.(js|wasm)$/.test(name));
  const others = Object.fromEntries(names.map((name) => [`/pkg/wasm/${name}`, readFileSync(join(options.wasm, name))]));
  servers["candlewick.wasm, other build"] = await serve({ routes: { ...routes, ...others } });
  servers["candlewick-threads.wasm, other build"] = await serve({ routes: { ...routes, ...others }, headers });
}
const url = join("/target/bench", `${options.model}-${options.type}.gguf`);
const path = join(repository, url);
mkdirSync(join(repository, "target/bench"), { recursive: true });
if (!existsSync(path)) writeRandomModel(path, options.model, options.type);
const browser = await launch();

/** One load in a page that has the model. Times in seconds since the call. */
const once = async () => {
  const start = performance.now();
  const since = () => (performance.now() - start) / 1000;
  let reading;
  const engine = await load(window.model, {
    device: "cpu",
    contextLength: 1024,
    onProgress: () => (reading ??= since()),
  });
  const loaded = since();
  const request = { prompt: [300], max_tokens: 1, temperature: 0, ignore_eos: true };
  await engine.completions.create(request);
  const token = since();
  await engine.unload();
  return { "engine ready to read": reading, loaded, "first token": token, threads: engine.info.threads };
};

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const runs = Object.fromEntries(Object.keys(servers).map((file) => [file, []]));
const pages = {};
for (const [file, server] of Object.entries(servers)) {
  const { page } = (pages[file] = await openPage(browser, `${server.url}/`));
  page.setDefaultTimeout(0);
  await page.waitForFunction(() => document.title === "ready");
  if (options.file) {
    await page.setContent('<input type="file">');
    await page.setInputFiles("input", path);
    await page.evaluate(() => (window.model = document.querySelector("input").files[0]));
  } else {
    await page.evaluate(async (url) => (window.model = await (await fetch(url)).arrayBuffer()), url);
  }
  runs[file].first = await page.evaluate(once); // nothing in the browser's caches yet
}
for (let round = 0; round < Number(options.rounds); round++) {
  for (const file of Object.keys(servers)) runs[file].push(await pages[file].page.evaluate(once));
}
for (const [file, list] of Object.entries(runs)) {
  console.log(`${options.model} ${options.type}, ${file}: seconds until`);
  for (const what of ["engine ready to read", "loaded", "first token"]) {
    const all = list.map((run) => run[what]);
    const [middle, least, most, first] = [median(all), Math.min(...all), Math.max(...all), list.first[what]].map((x) =>
      x.toFixed(2),
    );
    console.log(`  ${what.padEnd(22)} ${middle} (${least} to ${most}), the first time ${first}`);
  }
  console.log(`  with ${list.map((run) => run.threads).join(", ")} threads`);
}
await browser.close();
await Promise.all(Object.values(servers).map((server) => server.close()));
