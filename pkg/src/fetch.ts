/** OpenAI's interface over HTTP, without HTTP: what a client of it would ask a server, an engine answers. */
import type { Engine } from "./engine.js";
import { CandlewickError, type ErrorCode } from "./errors.js";
import type { Stream } from "./stream.js";
import type { EngineInfo, RemoteInfo } from "./types.js";

/** A `fetch` that `engine` answers. */
export function fetchFrom(engine: Engine<EngineInfo | RemoteInfo>): typeof globalThis.fetch {
  const created = Math.floor(Date.now() / 1000);
  const model = () => ({ id: engine.info.name, object: "model", created, owned_by: "candlewick" });

  async function answer(request: Request): Promise<Response> {
    const { pathname } = new URL(request.url);
    const [, path = "", id] =
      /\/v1\/(chat\/completions|completions|embeddings|models(?:\/(.+?))?)\/?$/.exec(pathname) ?? [];
    const { signal } = request;
    const kind = id === undefined ? path : "models/";
    const method = { "": undefined, models: "GET", "models/": "GET" }[kind] ?? "POST";
    if (path === "")
      return failure(
        404,
        "invalid_argument",
        `There is nothing at ${pathname}: the engine answers /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models.`,
      );
    if (request.method !== method)
      return failure(405, "invalid_argument", `${pathname} takes ${method} only.`, { Allow: method });
    if (kind === "models") return Response.json({ object: "list", data: [model()] });
    if (kind === "models/") {
      const known = id === engine.info.name || decoded(id!) === engine.info.name;
      return known ? Response.json(model()) : failure(404, "model_not_found", `The model is ${engine.info.name}.`);
    }
    const body = parsed(await request.text());
    switch (kind) {
      case "embeddings":
        return Response.json(await engine.embeddings.create(body as never, { signal }));
      case "completions":
        return sent(await engine.completions.create(body as never, { signal }), signal);
      default:
        return sent(await engine.chat.completions.create(body as never, { signal }), signal);
    }
  }

  return async (input, init) => {
    const request = new Request(input, init);
    request.signal.throwIfAborted();
    try {
      return await answer(request);
    } catch (error) {
      // As `fetch` does: with the reason, not with an answer.
      request.signal.throwIfAborted();
      const { code, message } =
        error instanceof CandlewickError ? error : new CandlewickError("internal", String(error));
      return failure(STATUSES[code], code, message);
    }
  };
}

/** Those that a client may try again are from 429 on; of the others it would hear the same again. */
const STATUSES: Record<ErrorCode, number> = {
  invalid_argument: 400,
  unsupported_model: 400,
  context_length_exceeded: 400,
  unauthorized: 401,
  model_not_found: 404,
  rate_limited: 429,
  resource_exhausted: 500,
  corrupt_model: 500,
  internal: 500,
  network: 502,
  provider_error: 502,
  aborted: 503,
  device_lost: 503,
  quota_exceeded: 507,
};

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new CandlewickError("invalid_argument", "The request is not JSON.");
  }
}

function sent(answer: object, signal: AbortSignal): Response {
  if (!(Symbol.asyncIterator in answer)) return Response.json(answer);
  return new Response(events(answer as Stream<unknown>, signal), {
    headers: { "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache" },
  });
}

/** One event a chunk, made when whoever reads has room for it. */
function events(stream: Stream<unknown>, signal: AbortSignal): ReadableStream<Uint8Array> {
  const chunks = stream[Symbol.asyncIterator]();
  const encoder = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const send = (data: string) => controller.enqueue(encoder.encode(`data: ${data}\n\n`));
      try {
        const { done, value } = await chunks.next();
        if (!done) return send(JSON.stringify(value));
        send("[DONE]");
      } catch (error) {
        if (signal.aborted) return controller.error(signal.reason);
        const { code, message } =
          error instanceof CandlewickError ? error : new CandlewickError("internal", String(error));
        // The status is gone already.
        send(JSON.stringify(errorBody(STATUSES[code], code, message)));
      }
      controller.close();
    },
    async cancel() {
      await chunks.return();
    },
  });
}

function failure(status: number, code: ErrorCode, message: string, headers: Record<string, string> = {}): Response {
  // OpenAI's client would ask again by itself after 5xx.
  const again = status === 429 || status === 502 || status === 503;
  return Response.json(errorBody(status, code, message), {
    status,
    headers: { ...headers, "x-should-retry": String(again) },
  });
}

function errorBody(status: number, code: ErrorCode, message: string) {
  return { error: { message, type: typeOf(status), param: null, code } };
}

function typeOf(status: number): string {
  if (status === 401) return "authentication_error";
  if (status === 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}
