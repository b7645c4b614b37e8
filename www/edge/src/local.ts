/** Models that run in this Worker, in candlewick's WebAssembly. */
import wasm from "../../../pkg/wasm/candlewick_bg.wasm";
import { Engine, initSync, Stopper } from "../../../pkg/wasm/candlewick.js";
import { type Code, Refusal } from "./errors";
import type { Env } from "./settings";

/**
 * After a trap. All engines share one WebAssembly instance, and its glue makes no second one: the models are gone until
 * Cloudflare starts this Worker anew.
 */
let crashed = false;

export const hasCrashed = (): boolean => crashed;

/** Refuses where there is nothing left to ask. */
export function checkAlive(): void {
  if (crashed)
    throw new Refusal(
      500,
      "internal",
      "A model in this Worker has crashed. It comes back when the Worker is started anew.",
    );
}

/** Loads `name`.gguf from the bucket, where one is bound, else from `models/` among the Worker's files. */
export async function open(name: string, env: Env, origin: string): Promise<Engine> {
  checkAlive();
  const file = env.MODELS
    ? await env.MODELS.get(`${name}.gguf`)
    : await env.ASSETS.fetch(new URL(`/models/${name}.gguf`, origin));
  if (file === null) throw new Refusal(500, "internal", `${name}.gguf is not in this Worker's bucket.`);
  if ("ok" in file && !file.ok)
    throw new Refusal(500, "internal", `models/${name}.gguf is not among this Worker's files.`);
  // The engine reads it piece by piece: there are 128 MB for all.
  const blob = await file.blob();
  initSync({ module: wasm });
  return Engine.load(new Stopper(), [blob], { device: "cpu", threads: 1 }, () => {});
}

/** What to answer where an engine failed. After a trap none may be entered again. */
export function refusal(error: unknown): Refusal {
  if (error instanceof WebAssembly.RuntimeError || error instanceof RangeError) crashed = true;
  if (error instanceof Refusal) return error;
  const { code, message } = error as { code?: string; message: string };
  if (code === "invalid_argument" || code === "context_length_exceeded") return new Refusal(400, code as Code, message);
  return new Refusal(500, "internal", `The model failed: ${message}`);
}
