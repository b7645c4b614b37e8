// The CPU kernels without a model, in Chromium: billions of multiplications per second (GMAC/s) for every quantized type,
// in plain and relaxed SIMD, with one column and with 64. `./build.sh kernels` builds them and runs this.
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { launch, repository } from "../browser/support.js";

/** In the order that `make` of kernels/src/lib.rs knows. */
const TYPES = [
  "Q4_0",
  "Q4_1",
  "Q5_0",
  "Q5_1",
  "Q8_0",
  "Q2_K",
  "Q3_K",
  "Q4_K",
  "Q5_K",
  "Q6_K",
  "Q1_0",
  "Q2_0",
  "IQ4_NL",
  "IQ4_XS",
];
const FORMS = ["simd128", "relaxed"];
const built = join(repository, "target/kernels");

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

/** Where `./build.sh kernels` was run. */
export const kernelsAreBuilt = () => FORMS.every((form) => existsSync(join(built, `${form}.wasm`)));

/**
 * GMAC/s of each form, and of those of `other`, a folder with another build: `{ form, one, many }` with a number for each round.
 * Matrices are `rows × columns`.
 */
export async function measure(browser, type, [rows, columns], rounds, other) {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  const folders = other
    ? [
        ["", built],
        [" other", other],
      ]
    : [["", built]];
  const builds = folders.flatMap(([name, folder]) =>
    FORMS.map((form) => [form + name, readFileSync(join(folder, `${form}.wasm`)).toString("base64")]),
  );
  const results = await page.evaluate(
    async ({ builds, kind, rows, columns, rounds }) => {
      const work = rows * columns;
      const times = { one: Math.ceil(4e8 / work), many: Math.ceil(1e9 / work / 64) };
      const results = [];
      for (const [form, code] of builds) {
        const bytes = Uint8Array.from(atob(code), (character) => character.charCodeAt(0));
        const { instance } = await WebAssembly.instantiate(bytes);
        instance.exports.make(kind, rows, columns);
        const run = (what) => {
          const start = performance.now();
          instance.exports[what](times[what]);
          return (times[what] * work * (what === "many" ? 64 : 1)) / (performance.now() - start) / 1e6;
        };
        results.push({ form, run, one: [], many: [] });
        // Until the optimizing compiler has done its work.
        for (let turn = 0; turn < 3; turn++) {
          for (const what of ["one", "many"]) run(what);
          await new Promise((done) => setTimeout(done, 50));
        }
      }
      for (let round = 0; round < rounds; round++) {
        for (const { run, one, many } of results) {
          one.push(run("one"));
          many.push(run("many"));
        }
      }
      return results.map(({ form, one, many }) => ({ form, one, many }));
    },
    { builds, kind: TYPES.indexOf(type), rows, columns, rounds },
  );
  await page.close();
  return results;
}

/**
 * Tokens per second that a model's matrices alone would allow at the speed of their kernels: `{ simd128: { prompt, predicted }, relaxed }`.
 * `counts` are those of `multiplications`. Null where a type has no such kernel.
 */
export async function ceilings(browser, counts, prompt) {
  const seconds = Object.fromEntries(FORMS.map((form) => [form, { prompt: 0, predicted: 0 }]));
  for (const [type, { layers, scores }] of Object.entries(counts)) {
    if (!TYPES.includes(type)) return null;
    // As in a whole model, one column's weights come from memory.
    for (const { form, one, many } of await measure(browser, type, [65536, 2048], 3)) {
      seconds[form].prompt += (layers / median(many) + scores / median(one) / prompt) / 1e9;
      seconds[form].predicted += (layers + scores) / median(one) / 1e9;
    }
  }
  const perSecond = ({ prompt, predicted }) => ({ prompt: 1 / prompt, predicted: 1 / predicted });
  return Object.fromEntries(Object.entries(seconds).map(([form, times]) => [form, perSecond(times)]));
}

async function main() {
  const { values: options } = parseArgs({
    options: {
      types: { type: "string", default: TYPES.join() },
      /** Rows × columns: one matrix that the second-level cache holds, and one that no cache does. */
      shapes: { type: "string", default: "1536x768,65536x2048" },
      rounds: { type: "string", default: "5" },
      /** A folder that has simd128.wasm and relaxed.wasm of another build, measured beside it. */
      other: { type: "string" },
    },
  });
  const browser = await launch();
  console.log("GMAC/s, median (lowest to highest)");
  const show = (numbers) =>
    `${median(numbers).toFixed(1).padStart(5)} (${Math.min(...numbers).toFixed(1)} to ${Math.max(...numbers).toFixed(1)})`.padEnd(
      22,
    );
  for (const shape of options.shapes.split(",")) {
    const [rows, columns] = shape.split("x").map(Number);
    if (!(rows % 16 === 0 && columns % 256 === 0)) throw new Error(`${shape}: not a multiple of 16 rows × 256 columns`);
    for (const type of options.types.split(",")) {
      const results = await measure(browser, type, [rows, columns], Number(options.rounds), options.other);
      for (const { form, one, many } of results) {
        console.log(`${type} ${shape.padEnd(12)} ${form.padEnd(14)} one column ${show(one)} 64 columns ${show(many)}`);
      }
    }
  }
  await browser.close();
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) await main();
