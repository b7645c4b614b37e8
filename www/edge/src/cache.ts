/**
 * Answers given before, in Cloudflare's cache of this data centre. Only those that would come again: embeddings, and
 * answers with a seed or temperature 0. The key is a digest of the upstream and the request; no token is in it.
 */
import { waitUntil } from "cloudflare:workers";
import { hex, sha256 } from "./admission";
import type { Body } from "./body";
import type { Settings } from "./settings";

/** The longest answer that is kept, in bytes. */
const LARGEST = 1 << 20;

export type Endpoint = "/v1/chat/completions" | "/v1/embeddings" | "/v1/models";

/** What an answer is known by; nothing where it may not be kept. */
export async function cacheKey(
  request: Request,
  endpoint: Endpoint,
  body: Body | undefined,
  settings: Settings,
): Promise<string | undefined> {
  if (settings.cacheSeconds === 0 || /no-store|no-cache/i.test(request.headers.get("Cache-Control") ?? ""))
    return undefined;
  const fixed = endpoint !== "/v1/chat/completions" || body?.seed != null || body?.temperature === 0;
  if (!fixed && !settings.cacheRandom) return undefined;
  const fields = Object.entries(body ?? {}).filter(([name, value]) => value != null && name !== "user");
  const sorted = fields.sort(([a], [b]) => (a < b ? -1 : 1));
  const offered = endpoint === "/v1/models" ? settings.models : [];
  const digest = hex(await sha256(JSON.stringify([settings.upstream, settings.billTo, endpoint, sorted, offered])));
  // The Cache API wants an address. Nobody can ask for this one: the Worker answers 404 there.
  return new URL(`/v1/cache/${digest}`, request.url).href;
}

export async function find(key: string): Promise<Response | undefined> {
  const hit = await caches.default.match(key);
  return (
    hit &&
    new Response(hit.body, {
      headers: { "Content-Type": hit.headers.get("Content-Type")!, "x-candlewick-cache": "hit" },
    })
  );
}

/** Passes an answer on as it comes, and keeps it once it has come whole. */
export function keep(key: string, answer: Response, seconds: number): Response {
  const type = answer.headers.get("Content-Type") ?? "";
  let pieces: Uint8Array[] | undefined = [];
  let bytes = 0;
  const collect = new TransformStream<Uint8Array, Uint8Array>({
    transform(piece, controller) {
      controller.enqueue(piece);
      bytes += piece.length;
      if (bytes > LARGEST) pieces = undefined;
      pieces?.push(piece);
    },
    async flush() {
      if (pieces === undefined) return;
      const body = await new Blob(pieces).text();
      if (!isWhole(body, type)) return;
      const headers = { "Content-Type": type, "Cache-Control": `public, max-age=${seconds}` };
      // The answer's end does not wait for it, nor fails with it.
      waitUntil(caches.default.put(key, new Response(body, { headers })).catch(() => {}));
    },
  });
  const kept = new Response(answer.body?.pipeThrough(collect), answer);
  kept.headers.set("x-candlewick-cache", "miss");
  return kept;
}

/** No failure, and for a stream its end. */
function isWhole(body: string, type: string): boolean {
  const stream = type.startsWith("text/event-stream");
  const parts = stream
    ? body.split(/\r?\n/).flatMap((line) => (line.startsWith("data:") ? [line.slice(5).trim()] : []))
    : [body];
  if (stream && parts.pop() !== "[DONE]") return false;
  try {
    return parts.every((part) => JSON.parse(part)?.error == null);
  } catch {
    return false;
  }
}
