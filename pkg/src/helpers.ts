/** What a Worker does that helps the engine's own one: it enters the same WebAssembly with the same memory. */
import * as threaded from "../wasm/candlewick-threads.js";
import * as plain from "../wasm/candlewick-threads-plain.js";
import type { HelperTask } from "./protocol.js";

/** Its own: kernels need little. A multiple of 64 KiB. */
const STACK = 1 << 18;

/** From its first message to its end: it stays until the engine needs it no more. Says "running", and "done". */
export function help({ file, module, memory, work, crashed }: HelperTask): void {
  const wasm = file === "plain" ? plain : threaded;
  wasm.initSync({ module, memory, thread_stack_size: STACK });
  postMessage("running");
  try {
    wasm.help(work);
  } catch {
    // The engine notices, and fails as if it had crashed itself.
    Atomics.add(new Int32Array(memory.buffer), crashed >>> 2, 1);
  }
  postMessage("done");
  close();
}
