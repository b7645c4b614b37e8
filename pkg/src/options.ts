/** Options by their names: one that nobody knows is a mistake, which would otherwise change nothing in silence. */
import { CandlewickError } from "./errors.js";
import type { SessionOptions } from "./session.js";
import type {
  ConnectOptions,
  HubOptions,
  InspectOptions,
  LoadOptions,
  PinOptions,
  PullOptions,
  RequestOptions,
  VerifyOptions,
} from "./types.js";

/** Every name of an option, true: where this does not compile, one is missing or there is no such. */
type Names<Options> = Record<keyof Options, true>;

const PLACE: Names<ConnectOptions> = {
  signal: true,
  threadsPlainWasmURL: true,
  threadsWasmURL: true,
  wasmURL: true,
  workerURL: true,
};
const HUB: Names<HubOptions> = { ...PLACE, hubURL: true, onRetry: true, token: true, transfer: true };
const INSPECT: Names<InspectOptions> = {
  ...HUB,
  contextLength: true,
  device: true,
  gpu: true,
  threads: true,
};
const VERIFY: Names<VerifyOptions> = { ...HUB, onProgress: true };
const PULL: Names<PullOptions> = { ...VERIFY, cacheBudget: true, force: true };
const LOAD: Names<LoadOptions> = {
  ...INSPECT,
  ...PULL,
  cache: true,
  fallback: true,
  kvCache: true,
  profile: true,
  remote: true,
};
const REQUEST: Names<RequestOptions> = { onPromptProgress: true, onRetry: true, signal: true };
const SESSION: Names<SessionOptions> = { ...REQUEST, from: true, messages: true, name: true, params: true };
const PIN: Names<PinOptions> = { ...REQUEST, persist: true };

/** By call. */
const NAMES = {
  "load()": LOAD,
  "connect()": PLACE,
  "inspect()": INSPECT,
  "models.list()": HUB,
  "models.pull()": PULL,
  "models.remove()": HUB,
  "models.usage()": HUB,
  "models.verify()": VERIFY,
  "pin()": PIN,
  "session()": SESSION,
  "sessions.list()": HUB,
  "sessions.remove()": HUB,
};

/** Fails with `invalid_argument` where `options` has a name that no option of the call has. */
export function checkNames(options: object, call: keyof typeof NAMES): void {
  if (typeof options !== "object" || options === null)
    throw new CandlewickError("invalid_argument", `${call}: its options are an object.`);
  const plain = (name: string) => name.toLowerCase().replaceAll(/[-_]/g, "");
  const names = Object.keys(NAMES[call]).sort();
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || names.includes(name)) continue;
    const meant = names.find((known) => plain(known) === plain(name) || near(plain(known), plain(name)));
    const guess = meant ? ` Did you mean "${meant}"?` : ` There are ${names.join(", ")}.`;
    throw new CandlewickError("invalid_argument", `${call}: there is no option "${name.slice(0, 40)}".${guess}`);
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
