import type { Place } from "./compile.js";
import { Connection } from "./connection.js";
import { aborted, CandlewickError } from "./errors.js";
import { Engine } from "./engine.js";
import { checkNames } from "./options.js";
import { absolute, checkBrowser, plain } from "./page.js";
import type { HubParams, Located, LocatedFiles, Remote } from "./protocol.js";
import type {
  ConnectOptions,
  ContextLength,
  EngineInfo,
  HubOptions,
  LoadOptions,
  RemoteInfo,
  RemoteOptions,
} from "./types.js";

/**
 * The name of a model on the Hugging Face Hub (`owner/repo`, `owner/repo:QUANT` or `owner/repo/file.gguf`, each also
 * with `@revision`), a URL (relative ones are relative to the page), a file the user chose or dropped, or the bytes.
 */
export type ModelSource = string | URL | Blob | ArrayBuffer | Uint8Array;

/** A model's file, or all files of a split one, in any order. Of names and URLs that of one part is enough. */
export type ModelFiles = ModelSource | readonly ModelSource[];

/**
 * Loads a GGUF model into a Worker of its own. Of several sources the first that can be loaded counts; a list among them is
 * one model in several files. With `remote`, hosted models answer where none can, and `info.device` may be `"remote"`.
 */
export function load(
  source: ModelSource | readonly ModelFiles[],
  options?: LoadOptions & { remote?: undefined },
): Promise<Engine>;
export function load(
  source: ModelSource | readonly ModelFiles[],
  options: LoadOptions,
): Promise<Engine<EngineInfo | RemoteInfo>>;
export async function load(
  source: ModelSource | readonly ModelFiles[],
  options: LoadOptions = {},
): Promise<Engine<EngineInfo | RemoteInfo>> {
  checkBrowser();
  checkNames(options, "load()");
  const sources = (isList(source) ? source : [source]).map(locateFiles);
  if (sources.length === 0)
    throw new CandlewickError("invalid_argument", "load() takes at least one model; connect() takes none.");
  const remote = options.remote && translate(options.remote);
  try {
    return await start(sources, remote, options);
  } catch (error) {
    // Local models that end the Worker, for want of memory for example, are left out in the next one.
    const crashed = error instanceof CandlewickError && error.code === "internal";
    if (!crashed || !remote || remote.policy.when === "never") throw error;
    return start(sources.map(withoutBytes), { ...remote, crashed: error.message }, options);
  }
}

/** Hosted models alone, without any local one. Their requests are made in a Worker, as `load()` makes them. */
export async function connect(remote: RemoteOptions, options: ConnectOptions = {}): Promise<Engine<RemoteInfo>> {
  checkBrowser();
  checkNames(options, "connect()");
  return (await start([], translate({ ...remote, when: "always" }), options)) as Engine<RemoteInfo>;
}

async function start(
  sources: LocatedFiles[],
  remote: Remote | undefined,
  options: LoadOptions,
): Promise<Engine<EngineInfo | RemoteInfo>> {
  const { device, threads, kvCache, fallback, gpu, profile, onProgress, onRetry, signal } = options;
  const contextLength = finite(options.contextLength);
  if (signal?.aborted) throw aborted(signal);
  const call = {
    method: "load" as const,
    sources,
    options: {
      device,
      contextLength,
      threads,
      kvCache,
      fallback,
      gpu,
      profile: profile ?? false,
      remote,
      hub: hubParams(options),
    },
  };
  const connection = new Connection(place(options, device !== "gpu"));
  try {
    if (sources.flat().some((source) => typeof source === "string") && options.cache !== false) void persist();
    connection.state.info = await connection.call<EngineInfo | RemoteInfo>(call, { signal, onProgress, onRetry });
    connection.state.onRecovery = onProgress;
    return new Engine(connection);
  } catch (error) {
    const failure = error as CandlewickError;
    connection.close(failure, failure);
    throw error;
  }
}

/** The engine's shape of what a page says about hosted models. */
function translate({
  when,
  fallbacks = [],
  firstTokenMs,
  maxMemory,
  minTokensPerSecond,
  cache,
  ...first
}: RemoteOptions): Remote {
  const hosted = [first, ...fallbacks].map(({ baseURL, model, ...config }) => {
    if (typeof model !== "string" || model === "") {
      throw new CandlewickError(
        "invalid_argument",
        'remote.model is missing: which hosted model? For example "org/name".',
      );
    }
    const address = baseURL === undefined ? {} : { baseURL: absolute(baseURL, "remote.baseURL") };
    return { model, config: { ...config, ...address } };
  });
  const kept = cache === true ? {} : cache || undefined;
  const remote: Remote = { policy: { when, firstTokenMs }, hosted, cache: kept, maxMemory, minTokensPerSecond };
  return plain(remote, "remote");
}

