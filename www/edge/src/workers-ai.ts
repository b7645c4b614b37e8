/** Models named `@cf/…`, on Cloudflare's own machines: their shapes turned into OpenAI's. */
import type { Body } from "./body";
import { codeOf, errorBody, Refusal } from "./errors";
import { embeddingList, encode, texts } from "./embeddings";

interface Told {
  response?: unknown;
  tool_calls?: { name: string; arguments: unknown }[];
  usage?: unknown;
}

/** Of any model; its types know each by name. */
type Run = (model: string, input: object) => Promise<unknown>;

export async function runWorkersAI(
  ai: Ai,
  endpoint: "/v1/chat/completions" | "/v1/embeddings",
  body: Body,
): Promise<Response> {
  const run: Run = (model, input) => (ai.run as Run).call(ai, model, input);
  const { model, ...input } = body;
  try {
    if (endpoint === "/v1/embeddings") {
      const { data } = (await run(model, { text: texts(body) })) as { data: number[][] };
      return Response.json(encode(embeddingList(model, data), body.encoding_format));
    }
    const answer = await run(model, input);
    if (answer instanceof ReadableStream)
      return new Response(answer.pipeThrough(translate(body)), {
        headers: { "Content-Type": "text/event-stream; charset=utf-8" },
      });
    return Response.json("choices" in (answer as object) ? answer : whole(model, answer as Told));
  } catch (error) {
    throw error instanceof Refusal ? error : failure(error);
  }
}

/** Newer models answer in OpenAI's shape already, older ones with `{response, tool_calls, usage}`. */
function whole(model: string, told: Told) {
  const tool_calls = calls(told);
  const message = {
    role: "assistant",
    content: text(told.response) || (tool_calls ? null : ""),
    ...(tool_calls && { tool_calls }),
  };
  const choice = { index: 0, message, logprobs: null, finish_reason: tool_calls ? "tool_calls" : "stop" };
  return { ...head(model, "chat.completion"), choices: [choice], ...(told.usage ? { usage: told.usage } : {}) };
}

/** Their events, each turned as it comes. */
function translate({ model, stream_options }: Body): TransformStream<Uint8Array, Uint8Array> {
  const [decoder, encoder] = [new TextDecoder(), new TextEncoder()];
  const common = head(model, "chat.completion.chunk");
  const chunk = (delta: object, finish_reason: string | null = null) => ({
    ...common,
    choices: [{ index: 0, delta, logprobs: null, finish_reason }],
  });
  let rest = "";
  let [begun, called, finished] = [false, false, false];
  let usage: unknown;
  type Out = TransformStreamDefaultController<Uint8Array>;
  const send = (out: Out, data: unknown) =>
    out.enqueue(encoder.encode(`data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`));
  const end = (out: Out) => {
    if (finished) return;
    finished = true;
    if (begun) send(out, chunk({}, called ? "tool_calls" : "stop"));
    if (usage && (stream_options as { include_usage?: boolean } | undefined)?.include_usage)
      send(out, { ...common, choices: [], usage });
    send(out, "[DONE]");
  };
  const event = (data: string, out: Out) => {
    if (data === "[DONE]") return end(out);
    const told = JSON.parse(data) as Told & { choices?: unknown };
    if (told.choices) return send(out, told);
    usage = told.usage ?? usage;
    if (!begun) send(out, chunk({ role: "assistant", content: "" }));
    begun = true;
    if (text(told.response) !== "") send(out, chunk({ content: text(told.response) }));
    const tool_calls = calls(told);
    called ||= tool_calls !== undefined;
    if (tool_calls) send(out, chunk({ tool_calls }));
  };
  return new TransformStream({
    transform(piece, out) {
      const lines = (rest + decoder.decode(piece, { stream: true })).split(/\r?\n/);
      rest = lines.pop()!;
      try {
        for (const line of lines) if (line.startsWith("data:")) event(line.slice(5).trim(), out);
      } catch {
        send(out, errorBody(502, "provider_error", "Workers AI sent an event that is not JSON."));
        out.terminate();
      }
    },
    // Without an end the answer was cut: the client sees no [DONE].
  });
}

function head(model: string, object: string) {
  return { id: `chatcmpl-${crypto.randomUUID()}`, object, created: Math.floor(Date.now() / 1000), model };
}

/** A text, or JSON where the answer was held to it. */
function text(response: unknown): string {
  if (response == null) return "";
  return typeof response === "string" ? response : JSON.stringify(response);
}

function calls({ tool_calls }: Told) {
  if (!tool_calls?.length) return undefined;
  return tool_calls.map(({ name, arguments: given }, index) => ({
    index,
    id: `call_${crypto.randomUUID()}`,
    type: "function",
    function: { name, arguments: typeof given === "string" ? given : JSON.stringify(given) },
  }));
}

/** Their messages begin with a number: https://developers.cloudflare.com/workers-ai/platform/errors/ */
function failure(error: unknown): Refusal {
  const said = error instanceof Error ? error.message : String(error);
  const number = Number(/\b(\d{4})\b/.exec(said)?.[1]);
  const statuses: Record<number, number> = {
    3006: 413,
    3007: 408,
    3008: 408,
    3036: 429,
    3040: 429,
    3041: 403,
    5004: 400,
    5005: 405,
    5006: 400,
    5007: 404,
    5016: 403,
    5018: 403,
    5019: 405,
  };
  const status = statuses[number] ?? 502;
  return new Refusal(status, codeOf(status), `Workers AI: ${said}`);
}
