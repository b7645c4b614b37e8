// Where the time of a prompt and of an answer goes in Chromium, operation by operation:
//   node tests/bench/profile.js target/bench/smollm2-135m-Q4_0.gguf --prompt 2016 --predict 32 --threads 1
// for candlewick.wasm and candlewick-threads.wasm. Measuring costs about a microsecond a call.
import { parseArgs } from "node:util";
import { relative, resolve } from "node:path";
import { blank, launch, openPage, repository, serve } from "../browser/support.js";
import { prompt } from "./random-model.js";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prompt: { type: "string", default: "128" },
    predict: { type: "string", default: "32" },
    /** 0 takes the likeliest token. */
    temperature: { type: "string", default: "0" },
    threads: { type: "string", default: "1" },
    /** Lines of each table. */
    lines: { type: "string", default: "14" },
  },
});
const numbers = [options.prompt, options.predict, options.threads, options.lines, options.temperature].map(Number);
const [length, predict, threads, lines, temperature] = numbers;
const url = `/${relative(repository, resolve(positionals[0]))}`;

const headers = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
const builds = { simd128: {}, relaxed: { headers } };
const browser = await launch();

function table(title, times) {
  const total = times.reduce((sum, { nanoseconds }) => sum + nanoseconds, 0);
  console.log(`\n${title}: ${(total / 1e6).toFixed(1)} ms in operations`);
  for (const { kernel, calls, nanoseconds } of times.slice(0, lines)) {
    const share = ((100 * nanoseconds) / total).toFixed(1);
    console.log(
      `  ${share.padStart(5)} %  ${(nanoseconds / calls / 1e3).toFixed(1).padStart(8)} µs × ${String(calls).padEnd(6)} ${kernel}`,
    );
  }
}

for (const [name, settings] of Object.entries(builds)) {
  const server = await serve({ routes: { "/": blank }, ...settings });
  const { page, close } = await openPage(browser, `${server.url}/`);
  page.setDefaultTimeout(0);
  await page.waitForFunction(() => document.title === "ready");
  const measured = await page.evaluate(
    async ({ url, prompts, predict, threads, temperature }) => {
      const contextLength = prompts[0].length + predict + 64;
      const engine = await load(url, { contextLength, threads, device: "cpu", profile: true });
      const complete = (prompt, max_tokens) =>
        engine.completions.create({ prompt, max_tokens, temperature, ignore_eos: true });
      await complete(prompts[0], 4); // warms up
      await engine.profile();
      await complete(prompts[1], 1);
      const prompted = await engine.profile();
      // The prompt's keys and values are there; its last token is computed again.
      await complete(prompts[1], predict);
      return { prompted, predicted: await engine.profile() };
    },
    { url, prompts: [0, 1].map((turn) => prompt(length, turn).tokens), predict, threads, temperature },
  );
  table(`${name}, ${threads} threads, prompt of ${length} tokens`, measured.prompted);
  table(`${name}, ${threads} threads, answer of ${predict} tokens after it`, measured.predicted);
  await close();
  await server.close();
}
await browser.close();
