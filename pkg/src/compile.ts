/**
 * Which of the two WebAssembly files runs here, and its code: the page fetches and compiles it while the Worker starts,
 * and gives it to the Worker.
 */
import { CandlewickError } from "./errors.js";

/** Addresses of the files, where they are not beside this one. */
export interface WasmURLs {
  single?: string | undefined;
  threaded?: string | undefined;
}

/** What a Worker is started from. */
export interface Place {
  workerURL: string | URL | undefined;
  wasm: WasmURLs;
  /** Whether the CPU may be what computes. */
  cpu: boolean;
}

/** What the page tells it, once. */
export interface Setup extends Pick<Place, "wasm" | "cpu"> {
  /** Nothing where the page could not have it: the Worker then tries by itself, and says why. */
  compiled: Compiled | undefined;
}

export interface Compiled {
  file: "single" | "threaded";
  module: WebAssembly.Module;
}

/** Why it is the file without threads, where it is. */
export function whySingle(wasm: WasmURLs, cpu: boolean): string | undefined {
  if (!cpu) return "the GPU was asked for";
  if (!globalThis.crossOriginIsolated) return "the page is not cross-origin isolated";
  if (!WebAssembly.validate(relaxedSIMD)) return "this browser has no relaxed SIMD";
  if (!("waitAsync" in Atomics)) return "this browser has no Atomics.waitAsync";
  if (wasm.single !== undefined && wasm.threaded === undefined) return "wasmURL was given without threadsWasmURL";
  return undefined;
}

/** Where a file is. Exactly this form of `URL` is what bundlers recognise. */
export function locateWasm(file: Compiled["file"], wasm: WasmURLs): string | URL {
  return file === "single"
    ? (wasm.single ?? new URL("../wasm/candlewick_bg.wasm", import.meta.url))
    : (wasm.threaded ?? new URL("../wasm/candlewick-threads_bg.wasm", import.meta.url));
}

/** In the page: what its Worker will want. Where that has a script of its own, only it knows what is beside that. */
export async function prepare({ workerURL, wasm, cpu }: Place, signal: AbortSignal): Promise<Setup> {
  const file = whySingle(wasm, cpu) === undefined ? "threaded" : "single";
  const known = workerURL === undefined || wasm[file] !== undefined;
  const module = known ? await compile(locateWasm(file, wasm), signal).catch(() => undefined) : undefined;
  return { wasm, cpu, compiled: module && { file, module } };
}

/** A function that needs relaxed SIMD (`i8x16.relaxed_swizzle`), as a module. */
// prettier-ignore
const relaxedSIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0,
  10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
]);

export async function compile(url: string | URL, signal?: AbortSignal): Promise<WebAssembly.Module> {
  const response = await fetch(url, { signal: signal ?? null }).catch((cause) => {
    throw new CandlewickError("network", `The engine could not be fetched from ${url}: ${cause}`);
  });
  if (!response.ok) throw new CandlewickError("network", `The engine could not be fetched from ${url}: HTTP ${response.status}.`);
  try {
    return response.headers.get("content-type")?.startsWith("application/wasm")
      ? await WebAssembly.compileStreaming(response)
      : await WebAssembly.compile(await response.arrayBuffer());
  } catch (cause) {
    // The compiler has errors of its own; these are of fetching. A connection that breaks is a DOMException in Firefox.
    if (cause instanceof TypeError || cause instanceof DOMException) throw new CandlewickError("network", `The engine could not be fetched whole from ${url}: ${cause}`);
    throw new CandlewickError(
      "internal",
      `The engine at ${url} could not be compiled (${cause}). Check that this address serves the .wasm file, ` +
        `and that a Content-Security-Policy has 'wasm-unsafe-eval' in script-src.`,
    );
  }
}
