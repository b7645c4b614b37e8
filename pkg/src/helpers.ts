/**
 * The Workers that help the engine's own one: each enters the same WebAssembly with the same memory, and stays there
 * until the engine needs it no more. They end with the engine's Worker in any case.
 */
import * as threaded from "../wasm/candlewick-threads.js";

export interface HelperTask {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** What `help` is called with. */
  work: number;
  /** Address of the number of helpers that have crashed. */
  crashed: number;
}

/** Its own: kernels need little. A multiple of 64 KiB. */
const STACK = 1 << 18;

/** Starts a Worker from the script that this Worker came from. Resolves to whether it runs. */
export function startHelper(task: HelperTask): Promise<boolean> {
  return new Promise((resolve) => {
    const worker = new Worker(location.href, { type: "module", name: "candlewick helper" });
    worker.onmessage = () => resolve(true);
    worker.onmessageerror = () => resolve(false);
    worker.onerror = (event) => {
      event.preventDefault();
      resolve(false);
    };
    worker.postMessage(task);
  });
}

/** What a helper does from its first message to its end. */
export function help({ module, memory, work, crashed }: HelperTask): void {
  threaded.initSync({ module, memory, thread_stack_size: STACK });
  postMessage("running");
  try {
    threaded.help(work);
  } catch {
    // The engine notices, and fails as if it had crashed itself.
    Atomics.add(new Int32Array(memory.buffer), crashed >>> 2, 1);
  }
  close();
}
