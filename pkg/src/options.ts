/** Options by their names: one that nobody knows is a mistake, which would otherwise change nothing in silence. */
import { CandlewickError } from "./errors.js";
import type { LoadOptions } from "./types.js";

const NAMES = [
  "cache",
  "cacheBudget",
  "contextLength",
  "device",
  "fallback",
  "force",
  "gpu",
  "hubURL",
  "onProgress",
  "onRetry",
  "profile",
  "remote",
  "signal",
  "threads",
  "threadsPlainWasmURL",
  "threadsWasmURL",
  "token",
  "transfer",
  "wasmURL",
  "workerURL",
] as const;

/** Where this does not compile, `NAMES` lacks a name. */
const complete: Exclude<keyof LoadOptions, (typeof NAMES)[number]> extends never ? true : false = true;
void complete;

/** Fails with `invalid_argument` where `options` of `what` has a name that no option has. */
export function checkNames(options: object, what: string): void {
  const plain = (name: string) => name.toLowerCase().replaceAll(/[-_]/g, "");
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || (NAMES as readonly string[]).includes(name)) continue;
    const meant = NAMES.find((known) => plain(known) === plain(name) || near(plain(known), plain(name)));
    const guess = meant ? ` Did you mean "${meant}"?` : ` There are ${NAMES.join(", ")}.`;
    throw new CandlewickError("invalid_argument", `${what}: there is no option "${name.slice(0, 40)}".${guess}`);
  }
}

/** Whether one letter is another, too much, missing, or has changed places with the next. */
function near(a: string, b: string): boolean {
  if (Math.abs(a.length - b.length) > 1) return false;
  let at = 0;
  while (at < a.length && a[at] === b[at]) at++;
  const [restA, restB] = [a.slice(at), b.slice(at)];
  const swapped = restA.length > 1 && restA[1]! + restA[0]! + restA.slice(2) === restB;
  return restA.slice(1) === restB || restA === restB.slice(1) || restA.slice(1) === restB.slice(1) || swapped;
}
