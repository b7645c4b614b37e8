/** An encoder that runs in this Worker: `/v1/embeddings` without a host. */
import { Stopper, type Engine } from "../../../pkg/wasm/candlewick.js";
import type { Body } from "./body";
import { Refusal } from "./errors";
import { checkAlive, open, refusal } from "./local";
import type { Env } from "./settings";

/** How long nothing may be heard of the request that loads the model, in milliseconds: it may have been given up. */
const PATIENCE = 10_000;

/** One for all requests: it never waits in the middle of a text, so nobody waits for what another request does. */
let encoder: Engine | undefined;
let loadingSince: number | undefined;

async function ready(name: string, env: Env, origin: string): Promise<Engine> {
  // There is no room for two. Only timers of its own can wake a request in a Worker.
  while (!encoder && loadingSince !== undefined && Date.now() - loadingSince < PATIENCE) await scheduler.wait(20);
  if (encoder) {
    checkAlive();
    return encoder;
  }
  let loaded = false;
  const loading = open(name, env, origin).finally(() => (loaded = true));
  try {
    while (!loaded) {
      loadingSince = Date.now();
      await Promise.race([loading, scheduler.wait(PATIENCE / 10)]);
    }
    const mine = await loading;
    if (encoder) mine.free(); // Another request took it for given up.
    return (encoder ??= mine);
  } finally {
    loadingSince = undefined;
  }
}

/** The most texts in a request, as OpenAI has it: as numbers they take a hundred times their own room. */
const MOST_TEXTS = 2048;

/** The vectors of a request's texts. */
export async function embed(name: string, request: Request, body: Body, env: Env): Promise<Response> {
  const { input } = body;
  if (Array.isArray(input) && input.length > MOST_TEXTS && typeof input[0] !== "number") {
    throw new Refusal(
      400,
      "invalid_argument",
      `input has ${input.length} texts; at most ${MOST_TEXTS} go into a request.`,
    );
  }
  try {
    const engine = await ready(name, env, request.url);
    const list = await engine.embeddings(new Stopper(), body, () => {});
    return Response.json({ ...list, model: name });
  } catch (error) {
    throw refusal(error);
  }
}
