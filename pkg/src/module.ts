/** Starts the WebAssembly that runs here. */
import initSingle, * as single from "../wasm/candlewick.js";
import initThreaded, * as threaded from "../wasm/candlewick-threads.js";
import { compile, locateWasm, whySingle, type Setup } from "./compile.js";
import { startHelper } from "./helpers.js";

export interface Started {
  wasm: Pick<typeof single, "Engine" | "Models">;
  file: "candlewick.wasm" | "candlewick-threads.wasm";
  /** Why this one. */
  reason: string;
}

/** With threads if the page and the browser allow them, otherwise without. */
export async function start(setup: Setup): Promise<Started> {
  const reason = await startThreaded(setup);
  if (reason === undefined) return { wasm: threaded, file: "candlewick-threads.wasm", reason: "threads and relaxed SIMD" };
  await initSingle({ module_or_path: await code("single", setup) });
  return { wasm: single, file: "candlewick.wasm", reason };
}

/** Gives the reason where it cannot be. */
async function startThreaded(setup: Setup): Promise<string | undefined> {
  const reason = whySingle(setup.wasm, setup.cpu);
  if (reason !== undefined) return reason;
  try {
    const module = await code("threaded", setup);
    const { memory } = await initThreaded({ module_or_path: module });
    threaded.useHelpers((work: number, crashed: number) => startHelper({ module, memory, work, crashed }));
    return undefined;
  } catch (error) {
    return `candlewick-threads.wasm could not be started: ${error instanceof Error ? error.message : error}`;
  }
}

/** What the page has compiled, if that is it. */
async function code(file: "single" | "threaded", { wasm, compiled }: Setup): Promise<WebAssembly.Module> {
  return compiled?.file === file ? compiled.module : compile(locateWasm(file, wasm));
}
