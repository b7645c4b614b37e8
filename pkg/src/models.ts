import { hubParams, persist, place } from "./load.js";
import type { Call } from "./protocol.js";
import { ask as askWorker } from "./shared.js";
import type { CachedModel, HubOptions, LoadOptions, StorageUsage, VerifiedModel } from "./types.js";

/**
 * What `load()` has kept in the browser's storage. Names are those that `load()` takes, and those in the list, also with
 * `@commit`: files at plain URLs are listed by the last part of their path.
 */
export const models = {
  /** Every model, whole or in part. */
  list: (options: HubOptions = {}): Promise<CachedModel[]> => ask({ method: "list" }, options),

  /** Fetches a model without loading it: what its name means now, also where an older commit is there. */
  pull(
    model: string,
    options: HubOptions & Pick<LoadOptions, "force" | "cacheBudget" | "onProgress"> = {},
  ): Promise<CachedModel> {
    void persist();
    return ask({ method: "pull", model }, options);
  },

  /** Removes all of a name: every file where only the repository is named. Resolves to the bytes that freed. */
  remove: (model: string, options: HubOptions = {}): Promise<number> => ask({ method: "remove", model }, options),

  /** How much room there is. */
  usage: (options: HubOptions = {}): Promise<StorageUsage> => ask({ method: "usage" }, options),

  /** Reads one model, or all, and compares the SHA-256 of each. */
  verify: (
    model?: string,
    options: HubOptions & Pick<LoadOptions, "onProgress"> = {},
  ): Promise<VerifiedModel[]> => ask({ method: "verify", model }, options),
};

type Question<C> = C extends { hub: unknown } ? Omit<C, "hub"> : never;

async function ask<T>(
  question: Question<Call>,
  options: HubOptions & Pick<LoadOptions, "onProgress">,
): Promise<T> {
  // The file without threads is enough.
  return askWorker({ ...question, hub: hubParams(options) } as Call, place(options, false), options);
}
