/** Who is let in: pages by their origin, programs by a key, each only so often. */
import { Refusal } from "./errors";
import type { Env, Settings } from "./settings";

/**
 * Refuses whoever may not ask. Browsers send `Origin` with every POST and with requests to another origin; a GET to the
 * page's own origin shows by `Sec-Fetch-Site` what it is.
 */
export async function admit(request: Request, env: Env, settings: Settings): Promise<void> {
  const key = await clientKey(request, settings);
  // Before anybody is refused: else keys could be guessed as often as one likes.
  await limit(
    key === undefined ? `address ${network(request.headers.get("CF-Connecting-IP") ?? "unknown")}` : `key ${key}`,
    env,
  );
  if (key !== undefined) return;
  const origin = request.headers.get("Origin");
  const own = origin === null && request.headers.get("Sec-Fetch-Site") === "same-origin";
  if (origin === null && !own) {
    throw new Refusal(
      401,
      "unauthorized",
      "This relay needs a key: Authorization: Bearer KEY, one of its CLIENT_KEYS. Pages need none.",
    );
  }
  if (!own && !allows(settings, request)) {
    throw new Refusal(
      403,
      "unauthorized",
      "Pages of this origin may not use this relay. Its owner can add it to ALLOWED_ORIGINS.",
    );
  }
}

/** Whether a page may ask and read: one of this Worker's own, or of an origin on the list. */
export function allows(settings: Settings, request: Request): boolean {
  const origin = request.headers.get("Origin");
  if (origin === null) return false;
  return origin === new URL(request.url).origin || settings.origins.includes(origin) || settings.origins.includes("*");
}

/** What a page of another origin needs to read an answer. */
export function openTo(request: Request, settings: Settings, response: Response): Response {
  const opened = new Response(response.body, response);
  opened.headers.append("Vary", "Origin");
  opened.headers.set("Cache-Control", "no-store");
  if (allows(settings, request)) {
    opened.headers.set("Access-Control-Allow-Origin", request.headers.get("Origin")!);
    opened.headers.set(
      "Access-Control-Expose-Headers",
      "Retry-After, RateLimit, x-request-id, x-inference-provider, x-candlewick-cache",
    );
  }
  return opened;
}

/** The answer to a browser's question before the request. */
export function preflight(request: Request, settings: Settings): Response {
  if (!allows(settings, request))
    throw new Refusal(
      403,
      "unauthorized",
      "Pages of this origin may not use this relay. Its owner can add it to ALLOWED_ORIGINS.",
    );
  const headers = new Headers({ "Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": "86400" });
  // Clients have headers of their own; none of them means anything here.
  const asked = request.headers.get("Access-Control-Request-Headers");
  if (asked) headers.set("Access-Control-Allow-Headers", asked);
  return new Response(null, { status: 204, headers });
}

/** A digest of the key that came, if it is a good one. */
async function clientKey(request: Request, { clientKeys }: Settings): Promise<string | undefined> {
  const given = /^Bearer +(.+)$/i.exec(request.headers.get("Authorization") ?? "")?.[1]?.trim();
  if (given === undefined || clientKeys.length === 0) return undefined;
  const digest = await sha256(given);
  // Digests are of one length, and comparing them takes one time.
  const known = await Promise.all(clientKeys.map(sha256));
  return known.some((key) => crypto.subtle.timingSafeEqual(key, digest)) ? hex(digest).slice(0, 16) : undefined;
}

async function limit(key: string, { RATE_LIMITER }: Env): Promise<void> {
  if (!RATE_LIMITER) return;
  const { success } = await RATE_LIMITER.limit({ key });
  if (!success)
    throw new Refusal(429, "rate_limited", "Too many requests. Try again in a moment.", { "Retry-After": "10" });
}

/** A client's own network: of IPv6 the half that it cannot choose freely. */
function network(address: string): string {
  if (!address.includes(":")) return address;
  const [head = "", tail] = address.toLowerCase().split("::");
  const [front, back] = [head, tail ?? ""].map((part) => part.split(":").filter((group) => group !== ""));
  const gap = tail === undefined ? [] : Array(Math.max(0, 8 - front!.length - back!.length)).fill("0");
  return [...front!, ...gap, ...back!].slice(0, 4).join(":");
}

export async function sha256(text: string): Promise<ArrayBuffer> {
  return crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
}

export function hex(bytes: ArrayBuffer): string {
  return [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
