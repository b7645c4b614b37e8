/** Which of the two WebAssembly files runs here, and how it gets into memory. */
import initSingle, * as single from "../wasm/candlewick.js";
import initThreaded, * as threaded from "../wasm/candlewick-threads.js";
import { CandlewickError } from "./errors.js";
import { startHelper } from "./helpers.js";

/** Addresses of the files, where they are not beside this one. */
export interface WasmURLs {
  single?: string | undefined;
  threaded?: string | undefined;
}

export interface Started {
  wasm: Pick<typeof single, "Engine" | "Models">;
  file: "candlewick.wasm" | "candlewick-threads.wasm";
  /** Why this one. */
  reason: string;
}

/** Starts the engine; with threads if the page and the browser allow them, otherwise without. */
export async function start(urls: WasmURLs, wantsCPU: boolean): Promise<Started> {
  const reason = await startThreaded(urls, wantsCPU);
  if (reason === undefined) return { wasm: threaded, file: "candlewick-threads.wasm", reason: "threads and relaxed SIMD" };
  const module = compile(urls.single ?? new URL("../wasm/candlewick_bg.wasm", import.meta.url));
  await initSingle({ module_or_path: await module });
  return { wasm: single, file: "candlewick.wasm", reason };
}

/** Gives the reason where it cannot be. */
async function startThreaded(urls: WasmURLs, wantsCPU: boolean): Promise<string | undefined> {
  if (!wantsCPU) return "the GPU was asked for";
  if (!globalThis.crossOriginIsolated) return "the page is not cross-origin isolated";
  if (!WebAssembly.validate(relaxedSIMD)) return "this browser has no relaxed SIMD";
  if (!("waitAsync" in Atomics)) return "this browser has no Atomics.waitAsync";
  if (urls.single !== undefined && urls.threaded === undefined) return "wasmURL was given without threadsWasmURL";
  try {
    const module = await compile(urls.threaded ?? new URL("../wasm/candlewick-threads_bg.wasm", import.meta.url));
    const { memory } = await initThreaded({ module_or_path: module });
    threaded.useHelpers((work: number, crashed: number) => startHelper({ module, memory, work, crashed }));
    return undefined;
  } catch (error) {
    return `candlewick-threads.wasm could not be started: ${error instanceof Error ? error.message : error}`;
  }
}

/** A function that needs relaxed SIMD (`i8x16.relaxed_swizzle`), as a module. */
// prettier-ignore
const relaxedSIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0,
  10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
]);

async function compile(url: string | URL): Promise<WebAssembly.Module> {
  const response = await fetch(url).catch((cause) => {
    throw new CandlewickError("network", `The engine could not be fetched from ${url}: ${cause}`);
  });
  if (!response.ok) throw new CandlewickError("network", `The engine could not be fetched from ${url}: HTTP ${response.status}.`);
  try {
    return response.headers.get("content-type")?.startsWith("application/wasm")
      ? await WebAssembly.compileStreaming(response)
      : await WebAssembly.compile(await response.arrayBuffer());
  } catch (cause) {
    // The compiler has errors of its own; this is one of fetching.
    if (cause instanceof TypeError) throw new CandlewickError("network", `The engine could not be fetched whole from ${url}: ${cause}`);
    throw new CandlewickError(
      "internal",
      `The engine at ${url} could not be compiled (${cause}). Check that this address serves the .wasm file, ` +
        `and that a Content-Security-Policy has 'wasm-unsafe-eval' in script-src.`,
    );
  }
}
