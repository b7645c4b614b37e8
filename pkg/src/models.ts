import { Connection } from "./connection.js";
import { CandlewickError } from "./errors.js";
import { hubParams, wasmURLs } from "./load.js";
import type { Call } from "./protocol.js";
import type { CachedModel, HubOptions, LoadProgress, StorageUsage, VerifiedModel } from "./types.js";

/** What `load()` has kept in the browser's storage. Names are those that `load()` takes. */
export const models = {
  /** Every model, whole or in part. */
  list: (options: HubOptions = {}): Promise<CachedModel[]> => ask({ method: "list" }, options),

  /** Removes all of a name: every file where only the repository is named. Resolves to the bytes that freed. */
  remove: (model: string, options: HubOptions = {}): Promise<number> => ask({ method: "remove", model }, options),

  /** How much room there is. */
  usage: (options: HubOptions = {}): Promise<StorageUsage> => ask({ method: "usage" }, options),

  /** Reads one model, or all, and compares the SHA-256 of each. */
  verify: (
    model?: string,
    options: HubOptions & { onProgress?: (progress: LoadProgress) => void } = {},
  ): Promise<VerifiedModel[]> => ask({ method: "verify", model }, options),
};

type Question<C> = C extends { hub: unknown } ? Omit<C, "hub" | "wasm"> : never;

const closed = new CandlewickError("internal", "The answer has come already.");

/** In a Worker of its own, which ends with the answer. */
async function ask<T>(
  question: Question<Call>,
  options: HubOptions & { onProgress?: (progress: LoadProgress) => void },
): Promise<T> {
  const connection = new Connection(options.workerURL);
  try {
    const call = { ...question, wasm: wasmURLs(options), hub: hubParams(options) } as Call;
    return await connection.call<T>(call, { signal: options.signal, onProgress: options.onProgress });
  } finally {
    connection.close(closed, closed);
  }
}
