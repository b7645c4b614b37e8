/** Models that run in this Worker, in candlewick's WebAssembly. */
import wasm from "../../../pkg/wasm/candlewick_bg.wasm";
import { Engine, initSync } from "../../../pkg/wasm/candlewick.js";
import { type Code, Refusal } from "./errors";
import type { Env } from "./settings";

/** Loads `name`.gguf from the bucket, where one is bound, else from `models/` among the Worker's files. */
export async function open(name: string, env: Env, origin: string): Promise<Engine> {
  const file = env.MODELS ? await env.MODELS.get(`${name}.gguf`) : await env.ASSETS.fetch(new URL(`/models/${name}.gguf`, origin));
  if (file === null) throw new Refusal(500, "internal", `${name}.gguf is not in this Worker's bucket.`);
  if ("ok" in file && !file.ok) throw new Refusal(500, "internal", `models/${name}.gguf is not among this Worker's files.`);
  // The engine reads it piece by piece: there are 128 MB for all.
  const blob = await file.blob();
  initSync({ module: wasm });
  return Engine.load([blob], { device: "cpu", threads: 1 }, () => {});
}

/** The engine's errors have a code; anything else is a trap. */
export function refusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  const { code, message } = error as { code?: string; message: string };
  if (code === "invalid_argument" || code === "context_length_exceeded") return new Refusal(400, code as Code, message);
  return new Refusal(500, "internal", `The model failed: ${message}`);
}
