/**
 * Which of the three WebAssembly files runs here, and its code: the page fetches and compiles it while the Worker starts,
 * and gives it to the Worker.
 */
import { CandlewickError } from "./errors.js";

/** The file without threads, the one with threads and relaxed SIMD, and the one with threads alone. */
export type File = "single" | "threaded" | "plain";

export type FileName = "candlewick.wasm" | "candlewick-threads.wasm" | "candlewick-threads-plain.wasm";

export const NAMES: Record<File, FileName> = {
  single: "candlewick.wasm",
  threaded: "candlewick-threads.wasm",
  plain: "candlewick-threads-plain.wasm",
};

/** Addresses of the files, where they are not beside this one. */
export type WasmURLs = { [file in File]?: string | undefined };

/** What a Worker is started from. */
export interface Place {
  workerURL: string | URL | TrustedScriptURL | undefined;
  wasm: WasmURLs;
  /** Whether the CPU may be what computes. */
  cpu: boolean;
}

/** What a page under Trusted Types gives for an address of a script. */
export interface TrustedScriptURL {
  toString(): string;
  toJSON(): string;
}

export interface Choice {
  file: File;
  /** Why this one. */
  reason: string;
}

/** What the page tells its Worker, once. */
export interface Setup extends Choice {
  wasm: WasmURLs;
  /** Nothing where the page could not have it: the Worker then tries by itself, and says why. */
  module: WebAssembly.Module | undefined;
}

/** With threads if the page and the browser allow them, otherwise without. */
export function choose({ wasm, cpu }: Place): Choice {
  const single = (reason: string): Choice => ({ file: "single", reason });
  if (!cpu) return single("the GPU was asked for");
  if (!globalThis.crossOriginIsolated) return single("the page is not cross-origin isolated");
  if (typeof Worker === "undefined") return single("no Workers can be started here");
  if (!("waitAsync" in Atomics)) return single("this browser has no Atomics.waitAsync");
  const given = wasm.single !== undefined || wasm.threaded !== undefined || wasm.plain !== undefined;
  const has = (file: File) => !given || wasm[file] !== undefined;
  const relaxed = WebAssembly.validate(relaxedSIMD);
  if (relaxed && has("threaded")) return { file: "threaded", reason: "threads and relaxed SIMD" };
  const why = relaxed ? "threadsWasmURL was not given" : "this browser has no relaxed SIMD";
  if (has("plain")) return { file: "plain", reason: `threads; ${why}` };
  return single(relaxed ? "wasmURL was given without threadsWasmURL" : `${why}, and threadsPlainWasmURL was not given`);
}

/** Where a file is. Exactly this form of `URL` is what bundlers recognise. */
export function locateWasm(file: File, wasm: WasmURLs): string | URL {
  switch (file) {
    case "single":
      return wasm.single ?? new URL("../wasm/candlewick_bg.wasm", import.meta.url);
    case "threaded":
      return wasm.threaded ?? new URL("../wasm/candlewick-threads_bg.wasm", import.meta.url);
    case "plain":
      return wasm.plain ?? new URL("../wasm/candlewick-threads-plain_bg.wasm", import.meta.url);
  }
}

/** In the page: what its Worker will want. Where that has a script of its own, only it knows what is beside that. */
export async function prepare(
  { workerURL, wasm }: Place,
  { file, reason }: Choice,
  signal: AbortSignal,
): Promise<Setup> {
  const known = workerURL === undefined || wasm[file] !== undefined;
  const module = known ? await compile(locateWasm(file, wasm), signal).catch(() => undefined) : undefined;
  return { wasm, file, reason, module };
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
  if (!response.ok)
    throw new CandlewickError("network", `The engine could not be fetched from ${url}: HTTP ${response.status}.`);
  try {
    // With parameters, such as a charset, browsers refuse it.
    return response.headers.get("content-type")?.trim().toLowerCase() === "application/wasm"
      ? await WebAssembly.compileStreaming(response)
      : await WebAssembly.compile(await response.arrayBuffer());
  } catch (cause) {
    // The compiler has errors of its own; these are of fetching. A connection that breaks is a DOMException in Firefox.
    if (cause instanceof TypeError || cause instanceof DOMException)
      throw new CandlewickError("network", `The engine could not be fetched whole from ${url}: ${cause}`);
    throw new CandlewickError(
      "internal",
      `The engine at ${url} could not be compiled (${cause}). Check that this address serves the .wasm file, ` +
        `and that a Content-Security-Policy has 'wasm-unsafe-eval' in script-src.`,
    );
  }
}
