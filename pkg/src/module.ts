/** Starts the WebAssembly that runs here. */
import initSingle, * as single from "../wasm/candlewick.js";
import initThreaded, * as threaded from "../wasm/candlewick-threads.js";
import initPlain, * as plain from "../wasm/candlewick-threads-plain.js";
import { compile, locateWasm, NAMES, type File, type FileName, type Setup } from "./compile.js";
import type { HelperTask } from "./protocol.js";

export interface Started {
  wasm: Pick<typeof single, "Engine" | "Models" | "Stopper">;
  file: FileName;
  /** Why this one. */
  reason: string;
}

/** Asks the page for a helper. Resolves to whether it runs. */
export type Ask = (task: HelperTask) => Promise<boolean>;

/** The file that the page has chosen; where it does not start, the one without threads. */
export async function start(setup: Setup, ask: Ask, starting: () => void): Promise<Started> {
  let { file, reason, module } = setup;
  if (file !== "single") {
    try {
      module ??= await compile(locateWasm(file, setup.wasm));
      starting();
      return { wasm: await startThreaded(file, module, ask), file: NAMES[file], reason };
    } catch (error) {
      reason = `${NAMES[file]} could not be started: ${error instanceof Error ? error.message : error}`;
      module = undefined;
    }
  }
  module ??= await compile(locateWasm("single", setup.wasm));
  starting();
  await initSingle({ module_or_path: module });
  return { wasm: single, file: NAMES.single, reason };
}

async function startThreaded(file: File, module: WebAssembly.Module, ask: Ask): Promise<Started["wasm"]> {
  const [init, wasm] = file === "plain" ? [initPlain, plain] : [initThreaded, threaded];
  const { memory } = await init({ module_or_path: module });
  wasm.useHelpers((work: number, crashed: number) => ask({ file, module, memory, work, crashed }));
  return wasm as Started["wasm"];
}
