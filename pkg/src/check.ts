/** What is refused before it is sent: the engine, and the browser on the way there, would fail at it as a whole. */
import { CandlewickError } from "./errors.js";

/** Objects and arrays in each other, the outermost included. */
const DEEPEST = 64;
/** Values, those that are in several places counted in each: the engine has no references. */
const MOST = 1 << 22;

/** What a value comes to. */
interface Extent {
  depth: number;
  values: number;
}

/**
 * Fails with `invalid_argument` where a value is nested too deep or in itself, is too large, or has a number that is none.
 * `what`: what messages call it; the fields of one without a name are called by theirs.
 */
export function check(value: unknown, what = ""): void {
  try {
    new Walk(what).visit(value, [], 0);
  } catch (cause) {
    if (cause instanceof CandlewickError) throw cause;
    // A getter or a proxy of the page's.
    throw new CandlewickError("invalid_argument", `${what || "The request"}: it cannot be read: ${cause}`, { cause });
  }
}

class Walk {
  readonly #what: string;
  readonly #known = new Map<object, Extent>();

  constructor(what: string) {
    this.#what = what;
  }

  visit(value: unknown, path: (string | number)[], outside: number): Extent {
    if (typeof value === "number" && !Number.isFinite(value)) this.#refuse(path, `${value} is not a finite number`);
    if (typeof value !== "object" || value === null || isBytes(value)) return { depth: 0, values: 1 };
    // An object in several places is walked once: there may be more places than time.
    let extent = this.#known.get(value);
    if (!extent) {
      if (outside >= DEEPEST) this.#refuse(path, `nested more than ${DEEPEST} levels deep, or in itself`);
      if (Array.isArray(value) && value.length > MOST) this.#refuse(path, `more than ${MOST} values`);
      extent = { depth: 1, values: 1 };
      for (const [key, inner] of entries(value)) {
        path.push(key);
        const { depth, values } = this.visit(inner, path, outside + 1);
        path.pop();
        extent.depth = Math.max(extent.depth, depth + 1);
        extent.values += values;
      }
      this.#known.set(value, extent);
    }
    if (outside + extent.depth > DEEPEST) this.#refuse(path, `nested more than ${DEEPEST} levels deep`);
    if (extent.values > MOST) this.#refuse(path, `more than ${MOST} values`);
    return extent;
  }

  #refuse(path: (string | number)[], why: string): never {
    const steps = path.slice(0, 4).map((step) => (typeof step === "number" ? `[${step}]` : `.${step}`));
    const name = (this.#what + steps.join("") + (path.length > 4 ? "…" : "")).replace(/^\./, "");
    throw new CandlewickError("invalid_argument", `${name || "The request"}: ${why}.`);
  }
}

/** What is in an object, as far as it is sent. */
function entries(value: object): Iterable<[string | number, unknown]> {
  if (Array.isArray(value)) return value.entries();
  if (value instanceof Map) return Array.from(value, ([key, inner]) => [String(key), inner]);
  if (value instanceof Set) return Array.from(value).entries();
  return Object.entries(value);
}

/** What goes over as it is. */
function isBytes(value: object): boolean {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer || value instanceof Blob;
}
