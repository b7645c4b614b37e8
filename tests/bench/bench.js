// Tokens per second of random models shaped like published ones: candlewick natively and in headless Chromium, wllama in
// the same Chromium, and native llama.cpp where Python has llama-cpp-python. `./build.sh bench` runs it; README.md lists
// the options.
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { blank, launch, openPage, repository, serve } from "../browser/support.js";
import { picture } from "./picture.js";
import { ceilings, kernelsAreBuilt } from "./kernels.js";
import { multiplications, prompt, writeRandomModel } from "./random-model.js";

const { values: options } = parseArgs({
  options: {
    models: { type: "string", default: "smollm2-135m" },
    types: { type: "string", default: "Q4_0,Q8_0,Q4_K_M" },
    rounds: { type: "string", default: "5" },
    /** Lengths, separated by commas; the slow-down of the others against the first is shown. */
    prompt: { type: "string", default: "128" },
    predict: { type: "string", default: "32" },
    /** A regular expression: only the runners whose names it matches. */
    only: { type: "string", default: "" },
    /** A folder with another build of pkg/wasm, or of all of pkg, measured beside it. */
    wasm: { type: "string" },
  },
});
const [rounds, predict] = [options.rounds, options.predict].map(Number);
const lengths = options.prompt.split(",").map(Number);
const folder = join(repository, "target/bench");
const binary = join(repository, "target/fast/candlewick");
const cores = cpus().length;
const contextLength = Math.max(...lengths) + predict + 64;

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

// A runner starts with a model and gives `run(turn, length)`, which measures one turn with a prompt of that length, and
// `close()`.

const native = (threads) => async (path) => ({
  run: async (_turn, length) => {
    const args = [
      "bench",
      path,
      "-p",
      length,
      "-n",
      predict,
      "-r",
      1,
      "--json",
      "--device",
      "cpu",
      "--threads",
      threads,
    ];
    const result = JSON.parse(
      execFileSync(binary, args.map(String), { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }),
    );
    return { prompt: result.prompt_per_second.median, predicted: result.predicted_per_second.median };
  },
  close: () => {},
});

