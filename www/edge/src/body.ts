/** A request's body: JSON of a limited size, whatever its Content-Length says. */
import { Refusal } from "./errors";

/** How many objects and lists may lie in each other: whoever walks through deeper ones in WebAssembly may run out of stack. */
const DEEPEST = 64;

export type Body = Record<string, unknown> & { model: string };

export async function readBody(request: Request, limit: number): Promise<Body> {
  const body = await readObject(request, limit);
  if (typeof body.model !== "string" || body.model === "")
    throw new Refusal(400, "invalid_argument", 'model is missing: which one? For example "org/name".');
  return body as Body;
}

export async function readObject(request: Request, limit: number): Promise<Record<string, unknown>> {
  const declared = Number(request.headers.get("Content-Length") ?? 0);
  const text = declared > limit ? undefined : request.body ? await readText(request.body, limit) : "";
  if (text === undefined) throw new Refusal(413, "invalid_argument", `The request is larger than ${limit} bytes.`);
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Refusal(400, "invalid_argument", "The request is not JSON.");
  }
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new Refusal(400, "invalid_argument", "The request is not an object.");
  if (nests(body, DEEPEST))
    throw new Refusal(
      400,
      "invalid_argument",
      `The request's objects and lists lie more than ${DEEPEST} deep in each other.`,
    );
  return body as Record<string, unknown>;
}

/** Whether more than `levels` objects and lists lie in each other. */
function nests(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => nests(inner, levels - 1));
}

/** Nothing where it is longer. */
export async function readText(body: ReadableStream<Uint8Array>, limit: number): Promise<string | undefined> {
  const decoder = new TextDecoder();
  let [text, bytes] = ["", 0];
  for await (const piece of body.values({ preventCancel: true })) {
    bytes += piece.length;
    if (bytes > limit) return undefined;
    text += decoder.decode(piece, { stream: true });
  }
  return text + decoder.decode();
}

/** The most that is read of a request that is refused, in bytes. */
const DISCARDED = 8 << 20;

/** How long a refusal waits for that, in milliseconds. */
const DISCARDING = 2_000;

/** Reads what is left of a refused request: a connection on which it still comes is reset, and the refusal is lost with it. */
export async function discard({ body }: Request): Promise<void> {
  if (!body || body.locked) return;
  const reader = body.getReader();
  let over = () => {};
  const end = new Promise<{ done: true; value?: undefined }>((resolve) => (over = () => resolve({ done: true })));
  const timer = setTimeout(() => over(), DISCARDING);
  let bytes = 0;
  while (bytes <= DISCARDED) {
    const { done, value } = await Promise.race([reader.read(), end]);
    if (done) break;
    bytes += value?.length ?? 0;
  }
  clearTimeout(timer);
  await reader.cancel();
}
