import { CandlewickError } from "./errors.js";
import { hubParams, isList, locate, persist, place } from "./load.js";
import { checkNames } from "./options.js";
import type { Call } from "./protocol.js";
import { ask as askWorker } from "./shared.js";
import type { CachedModel, HubOptions, PullOptions, StorageUsage, VerifiedModel, VerifyOptions } from "./types.js";

/** The name of a model or its address; in a list, the addresses of all files of a split one. */
export type ModelName = string | URL | readonly (string | URL)[];

/**
 * What `load()` has kept in the browser's storage. Names and addresses are those that `load()` takes. Files at plain URLs are
 * listed by the last part of their path, by which `remove()` and `verify()` know them, too; `@commit` after it says which of
 * several is meant.
 */
export const models = {
  /** Every model, whole or in part. */
  async list(options: HubOptions = {}): Promise<CachedModel[]> {
    checkNames(options, "models.list()");
    return ask({ method: "list" }, options);
  },

  /** Fetches a model without loading it: what its name means now, also where an older commit is there. */
  async pull(model: ModelName, options: PullOptions = {}): Promise<CachedModel> {
    checkNames(options, "models.pull()");
    const named = name(model, locateName);
    void persist();
    return ask({ method: "pull", model: named }, options);
  },

  /** Removes all of a name: every file where only the repository is named. Resolves to the bytes that freed. */
  async remove(model: ModelName, options: HubOptions = {}): Promise<number> {
    checkNames(options, "models.remove()");
    return ask({ method: "remove", model: name(model, listedName) }, options);
  },

  /** How much room there is. */
  async usage(options: HubOptions = {}): Promise<StorageUsage> {
    checkNames(options, "models.usage()");
    return ask({ method: "usage" }, options);
  },

  /** Reads one model, or all, and compares the SHA-256 of each. */
  async verify(model?: ModelName, options: VerifyOptions = {}): Promise<VerifiedModel[]> {
    checkNames(options, "models.verify()");
    return ask({ method: "verify", model: model === undefined ? undefined : name(model, listedName) }, options);
  },
};

type Question<C> = C extends { hub: unknown } ? Omit<C, "hub"> : never;

async function ask<T>(question: Question<Call>, options: HubOptions & VerifyOptions): Promise<T> {
  // The file without threads is enough.
  return askWorker({ ...question, hub: hubParams(options) } as Call, place(options, false), options);
}

function name(model: ModelName, one: (name: string | URL) => string): string | string[] {
  return isList<string | URL>(model) ? model.map(one) : one(model);
}

/** What it names for `load()`. */
function locateName(model: string | URL): string {
  if (typeof model === "object" && !(model instanceof URL)) {
    throw new CandlewickError(
      "invalid_argument",
      "Models are kept by name or address: files and bytes have none. Give owner/repo or a URL.",
    );
  }
  return locate(model) as string;
}

/** A file's name alone is one of the list's, and not relative to the page. */
function listedName(model: string | URL): string {
  return typeof model === "string" && /^[^/:?#]+\.gguf$/i.test(model.trim()) ? model.trim() : locateName(model);
}