const llamaCpp = (threads) => async (path) => {
  const script = join(repository, "tests/bench/rival.py");
  const child = spawn(python, [script, path, predict, threads].map(String), { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    run: async (turn, length) => {
      child.stdin.write(`${JSON.stringify(prompt(length, turn).tokens)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error("rival.py has ended");
      return JSON.parse(value);
    },
    close: () => child.stdin.end(),
  };
};

/** In a page of its own at `origin`; `load` and `run` are functions for the page. */
const inPage = (origin, load, run, settings) => async (path) => {
  const { page, close } = await openPage(browser, `${origin}/`);
  page.setDefaultTimeout(0);
  await page.waitForFunction(() => document.title === "ready");
  const url = path.slice(repository.length);
  const before = performance.now();
  await page.evaluate(load, { url, contextLength, ...settings });
  const seconds = (performance.now() - before) / 1000;
  return { run: (turn, length) => page.evaluate(run, { ...prompt(length, turn), predict }), close, seconds };
};

const candlewick = (origin, threads) =>
  inPage(
    origin,
    async ({ url, contextLength, threads }) =>
      (window.engine = await load(url, { contextLength, threads, device: "cpu" })),
    async ({ tokens, predict }) => {
      const request = { prompt: tokens, max_tokens: predict, temperature: 0, ignore_eos: true };
      const { timings } = await engine.completions.create(request);
      return { prompt: timings.prompt_per_second, predicted: timings.predicted_per_second };
    },
    { threads },
  );

const wllama = (origin, threads) =>
  inPage(
    origin,
    async ({ url, contextLength, threads }) => {
      const { Wllama, LoggerWithoutDebug } = await import("/tests/node_modules/@wllama/wllama/esm/index.js");
      const wasm = "/tests/node_modules/@wllama/wllama/esm/wasm/wllama.wasm";
      window.engine = new Wllama({ default: wasm }, { suppressNativeLog: true, logger: LoggerWithoutDebug });
      const file = await (await fetch(url)).blob();
      await engine.loadModel([file], { n_ctx: contextLength, n_threads: threads, n_gpu_layers: 0 });
    },
    async ({ text, predict }) => {
      const request = { prompt: text, max_tokens: predict, temperature: 0, ignore_eos: true };
      const { timings, usage } = await engine.createCompletion(request);
      if (usage.completion_tokens !== predict) throw new Error(`wllama ended after ${usage.completion_tokens} tokens`);
      return { prompt: timings.prompt_per_second, predicted: timings.predicted_per_second };
    },
    { threads },
  );

// What shared memory, and so threads, ask of a page.
const headers = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
const routes = { "/": blank };
// Without the headers candlewick.wasm runs, with them candlewick-threads.wasm, which has relaxed SIMD.
const servers = [await serve({ routes, headers }), await serve({ routes })];
if (options.wasm) {
  // A package goes with its own wasm: interfaces change.
  const whole = existsSync(join(options.wasm, "dist"));
  const built = (folder, at) =>
    readdirSync(folder)
      .map((name) => [`${at}/${name}`, join(folder, name)])
      .filter(([, path]) => statSync(path).isFile());
  const files = whole
    ? ["dist", "wasm"].flatMap((name) => built(join(options.wasm, name), `/pkg/${name}`))
    : built(options.wasm, "/pkg/wasm");
  const others = Object.fromEntries(files.map(([at, path]) => [at, readFileSync(path)]));
  servers.push(
    await serve({ routes: { ...routes, ...others }, headers }),
    await serve({ routes: { ...routes, ...others } }),
  );
}
const python = [process.env.PYTHON, "python3", "python"].find(
  (name) => name && spawnSync(name, ["-c", "import llama_cpp"], { stdio: "ignore" }).status === 0,
);
if (!python) console.log("native llama.cpp is left out: no Python with llama-cpp-python (set PYTHON)");

const browser = await launch();
const [origin, plain, otherOrigin, otherPlain] = servers.map(({ url }) => url);
const runners = {
  "candlewick, Chromium, 1 thread, simd128": candlewick(plain, 1),
  ...(options.wasm && { "candlewick, Chromium, 1 thread, simd128, other wasm": candlewick(otherPlain, 1) }),
  "candlewick, Chromium, 1 thread, relaxed": candlewick(origin, 1),
  ...(options.wasm && { "candlewick, Chromium, 1 thread, relaxed, other wasm": candlewick(otherOrigin, 1) }),
  [`candlewick, Chromium, ${cores} threads, relaxed`]: candlewick(origin, cores),
  ...(options.wasm && {
    [`candlewick, Chromium, ${cores} threads, relaxed, other wasm`]: candlewick(otherOrigin, cores),
  }),
  "wllama, Chromium, 1 thread": wllama(origin, 1),
  [`wllama, Chromium, ${cores} threads`]: wllama(origin, cores),
  "candlewick, native, 1 thread": native(1),
  [`candlewick, native, ${cores} threads`]: native(cores),
  ...(python && {
    "llama.cpp, native, 1 thread": llamaCpp(1),
    [`llama.cpp, native, ${cores} threads`]: llamaCpp(cores),
  }),
};
const wanted = Object.entries(runners).filter(([name]) => new RegExp(options.only).test(name));

const results = [];
for (const name of options.models.split(",")) {
  for (const type of options.types.split(",")) {
    const path = model(name, type);
    const started = [];
    for (const [where, start] of wanted) {
      const runner = await start(path);
      await runner.run(rounds * lengths.length, lengths[0]); // warms up
      started.push({ where, runs: lengths.map(() => []), ...runner });
    }
    // Taking turns, so that a busy moment of the machine hits all alike.
    for (let round = 0; round < rounds; round++) {
      for (const [index, length] of lengths.entries()) {
        const turn = round * lengths.length + index; // no two prompts begin alike
        for (const runner of started) runner.runs[index].push(await runner.run(turn, length));
      }
    }
    await Promise.all(started.map(({ close }) => close()));
    const limits = kernelsAreBuilt() && (await ceilings(browser, multiplications(name, type), lengths[0]));
    for (const [index, length] of lengths.entries()) {
      const [first] = started;
      const megabytes = (statSync(path).size / 1e6).toFixed(0);
      console.log(
        `${name} ${type}, ${megabytes} MB, prompt of ${length} tokens; tokens/s, and how many times those of the first line`,
      );
      for (const { where, runs, seconds } of started) {
        // Round by round: what slows a whole round down leaves its ratios alone.
        const against = (key, others) => median(runs[index].map((run, round) => run[key] / others[round][key]));
        const speeds = (key) => ({
          ...spread(runs[index].map((run) => run[key])),
          ratio: against(key, first.runs[index]),
          ...(index && { shorter: against(key, runs[0]) }),
        });
        const speed = { prompt_per_second: speeds("prompt"), predicted_per_second: speeds("predicted") };
        const result = { model: name, type, prompt: length, where, ...speed };
        if (seconds) result.load_seconds = seconds;
        results.push(result);
        const show = ({ median, min, max, ratio, shorter }) => {
          const slower = index ? `, ${shorter.toFixed(2)} of ${lengths[0]}'s` : "";
          return `${median.toFixed(1).padStart(6)} (${min.toFixed(1)} to ${max.toFixed(1)}) ×${ratio.toFixed(2)}${slower}`.padEnd(
            index ? 48 : 34,
          );
        };
        const load = seconds ? ` loaded in ${seconds.toFixed(2)} s` : "";
        const limit = index === 0 && limits && /Chromium, 1 thread, (simd128|relaxed)$/.exec(where);
        let share = "";
        if (limit) {
          result.of_kernels = Object.fromEntries(
            Object.entries(speed).map(([key, { median }]) => [
              key,
              median / limits[limit[1]][key.replace("_per_second", "")],
            ]),
          );
          const shares = Object.values(result.of_kernels).map((share) => share.toFixed(2));
          share = ` ${shares[0]} and ${shares[1]} of what the kernels alone do`;
        }
        console.log(
          `  ${where.padEnd(42)} prompt ${show(speed.prompt_per_second)} answer ${show(speed.predicted_per_second)}${load}${share}`,
        );
      }
    }
  }
}
await browser.close();
await Promise.all(servers.map((server) => server.close()));
const report = join(folder, "results.json");
writeFileSync(report, JSON.stringify({ date: new Date().toISOString(), predict, rounds, results }, null, 2));
writeFileSync(join(folder, "results.svg"), picture(results, predict));
console.log(`written to ${report} and results.svg beside it`);
