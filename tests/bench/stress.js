// Loads in isolated pages, one after another, with threads: how many come up, and how long they take. A load that has not
// come up within a minute counts as hung, and ends it all with status 1.
// `node tests/bench/stress.js [--browser firefox|webkit|chromium] [--loads n] [--threads n] [--page n]`; a page is loaded
// anew after so many loads. After `./build.sh demo`.
import { parseArgs } from "node:util";
import { blank, isolation, launch, serve } from "../browser/support.js";

const { values: options } = parseArgs({
  options: {
    browser: { type: "string", default: "firefox" },
    loads: { type: "string", default: "500" },
    threads: { type: "string", default: "2" },
    page: { type: "string", default: "10" },
  },
});
const [loads, threads, perPage] = [options.loads, options.threads, options.page].map(Number);
const server = await serve({ routes: { "/": blank }, headers: isolation });
const browser = await launch([], { name: options.browser });

/** Loads, has a word told, and unloads. */
const once = async (threads) => {
  const start = performance.now();
  const coming = load(story, { device: "cpu", threads }).then(async (engine) => {
    const loaded = performance.now() - start;
    const { choices } = await engine.completions.create({ ...greedy, max_tokens: 3 });
    await engine.unload();
    return {
      loaded,
      told: choices[0].text,
      threads: engine.info.threads,
      wasm: `${engine.info.wasm}: ${engine.info.wasmReason}`,
    };
  });
  return Promise.race([coming, sleep(60_000).then(() => ({ hung: true }))]);
};

const times = [];
const ran = {};
const count = (what) => (ran[what] = (ran[what] ?? 0) + 1);
let hung = 0;
let page, context;
const started = performance.now();
for (let index = 0; index < loads; index++) {
  if (index % perPage === 0) {
    await context?.close();
    context = await browser.newContext();
    page = await context.newPage();
    await page.goto(`${server.url}/`);
    await page.waitForFunction(() => document.title === "ready");
  }
  const seen = await page.evaluate(once, threads);
  if (seen.hung) {
    hung++;
    console.log(`load ${index + 1} of ${loads} hangs`);
    index += perPage - 1 - (index % perPage); // In a new page.
    continue;
  }
  times.push(seen.loaded);
  count(`${seen.threads} threads, ${seen.wasm}`);
  count(`told ${JSON.stringify(seen.told)}`);
}
await context.close();
await browser.close();
await server.close();
times.sort((a, b) => a - b);
const at = (share) => Math.round(times[Math.min(times.length - 1, Math.floor(share * times.length))]);
console.log(
  `${options.browser}: ${times.length} loads came up, ${hung} hung; ${Math.round((performance.now() - started) / 1000)} s in all`,
);
console.log(`milliseconds of a load: median ${at(0.5)}, 90 % ${at(0.9)}, longest ${at(1)}`);
for (const [what, times] of Object.entries(ran)) console.log(`  ${times} × ${what}`);
process.exit(hung > 0 ? 1 : 0);
