/** One Worker for what needs no engine: looking at models, and what is in the storage. */
import type { Place } from "./compile.js";
import { Connection } from "./connection.js";
import { CandlewickError } from "./errors.js";
import type { Call } from "./protocol.js";
import type { LoadProgress, Retrying } from "./types.js";

/** Milliseconds without a call after which it ends. */
const IDLE = 10_000;

interface Shared {
  connection: Connection;
  calls: number;
  idle?: ReturnType<typeof setTimeout>;
}

/** By what they were started from. */
const all = new Map<string, Shared>();

interface Options {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  onRetry?: ((retry: Retrying) => void) | undefined;
}

/** One request in the Worker that others of the same place use, too. */
export async function ask<T>(call: Call, place: Place, { signal, onProgress, onRetry }: Options): Promise<T> {
  const key = JSON.stringify([place.workerURL === undefined ? null : String(place.workerURL), place.wasm, place.cpu]);
  let shared = all.get(key);
  if (!shared || shared.connection.closed) {
    if (shared) clearTimeout(shared.idle);
    shared = { connection: new Connection(place), calls: 0 };
    all.set(key, shared);
  }
  clearTimeout(shared.idle);
  shared.calls++;
  try {
    return await shared.connection.call<T>(call, { signal, onProgress, onRetry });
  } finally {
    if (--shared.calls === 0) shared.idle = setTimeout(release, IDLE, key, shared);
  }
}

function release(key: string, shared: Shared): void {
  if (all.get(key) === shared) all.delete(key);
  const ended = new CandlewickError("internal", "The Worker has ended.");
  shared.connection.close(ended, ended);
}
