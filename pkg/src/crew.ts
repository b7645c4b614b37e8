/**
 * The Workers that help an engine's Worker, as the page has them. It is the page that starts them: in Firefox, one of a
 * hundred Workers that start another one hangs in that for ever.
 */
import type { Place } from "./compile.js";
import type { HelperTask } from "./protocol.js";
import { spawn } from "./spawn.js";
import { watch } from "./watch.js";

/** Seconds that a helper has to come up: its script and its code are here already. */
const PATIENCE = 10;

/** `"late"`: it does not answer. Should it come up yet, it finds that it is not needed any more. */
export type Outcome = "runs" | "failed" | "late";

export class Crew {
  readonly #workerURL: Place["workerURL"];
  readonly #helpers = new Set<Worker>();
  #ended = false;

  constructor(workerURL: Place["workerURL"]) {
    this.#workerURL = workerURL;
  }

  /** Starts one more. */
  async start(task: HelperTask): Promise<Outcome> {
    if (this.#ended) return "failed";
    let worker: Worker;
    try {
      worker = spawn(this.#workerURL);
    } catch {
      return "failed";
    }
    this.#helpers.add(worker);
    return new Promise((resolve) => {
      const settle = (outcome: Outcome) => {
        stop();
        resolve(outcome);
      };
      const stop = watch(PATIENCE, () => settle("late"));
      let running = false;
      worker.onmessage = ({ data }) => {
        if (data === "running") {
          running = true;
          settle("runs");
        } else if (data === "done") this.#helpers.delete(worker);
      };
      const fail = () => {
        // The engine notices, and fails as if it had crashed itself.
        if (running) Atomics.add(new Int32Array(task.memory.buffer), task.crashed >>> 2, 1);
        this.#helpers.delete(worker);
        worker.terminate();
        settle("failed");
      };
      worker.onmessageerror = fail;
      worker.onerror = (event) => {
        event.preventDefault();
        fail();
      };
      worker.postMessage(task);
    });
  }

  /** Ends all. */
  end(): void {
    this.#ended = true;
    for (const worker of this.#helpers) worker.terminate();
    this.#helpers.clear();
  }
}
