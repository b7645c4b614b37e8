/** One request to a hosted model's server: its answer as it comes, or a failure that says what it said. */
import { readText } from "./body";
import { codeOf, Refusal } from "./errors";
import { redactStream, redactText } from "./redact";
import type { Settings } from "./settings";

/** Headers of the upstream's that clients may need. No others pass. */
const PASSED = [
  "Content-Type",
  "Retry-After",
  "retry-after-ms",
  "x-should-retry",
  "RateLimit",
  "RateLimit-Policy",
  "x-request-id",
  "x-inference-provider",
];
/** The most that is read of a failed answer. */
const SHOWN = 1 << 16;

/** Sends `body`, or asks with GET where there is none. The answer's body is not read: it goes on as it comes. */
export async function ask(url: string, body: object | undefined, settings: Settings): Promise<Response> {
  const { token, billTo, timeoutMs } = settings;
  const headers = new Headers({ Accept: "application/json, text/event-stream" });
  if (token !== undefined) headers.set("Authorization", `Bearer ${token}`);
  if (billTo !== undefined) headers.set("X-HF-Bill-To", billTo);
  if (body !== undefined) headers.set("Content-Type", "application/json");
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), timeoutMs);
  let response: Response;
  try {
    const init = { headers, redirect: "manual" as const, signal: timeout.signal }; // The token goes to this address only.
    response = await fetch(url, body === undefined ? init : { ...init, method: "POST", body: JSON.stringify(body) });
  } catch {
    // What the runtime says of it may hold the address.
    if (timeout.signal.aborted)
      throw new Refusal(504, "network", `The provider did not answer within ${timeoutMs / 1000} s.`);
    throw new Refusal(502, "network", "The provider could not be reached.");
  } finally {
    clearTimeout(timer);
  }
  if (response.status !== 200) throw await failure(response, token);
  const passedOn = passedHeaders(response.headers, token);
  let { body: passed } = response;
  const type = response.headers.get("Content-Type") ?? "";
  if (passed && !/^(application\/json|text\/event-stream|image\/)\b/i.test(type)) {
    const [start, whole] = await peek(passed);
    const form = formOf(start);
    if (form === undefined) {
      await whole.cancel();
      throw new Refusal(
        502,
        "provider_error",
        `The provider answered with ${type || "something"} instead of JSON or a picture.`,
      );
    }
    passed = whole;
    passedOn["Content-Type"] = form;
  }
  return new Response(passed && token !== undefined ? passed.pipeThrough(redactStream(token)) : passed, {
    headers: passedOn,
  });
}

/** Some hosts give any type to what they send. What it is shows from how it begins. */
function formOf(start: string): string | undefined {
  if (/^[{[]/.test(start)) return "application/json";
  return /^(data|event|id|retry)?:/.test(start) ? "text/event-stream" : undefined;
}

/** How a body begins, blanks aside, and the whole of it. */
async function peek(body: ReadableStream<Uint8Array>): Promise<[string, ReadableStream<Uint8Array>]> {
  const reader = body.getReader();
  const seen: Uint8Array[] = [];
  const decoder = new TextDecoder(); // It takes a byte order mark away.
  let start = "";
  // As many characters as the longest field of an event, and its colon; a body that begins with blanks alone is none.
  for (let bytes = 0; start.length < 6 && bytes < SHOWN;) {
    const { done, value } = await reader.read();
    if (done) break;
    seen.push(value);
    bytes += value.length;
    start = (start + decoder.decode(value, { stream: true })).trimStart();
  }
  const whole = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const first = seen.shift();
      if (first) return controller.enqueue(first);
      const { done, value } = await reader.read();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: (reason) => reader.cancel(reason),
  });
  return [start, whole];
}

function passedHeaders(headers: Headers, token: string | undefined): Record<string, string> {
  return Object.fromEntries(
    PASSED.flatMap((name) => (headers.has(name) ? [[name, redactText(headers.get(name)!, token)]] : [])),
  );
}

/** Its status and hints go on; what it says is put into OpenAI's shape. */
async function failure(response: Response, token: string | undefined): Promise<Refusal> {
  // A body that breaks off, or never ends, says less than the status does.
  const text = response.body ? await readText(response.body, SHOWN).catch(() => undefined) : undefined;
  if (text === undefined) await response.body?.cancel().catch(() => {});
  const body = parse(text ?? "");
  // An account without credits is not one that is asked too often.
  const exhausted =
    response.status === 429 && /insufficient_quota|insufficient_balance|exceeded_current_quota/.test(text ?? "");
  const status = exhausted ? 402 : response.status;
  const said = redactText(message(body) || `HTTP ${status}`, token).slice(0, 1000);
  if (status < 400)
    return new Refusal(502, "provider_error", `The provider answered with HTTP ${status}. Check UPSTREAM_URL.`);
  const { "Content-Type": _, ...headers } = passedHeaders(response.headers, token);
  const refused =
    status === 401 || status === 403 ? "The provider refused this relay: check its HF_TOKEN. It said: " : "";
  const long = status === 400 && /context.?length|maximum context/i.test(text ?? "");
  // How long a model takes to load is worth knowing for whoever tries again.
  const estimate =
    typeof body === "object" && body !== null && "estimated_time" in body ? body.estimated_time : undefined;
  const more = typeof estimate === "number" ? { estimated_time: estimate } : undefined;
  return new Refusal(status, long ? "context_length_exceeded" : codeOf(status), refused + said, headers, more);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // A page of HTML is no message.
    return /^\s*</.test(text) ? "" : text;
  }
}

/** `{error: "…"}`, `{error: {message}}`, `{error: ["…"]}`, `{detail: "…" | [{msg}]}`, `{message}`, plain text. */
function message(body: unknown): string {
  if (typeof body === "string") return body.trim();
  if (Array.isArray(body))
    return body
      .map(message)
      .filter((text) => text !== "")
      .join("; ");
  if (typeof body !== "object" || body === null) return "";
  const fields = body as Record<string, unknown>;
  for (const name of ["message", "error", "detail", "error_message", "msg"])
    if (fields[name] != null) return message(fields[name]);
  return "";
}
