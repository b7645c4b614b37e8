/** The page around the package, and what it has given, in the shape in which that reaches the Worker. */
import { CandlewickError } from "./errors.js";

/** Says so where there is no browser around. */
export function checkBrowser(): void {
  if (typeof Worker === "undefined" || typeof document === "undefined") {
    throw new CandlewickError(
      "invalid_argument",
      "load() needs a browser: there is no Worker or document here. Call it on the client, not while rendering on the server.",
    );
  }
}

/** A whole address; one without a beginning is relative to the page. `what` is its name in the message. */
export function absolute(url: string | URL, what: string): string {
  checkBrowser();
  try {
    return new URL(url, document.baseURI).href;
  } catch (cause) {
    throw new CandlewickError("invalid_argument", `${what}: "${url}" is not a valid URL.`, { cause });
  }
}

/** A copy that is JSON, without fields that are undefined: the engine takes those for what is wrong. */
export function plain<T>(value: T, what: string): T {
  try {
    return JSON.parse(JSON.stringify(value));
  } catch (cause) {
    throw new CandlewickError("invalid_argument", `${what}: this cannot be sent to the engine: ${cause}`, { cause });
  }
}
