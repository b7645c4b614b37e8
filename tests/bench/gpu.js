// What the GPU backend costs in Chromium besides the GPU's own work: wasm memory while a large model loads, the time
// of JavaScript and wasm a token, and the preparation of pipelines. The GPU is SwiftShader, so its own speed says nothing.
//
//     ./build.sh npm && node tests/bench/gpu.js [--model smollm2-360m] [--type Q8_0] [--tokens 100] [--rounds 5]
import { createReadStream, existsSync, mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { launch, openPage, repository, serve, softwareGPU } from "../browser/support.js";
import { writeRandomModel } from "./random-model.js";

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "smollm2-360m" },
    type: { type: "string", default: "Q8_0" },
    tokens: { type: "string", default: "100" },
    rounds: { type: "string", default: "5" },
  },
});
const [tokens, rounds] = [options.tokens, options.rounds].map(Number);
const folder = join(repository, "target/bench");
mkdirSync(folder, { recursive: true });

function model(name, type) {
  const path = join(folder, `${name}-${type}.gguf`);
  if (!existsSync(path)) writeRandomModel(path, name, type);
  return path;
}

/** Ranges of a large file, not all of it for each. */
function ranges(path) {
  const size = statSync(path).size;
  return (request, response) => {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range);
    const end = Math.min(Number(last), size - 1);
    response.writeHead(206, { "content-range": `bytes ${first}-${end}/${size}`, "content-length": end - first + 1 });
    createReadStream(path, { start: Number(first), end }).pipe(response);
  };
}

const page = `<!doctype html><title>bench</title><script type="module">
  import { load } from "/pkg/dist/index.js";
  const channel = new BroadcastChannel("meter");
  const meter = (what) => new Promise((done) => {
    channel.onmessage = ({ data }) => done(data);
    channel.postMessage(what);
  });
  Object.assign(window, { load, meter });
  document.title = "ready";
</script>`;

const large = model(options.model, options.type);
const thin = model("thirty-thin", "Q4_0");
const server = await serve({
  routes: { "/": page, "/large.gguf": ranges(large), "/thin.gguf": ranges(thin) },
  // An isolated page has a clock of 5 µs in place of 100.
  headers: {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
  },
});
const browser = await launch(softwareGPU);

async function inPage(work, argument) {
  const { page, close } = await openPage(browser, `${server.url}/`);
  page.setDefaultTimeout(0);
  await page.waitForFunction(() => document.title === "ready");
  const result = await page.evaluate(work, argument);
  await close();
  return result;
}

const loads = await inPage(async () => {
  const loads = [];
  // From the network into the storage, then from the storage: each in a Worker, and wasm memory, of its own.
  for (const from of ["the network", "the storage"]) {
    const start = performance.now();
    const engine = await load("/large.gguf", {
      device: "gpu",
      contextLength: 512,
      workerURL: "/tests/bench/metered-worker.js",
    });
    const seconds = (performance.now() - start) / 1000;
    const { memory } = await meter("read");
    await engine.completions.create({ prompt: [1, 300, 301], max_tokens: 2, temperature: 0, ignore_eos: true });
    loads.push({
      from,
      seconds,
      loaded: memory,
      answered: (await meter("read")).memory,
      adapter: engine.info.gpu.adapter,
    });
    await engine.unload();
  }
  return loads;
});
console.log(`GPU: ${loads[0].adapter}`);
console.log(`${options.model} ${options.type}, ${(statSync(large).size / 1e6).toFixed(0)} MB`);
for (const { from, seconds, loaded, answered } of loads) {
  const [most, after] = [loaded, answered].map((bytes) => (bytes / 1e6).toFixed(1));
  console.log(
    `loaded from ${from} in ${seconds.toFixed(1)} s; wasm memory: ${most} MB at most while loading, ${after} MB after an answer`,
  );
}

const step = await inPage(
  async ({ tokens, rounds }) => {
    // The second time, the result of the self-test is known.
    const preparations = [];
    let engine;
    for (let visit = 0; visit < 2; visit++) {
      await engine?.unload();
      let from, to;
      const onProgress = ({ stage }) => {
        if (stage === "compile") from ??= performance.now();
        if (stage !== "compile" && from) to ??= performance.now();
      };
      engine = await load("/thin.gguf", {
        device: "gpu",
        contextLength: 512,
        workerURL: "/tests/bench/metered-worker.js",
        onProgress,
      });
      preparations.push({
        milliseconds: to - from,
        pipelines: engine.info.gpu.pipelines,
        selfTest: !engine.info.gpu.selfTest.cached,
      });
    }
    const answer = async (options) => {
      const start = performance.now();
      const { timings } = await engine.completions.create({ prompt: [1, 300], ignore_eos: true, ...options });
      return { wall: performance.now() - start, timings };
    };
    const first = await answer({ max_tokens: 2, temperature: 0 });
    const second = await answer({ max_tokens: 2, temperature: 0 });
    const measure = async (options) => {
      await answer({ max_tokens: 2, ...options });
      const before = await meter("reset");
      const { timings } = await answer({ max_tokens: tokens, ...options });
      const { busy } = await meter("read");
      return { busy: (1000 * busy) / tokens, wall: 1e6 / timings.predicted_per_second };
    };
    const results = [];
    for (let round = 0; round < rounds; round++) {
      results.push({
        greedy: await measure({ temperature: 0 }),
        sampled: await measure({ temperature: 1, top_k: 40, seed: round }),
      });
    }
    return { preparations, more: first.wall - second.wall, results };
  },
  { tokens, rounds },
);
const spread = (numbers) => {
  const sorted = numbers.toSorted((a, b) => a - b);
  return `${sorted[sorted.length >> 1].toFixed(0)} (${sorted[0].toFixed(0)} to ${sorted.at(-1).toFixed(0)})`;
};
for (const { milliseconds, pipelines, selfTest } of step.preparations) {
  console.log(
    `${pipelines} pipelines ready after ${milliseconds.toFixed(0)} ms, ${selfTest ? "with" : "without"} the self-test`,
  );
}
console.log(`the first answer takes ${step.more.toFixed(0)} ms more than the second`);
for (const kind of ["greedy", "sampled"]) {
  const of = (what) => spread(step.results.map((round) => round[kind][what]));
  console.log(`30 thin layers, ${kind}: ${of("busy")} µs of JavaScript and wasm a token, ${of("wall")} µs in all`);
}
await browser.close();
await server.close();