/** @internal What the Worker needs of the options. */
export function hubParams({ token, hubURL, transfer, ...options }: HubOptions & LoadOptions): HubParams {
  const { cache, cacheBudget, force } = options;
  const params = {
    token,
    hubURL: hubURL === undefined ? undefined : absolute(hubURL, "hubURL"),
    cache,
    cacheBudget,
    force,
    transfer,
  };
  return Object.fromEntries(Object.entries(params).filter(([, value]) => value !== undefined));
}

/** @internal Where the engine's files are. `cpu`: whether the CPU may be what computes. */
export function place({ workerURL, wasmURL, threadsWasmURL, threadsPlainWasmURL }: HubOptions, cpu: boolean): Place {
  const wasm = {
    single: wasmURL === undefined ? undefined : absolute(wasmURL, "wasmURL"),
    threaded: threadsWasmURL === undefined ? undefined : absolute(threadsWasmURL, "threadsWasmURL"),
    plain: threadsPlainWasmURL === undefined ? undefined : absolute(threadsPlainWasmURL, "threadsPlainWasmURL"),
  };
  return { workerURL, wasm, cpu };
}

/** @internal Asks the browser not to clear models away by itself. Only pages can ask; some browsers ask their user. */
export async function persist(): Promise<void> {
  try {
    if (!(await navigator.storage.persisted())) await navigator.storage.persist();
  } catch {
    // Then it clears them when it needs the room.
  }
}

/** @internal Lists of sources may be frozen. */
export function isList<T>(value: T | readonly T[]): value is readonly T[] {
  return Array.isArray(value);
}

/** @internal No limit is one that messages to the engine can have. */
export function finite(contextLength: ContextLength | undefined): ContextLength | undefined {
  if (typeof contextLength !== "object" || contextLength?.max !== Infinity) return contextLength;
  return { ...contextLength, max: Number.MAX_SAFE_INTEGER };
}

/** @internal What the Worker knows of a model. */
export function locateFiles(files: ModelFiles): LocatedFiles {
  if (!isList(files)) return locate(files);
  if (files.length === 0)
    throw new CandlewickError("invalid_argument", "An empty list is no model: it takes the files of one.");
  return files.map(locate);
}

/** @internal The same of one file. */
export function locate(source: ModelSource): Located {
  if (source instanceof Blob) return source;
  if (source instanceof ArrayBuffer) return bytesOf(source, 0, source.byteLength);
  if (ArrayBuffer.isView(source)) return bytesOf(source.buffer, source.byteOffset, source.byteLength);
  if (source instanceof URL) return source.href;
  if (typeof source !== "string" || source.trim() === "") {
    throw new CandlewickError(
      "invalid_argument",
      "A model is the name of one (owner/repo), a URL, a File or Blob, an ArrayBuffer or a Uint8Array.",
    );
  }
  return isURL(source) ? absolute(source, "The model") : source.trim();
}

/** A copy, which becomes the Worker's. No Blob: Chromium's private windows have room for 500 MB of those in all. */
function bytesOf(buffer: ArrayBufferLike, offset: number, length: number): Uint8Array<ArrayBuffer> {
  try {
    return new Uint8Array(buffer, offset, length).slice();
  } catch (cause) {
    throw new CandlewickError("invalid_argument", `The model's bytes cannot be read: ${cause}`, { cause });
  }
}

/** What is left out needs a name at most, and the bytes are not here any more. */
function withoutBytes(source: LocatedFiles): LocatedFiles {
  const kept = (file: Located) => (file instanceof Uint8Array ? new Blob() : file);
  return isList(source) ? source.map(kept) : kept(source);
}

/**
 * Whether it is relative to the page, or has a scheme. What the rest names, and which addresses are the Hub's own, the
 * Worker knows.
 */
function isURL(text: string): boolean {
  return /^([a-z][a-z0-9+.-]*:|\.{0,2}\/)/i.test(text) || /^([^/]+\/)?[^/]+\.gguf([?#].*)?$/i.test(text);
}
