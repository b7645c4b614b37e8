// Tokens per second of random models shaped like published ones: natively, and in headless Chromium through the
// npm package. `./build.sh bench` runs it; options: --models a,b --types a,b --rounds n --prompt n --predict n.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { blank, launch, openPage, repository, serve } from "../browser/support.js";
import { writeRandomModel } from "./random-model.js";

const { values: options } = parseArgs({
  options: {
    models: { type: "string", default: "smollm2-135m" },
    types: { type: "string", default: "Q4_0,Q8_0" },
    rounds: { type: "string", default: "5" },
    prompt: { type: "string", default: "128" },
    predict: { type: "string", default: "32" },
  },
});
const [rounds, prompt, predict] = [options.rounds, options.prompt, options.predict].map(Number);
const folder = join(repository, "target/bench");
const binary = join(repository, "target/fast/candlewick");

const median = (numbers) => {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};
const spread = (numbers) => ({ median: median(numbers), min: Math.min(...numbers), max: Math.max(...numbers) });

function model(name, type) {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, `${name}-${type}.gguf`);
  if (!existsSync(path)) writeRandomModel(path, name, type);
  return path;
}

/** One round natively, with so many threads. */
function native(path, threads) {
  const args = ["bench", path, "-p", prompt, "-n", predict, "-r", 1, "--json", "--threads", threads];
  const result = JSON.parse(execFileSync(binary, args.map(String), { encoding: "utf8" }));
  return { prompt: result.prompt_per_second.median, predicted: result.predicted_per_second.median };
}

/** One round in the page, and how long loading took where this is the first. */
async function inBrowser(page, url, round) {
  return page.evaluate(
    async ({ url, round, prompt, predict }) => {
      const before = performance.now();
      window.engine ??= await load(url, { contextLength: 1024 });
      const seconds = (performance.now() - before) / 1000;
      // Every round begins with another token, so that none finds its prompt in the KV cache.
      const tokens = Array.from({ length: prompt }, (_, i) => 300 + ((round + i * 7919) % 40000));
      const request = { prompt: tokens, max_tokens: predict, temperature: 0, ignore_eos: true };
      const { timings } = await window.engine.completions.create(request);
      return { prompt: timings.prompt_per_second, predicted: timings.predicted_per_second, seconds };
    },
    { url, round, prompt, predict },
  );
}

const server = await serve({ routes: { "/": blank } });
const browser = await launch();
const cores = cpus().length;
const results = [];
for (const name of options.models.split(",")) {
  for (const type of options.types.split(",")) {
    const path = model(name, type);
    const url = `/target/bench/${name}-${type}.gguf`;
    const { page, close } = await openPage(browser, `${server.url}/`);
    page.setDefaultTimeout(0);
    await page.waitForFunction(() => document.title === "ready");
    const { seconds } = await inBrowser(page, url, rounds + 1); // loads and warms up
    const runs = { [`native, ${cores} threads`]: [], "native, 1 thread": [], "Chromium, 1 thread": [] };
    // Taking turns, so that a busy moment of the machine hits all alike.
    for (let round = 0; round < rounds; round++) {
      runs[`native, ${cores} threads`].push(native(path, cores));
      runs["native, 1 thread"].push(native(path, 1));
      runs["Chromium, 1 thread"].push(await inBrowser(page, url, round));
    }
    await close();
    for (const [where, list] of Object.entries(runs)) {
      const result = {
        model: name,
        type,
        where,
        prompt_per_second: spread(list.map((run) => run.prompt)),
        predicted_per_second: spread(list.map((run) => run.predicted)),
      };
      results.push(result);
      const show = ({ median, min, max }) => `${median.toFixed(1)} (${min.toFixed(1)} to ${max.toFixed(1)})`;
      console.log(
        `${name} ${type}, ${where}: prompt ${show(result.prompt_per_second)}, answer ${show(result.predicted_per_second)} tokens/s`,
      );
    }
    console.log(`${name} ${type}, Chromium: ${statSync(path).size / 1e6} MB loaded from loopback in ${seconds.toFixed(2)} s`);
  }
}
await browser.close();
await server.close();
const report = join(folder, "results.json");
writeFileSync(report, JSON.stringify({ prompt, predict, rounds, results }, null, 2));
console.log(`written to ${report}`);
