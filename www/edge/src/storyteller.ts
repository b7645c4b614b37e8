/** A small model that runs in this Worker, in candlewick's WebAssembly: 260 thousand weights that tell stories. */
import type { Answer, Engine } from "../../../pkg/wasm/candlewick.js";
import type { Body } from "./body";
import { errorBody } from "./errors";
import { open, refusal } from "./local";
import type { Env } from "./settings";

export const STORYTELLER = "stories260K";

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
  const waiting = idle.pop();
  if (waiting) return waiting;
  return open(STORYTELLER, env, origin);
}

/** Continues a text, as `/v1/completions` does. */
export async function tell(request: Request, body: Body, env: Env): Promise<Response> {
  const engine = await take(env, request.url);
  try {
    const answer = engine.complete(body);
    if (body.stream === true) return new Response(events(answer, engine, body), { headers: { "Content-Type": "text/event-stream; charset=utf-8" } });
    while ((await answer.next()) !== undefined);
    const whole = await answer.result();
    answer.free();
    idle.push(engine);
    return Response.json({ ...whole, model: STORYTELLER });
  } catch (error) {
    const refused = refusal(error);
    if (refused.status < 500) idle.push(engine);
    throw refused;
  }
}

/** One event a chunk, made when the client has room for it. */
function events(answer: Answer, engine: Engine, body: Body): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const usage = (body.stream_options as { include_usage?: boolean } | undefined)?.include_usage === true;
  let [working, gone] = [false, false];
  const end = () => {
    answer.free();
    idle.push(engine);
  };
  /** The next chunk that a client understands; those of reading the prompt are not of OpenAI's shape. */
  const next = async (): Promise<Chunk | undefined> => {
    for (;;) {
      const chunk: Chunk | undefined = await answer.next();
      if (chunk === undefined || (chunk.prompt_progress === undefined && (chunk.choices.length > 0 || usage))) return chunk;
    }
  };
  return new ReadableStream({
    async pull(controller) {
      const send = (data: string) => controller.enqueue(encoder.encode(`data: ${data}\n\n`));
      working = true;
      try {
        const chunk = await next();
        if (gone) return end();
        if (chunk) return send(JSON.stringify({ ...chunk, model: STORYTELLER }));
        send("[DONE]");
        controller.close();
        end();
      } catch (error) {
        const { status, code, message } = refusal(error);
        send(JSON.stringify(errorBody(status, code, message)));
        controller.close();
      } finally {
        working = false;
      }
    },
    cancel() {
      gone = true;
      answer.stop();
      if (!working) end();
    },
  });
}
