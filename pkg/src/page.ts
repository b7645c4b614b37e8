/** The page or Worker around the package, and what it has given, in the shape in which that reaches the engine. */
import { check } from "./check.js";
import { CandlewickError } from "./errors.js";

/** Says so where there is no browser around. */
export function checkBrowser(): void {
  if (
    typeof location === "undefined" ||
    (typeof document === "undefined" && typeof WorkerGlobalScope === "undefined")
  ) {
    throw new CandlewickError(
      "invalid_argument",
      "load() needs a browser: there is no page and no Worker of one here. Call it on the client, not while rendering on the server.",
    );
  }
}

declare const WorkerGlobalScope: unknown;

/** What addresses are relative to: the page, or the Worker's script; where that was made by a page, its origin. */
function base(): string {
  if (typeof document !== "undefined") return document.baseURI;
  return location.protocol === "blob:" && globalThis.origin !== "null" ? globalThis.origin : location.href;
}

/** A whole address; one without a beginning is relative to the page. `what` is its name in the message. */
export function absolute(url: string | URL, what: string): string {
  checkBrowser();
  try {
    return new URL(url, base()).href;
  } catch (cause) {
    throw new CandlewickError("invalid_argument", `${what}: "${url}" is not a valid URL here.`, { cause });
  }
}

/** A copy that is JSON, without fields that are undefined: the engine takes those for what is wrong. */
export function plain<T>(value: T, what: string): T {
  check(value, what);
  try {
    return JSON.parse(JSON.stringify(value));
  } catch (cause) {
    throw new CandlewickError("invalid_argument", `${what}: this cannot be sent to the engine: ${cause}`, { cause });
  }
}
