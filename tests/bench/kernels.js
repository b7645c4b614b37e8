// The CPU kernels without a model, in Chromium: GMAC/s of every quantized type, in plain and relaxed SIMD, with one column
// and with 64. `./build.sh kernels` builds them and runs this; README.md says more.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { launch, repository } from "../browser/support.js";

/** In the order that `make` of kernels/src/lib.rs knows. */
const TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];

const { values: options } = parseArgs({
  options: {
    types: { type: "string", default: TYPES.join() },
    /** Rows × columns: one that the second-level cache holds, and one that no cache does. */
    shapes: { type: "string", default: "1536x768,65536x2048" },
    rounds: { type: "string", default: "5" },
    /** A folder that has simd128.wasm and relaxed.wasm of another build, measured beside it. */
    other: { type: "string" },
  },
});

const folders = { "": join(repository, "target/kernels"), ...(options.other && { " other": options.other }) };
const builds = Object.entries(folders).flatMap(([name, folder]) =>
  ["simd128", "relaxed"].map((form) => [form + name, readFileSync(join(folder, `${form}.wasm`)).toString("base64")]),
);
const browser = await launch();
const page = await browser.newPage();
page.setDefaultTimeout(0);
await page.evaluate(async (builds) => {
  window.kernels = {};
  for (const [name, code] of builds) {
    const bytes = Uint8Array.from(atob(code), (character) => character.charCodeAt(0));
    kernels[name] = (await WebAssembly.instantiate(bytes)).instance.exports;
  }
}, builds);

console.log("GMAC/s, median (lowest to highest)");
for (const shape of options.shapes.split(",")) {
  const [rows, columns] = shape.split("x").map(Number);
  for (const type of options.types.split(",")) {
    const results = await page.evaluate(
      async ({ kind, rows, columns, rounds }) => {
        const work = rows * columns;
        const times = { one: Math.ceil(4e8 / work), many: Math.ceil(1e9 / work / 64) };
        const measure = (kernel, what) => {
          const start = performance.now();
          kernel[what](times[what]);
          return (times[what] * work * (what === "many" ? 64 : 1)) / (performance.now() - start) / 1e6;
        };
        const results = Object.entries(kernels).map(([name, kernel]) => ({ name, kernel, one: [], many: [] }));
        for (const { kernel } of results) {
          kernel.make(kind, rows, columns);
          // Until the optimizing compiler has done its work.
          for (let turn = 0; turn < 3; turn++) {
            for (const what of ["one", "many"]) measure(kernel, what);
            await new Promise((done) => setTimeout(done, 50));
          }
        }
        for (let round = 0; round < rounds; round++) {
          for (const { kernel, one, many } of results) {
            one.push(measure(kernel, "one"));
            many.push(measure(kernel, "many"));
          }
        }
        for (const { kernel } of results) kernel.make(kind, 32, 256); // gives the memory back
        return results.map(({ name, one, many }) => ({ name, one, many }));
      },
      { kind: TYPES.indexOf(type), rows, columns, rounds: Number(options.rounds) },
    );
    const show = (numbers) => {
      const sorted = numbers.toSorted((a, b) => a - b);
      return `${sorted[sorted.length >> 1].toFixed(1).padStart(5)} (${sorted[0].toFixed(1)} to ${sorted.at(-1).toFixed(1)})`.padEnd(22);
    };
    for (const { name, one, many } of results) {
      console.log(`${type} ${shape.padEnd(12)} ${name.padEnd(14)} one column ${show(one)} 64 columns ${show(many)}`);
    }
  }
}
await browser.close();
