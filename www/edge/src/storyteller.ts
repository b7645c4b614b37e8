/** A small model that runs in this Worker, in candlewick's WebAssembly: 260 thousand weights that tell stories. */
import type { Answer, Engine } from "../../../pkg/wasm/candlewick.js";
import type { Body } from "./body";
import { errorBody, Refusal } from "./errors";
import { checkAlive, hasCrashed, open, refusal } from "./local";
import type { Env } from "./settings";

export const STORYTELLER = "stories260K";

/** The most answers to one request. */
const MOST_ANSWERS = 16;

/** What this file looks at in a chunk. */
interface Chunk {
  choices: unknown[];
  prompt_progress?: unknown;
}

/**
 * Loaded models that wait for a request. Each serves one at a time: a request that waits for what another one does
 * would hang, for every request's promises are its own in a Worker.
 */
const idle: Engine[] = [];

async function take(env: Env, origin: string): Promise<Engine> {
  checkAlive();
  return idle.pop() ?? open(STORYTELLER, env, origin);
}

/** Gives an engine back after a request. */
function release(engine: Engine, answer: Answer | undefined): void {
  if (hasCrashed()) return;
  answer?.free();
  idle.push(engine);
}

/** Continues a text, as `/v1/completions` does. */
export async function tell(request: Request, body: Body, env: Env): Promise<Response> {
  if (typeof body.n === "number" && body.n > MOST_ANSWERS) throw new Refusal(400, "invalid_argument", `n is ${body.n}; at most ${MOST_ANSWERS} answers are given.`);
  const engine = await take(env, request.url);
  let answer: Answer | undefined;
  try {
    answer = engine.complete(body);
    if (body.stream === true) {
      const usage = (body.stream_options as { include_usage?: boolean } | undefined)?.include_usage === true;
      // Refusals come with the first chunk, and need a status of their own.
      const first = await next(answer, usage);
      return new Response(events(first, answer, engine, usage), { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
    }
    while ((await answer.next()) !== undefined);
    const whole = await answer.result();
    release(engine, answer);
    return Response.json({ ...whole, model: STORYTELLER });
  } catch (error) {
    const refused = refusal(error);
    release(engine, answer);
    throw refused;
  }
}

/** The next chunk that a client understands; those of reading the prompt are not of OpenAI's shape. */
async function next(answer: Answer, usage: boolean): Promise<Chunk | undefined> {
  for (;;) {
    const chunk: Chunk | undefined = await answer.next();
    if (chunk === undefined || (chunk.prompt_progress === undefined && (chunk.choices.length > 0 || usage))) return chunk;
  }
}

/** One event a chunk, made when the client has room for it. */
function events(first: Chunk | undefined, answer: Answer, engine: Engine, usage: boolean): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let coming: Promise<Chunk | undefined> | undefined = Promise.resolve(first);
  let [working, gone] = [false, false];
  return new ReadableStream({
    async pull(controller) {
      const send = (data: string) => controller.enqueue(encoder.encode(`data: ${data}\n\n`));
      working = true;
      try {
        const chunk = await (coming ?? next(answer, usage));
        coming = undefined;
        if (gone) return release(engine, answer);
        if (chunk) return send(JSON.stringify({ ...chunk, model: STORYTELLER }));
        release(engine, answer);
        send("[DONE]");
        controller.close();
      } catch (error) {
        const { status, code, message } = refusal(error);
        release(engine, answer);
        if (gone) return;
        send(JSON.stringify(errorBody(status, code, message)));
        controller.close();
      } finally {
        working = false;
      }
    },
    cancel() {
      gone = true;
      if (hasCrashed()) return;
      answer.stop();
      if (!working) release(engine, answer);
    },
  });
}
