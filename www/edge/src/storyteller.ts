/** A small model that runs in this Worker, in candlewick's WebAssembly: 260 thousand weights that tell stories. */
import type { Answer } from "../../../pkg/wasm/candlewick.js";
import type { Body } from "./body";
import { errorBody, Refusal } from "./errors";
import { hasCrashed, open, refusal } from "./local";
import { type Lease, take } from "./pool";
import type { Env } from "./settings";

export const STORYTELLER = "stories260K";

/** The most answers to one request. */
const MOST_ANSWERS = 16;

/** The most bytes of a request: those that wait are in memory, and the model reads 512 tokens. */
export const MOST_BYTES = 64 << 10;

/** What this file looks at in a chunk. */
interface Chunk {
  choices: unknown[];
  prompt_progress?: unknown;
}

/** Continues a text, as `/v1/completions` does. */
export async function tell(request: Request, body: Body, env: Env): Promise<Response> {
  const prompts = Array.isArray(body.prompt) && typeof body.prompt[0] !== "number" ? body.prompt.length : 1;
  if (prompts > MOST_ANSWERS)
    throw new Refusal(
      400,
      "invalid_argument",
      `There are ${prompts} prompts; at most ${MOST_ANSWERS} answers are given.`,
    );
  if (typeof body.n === "number" && body.n * prompts > MOST_ANSWERS)
    throw new Refusal(400, "invalid_argument", `n is ${body.n}; at most ${MOST_ANSWERS} answers are given.`);
  const lease = await take(() => open(STORYTELLER, env, request.url));
  try {
    const answer = (lease.answer = lease.engine!.complete(body));
    if (body.stream === true) {
      const usage = (body.stream_options as { include_usage?: boolean } | undefined)?.include_usage === true;
      // Refusals come with the first chunk, and need a status of their own.
      const first = await next(answer, lease, usage);
      return new Response(events(first, answer, lease, usage), {
        headers: { "Content-Type": "text/event-stream; charset=utf-8" },
      });
    }
    while ((await next(answer, lease, true)) !== undefined);
    const whole = await answer.result();
    return Response.json({ ...whole, model: STORYTELLER });
  } catch (error) {
    const refused = refusal(error);
    lease.release();
    throw refused;
  } finally {
    if (body.stream !== true) lease.release();
  }
}

/** The next chunk that a client understands; those of reading the prompt are not of OpenAI's shape. */
async function next(answer: Answer, lease: Lease, usage: boolean): Promise<Chunk | undefined> {
  for (;;) {
    lease.touch();
    lease.working = true;
    const chunk: Chunk | undefined = await answer.next();
    lease.working = false;
    if (chunk === undefined || (chunk.prompt_progress === undefined && (chunk.choices.length > 0 || usage)))
      return chunk;
  }
}

/** One event a chunk, made when the client has room for it. */
function events(first: Chunk | undefined, answer: Answer, lease: Lease, usage: boolean): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let coming: Promise<Chunk | undefined> | undefined = Promise.resolve(first);
  let gone = false;
  return new ReadableStream({
    async pull(controller) {
      const send = (data: string) => controller.enqueue(encoder.encode(`data: ${data}\n\n`));
      try {
        const chunk = await (coming ?? next(answer, lease, usage));
        coming = undefined;
        if (gone) return lease.release();
        if (chunk) return send(JSON.stringify({ ...chunk, model: STORYTELLER }));
        lease.release();
        send("[DONE]");
        controller.close();
      } catch (error) {
        const { status, code, message } = refusal(error);
        lease.working = false;
        lease.release();
        if (gone) return;
        send(JSON.stringify(errorBody(status, code, message)));
        controller.close();
      }
    },
    cancel() {
      gone = true;
      if (hasCrashed()) return;
      if (!lease.working) return lease.release();
      answer.stop();
    },
  });
}
