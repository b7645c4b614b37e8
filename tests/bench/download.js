// Seconds from load() to a loaded model in headless Chromium: fetched for the first time, and again from what the browser
// has kept; candlewick and wllama, both with OPFS, in turns, over the same server on this machine. And the memory that took.
//
//     ./build.sh npm && node tests/bench/download.js [--model llama-3.2-1b] [--type Q6_K] [--rounds 3] [--only candlewick] [--device cpu]
//
// "renderer" is the most that the page's process has had resident (VmHWM), JavaScript and wasm; "browser" the same of the
// browser's own process, through which storage goes; "wasm" the size of the WebAssembly memory. With `--device gpu` the GPU
// is SwiftShader, in another process, and wllama is left out.
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { launchOnDisk, repository, serve, softwareGPU } from "../browser/support.js";
import { start } from "../hub/server.js";
import { writeRandomModel } from "./random-model.js";
import { resident } from "./resident.js";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "llama-3.2-1b" },
    type: { type: "string", default: "Q6_K" },
    rounds: { type: "string", default: "3" },
    only: { type: "string", default: "" },
    device: { type: "string", default: "cpu" },
  },
});
const folder = join(repository, "target/bench");
const path = join(folder, `${options.model}-${options.type}.gguf`);
mkdirSync(folder, { recursive: true });
if (!existsSync(path)) writeRandomModel(path, options.model, options.type);
const { size } = statSync(path);

const hub = await start();
const files = { "model.gguf": { file: path } };
const repos = { "owner/repo": { commit: "0123456789012345678901234567890123456789", files } };
await fetch(`${hub.hub}/_/bench`, { method: "PUT", body: JSON.stringify({ repos }) });

const page = `<!doctype html><title>bench</title><script type="module">
  import { load } from "/pkg/dist/index.js";
  import { Wllama, LoggerWithoutDebug } from "/tests/node_modules/@wllama/wllama/esm/index.js";
  const hub = "${hub.hub}/bench";
  const channel = new BroadcastChannel("meter");
  const meter = () => new Promise((done) => {
    channel.onmessage = ({ data }) => done(data);
    channel.postMessage("look");
  });
  Object.assign(window, {
    candlewick: async () => {
      const start = performance.now();
      window.engine = await load("owner/repo", { hubURL: hub, device: "${options.device}", contextLength: 512, workerURL: "/tests/bench/metered-worker.js" });
      const seconds = (performance.now() - start) / 1000;
      return { seconds, wasm: (await meter()).memory };
    },
    wllama: async () => {
      const wasm = "/tests/node_modules/@wllama/wllama/esm/wasm/wllama.wasm";
      const start = performance.now();
      window.engine = new Wllama({ default: wasm }, { suppressNativeLog: true, logger: LoggerWithoutDebug });
      await engine.loadModelFromUrl(hub + "/owner/repo/resolve/main/model.gguf", { n_ctx: 512, n_threads: 1, n_gpu_layers: 0 });
      return { seconds: (performance.now() - start) / 1000 };
    },
  });
  document.title = "ready";
</script>`;
const server = await serve({ routes: { "/": page } });

const gpu = options.device === "gpu";
const names = ["candlewick", "wllama"].filter((name) => name.includes(gpu ? "candlewick" : options.only));
const runs = Object.fromEntries(names.map((name) => [name, { first: [], again: [] }]));
for (let round = 0; round < Number(options.rounds); round++) {
  for (const name of names) {
    // A browser of its own: nothing kept, and memory that nobody else has used.
    const profile = mkdtempSync(join(folder, "profile-"));
    const context = await launchOnDisk(profile, gpu ? softwareGPU : []);
    for (const what of ["first", "again"]) {
      const page = await context.newPage();
      await page.goto(server.url);
      await page.waitForFunction(() => document.title === "ready");
      const run = await page.evaluate((name) => window[name](), name);
      runs[name][what].push({
        ...run,
        renderer: await resident(context, "renderer"),
        browser: await resident(context, "browser"),
      });
      await page.close();
    }
    await context.close();
    rmSync(profile, { recursive: true });
  }
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
console.log(
  `${options.model} ${options.type}, ${megabytes(size)}: median seconds (lowest to highest), and how many times candlewick's`,
);
for (const [name, list] of Object.entries(runs)) {
  for (const what of ["first", "again"]) {
    const seconds = list[what].map((run) => run.seconds);
    const ratio = median(seconds.map((value, round) => value / (runs.candlewick ?? list)[what][round].seconds));
    const most = (key) => Math.max(...list[what].map((run) => run[key] ?? NaN));
    console.log(
      `  ${name.padEnd(11)} ${what.padEnd(6)} ${median(seconds).toFixed(2)} (${Math.min(...seconds).toFixed(2)} to ${Math.max(...seconds).toFixed(2)}), ` +
        `× ${ratio.toFixed(2)}; renderer ${megabytes(most("renderer"))}, browser ${megabytes(most("browser"))}` +
        (most("wasm") ? `, wasm ${megabytes(most("wasm"))}` : ""),
    );
  }
}
await server.close();
hub.close();
