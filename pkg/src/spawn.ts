/** Starts Workers, wherever this module was served from. */
import type { Place, TrustedScriptURL } from "./compile.js";
import { CandlewickError } from "./errors.js";
import { absolute, checkBrowser } from "./page.js";
import { ATTACH } from "./protocol.js";

// In a variable, because bundlers take `new URL("…", import.meta.url)` for an asset to be copied.
const here = import.meta.url;

/** An engine's Worker, or its place on this thread. */
export interface Seat {
  post(message: unknown, transfer?: Transferable[]): void;
  end(): void;
}

/** What an engine's side says. */
export interface Ears {
  message(data: never): void;
  /** Without a text it did not even start. */
  error(text: string | undefined): void;
  unreadable(): void;
}

/** A Worker for an engine; where there are none, as in service workers, this thread itself. */
export async function seat(workerURL: Place["workerURL"], ears: Ears): Promise<Seat> {
  checkBrowser();
  if (typeof Worker === "undefined") return seatHere(workerURL, ears);
  const worker = spawn(workerURL);
  worker.addEventListener("message", ({ data }) => ears.message(data as never));
  worker.addEventListener("error", (event) => {
    event.preventDefault(); // It is reported through the calls that fail.
    ears.error(event.message || undefined);
  });
  worker.addEventListener("messageerror", () => ears.unreadable());
  return { post: (message, transfer = []) => worker.postMessage(message, transfer), end: () => worker.terminate() };
}

/** Starts the Worker's script. Throws a typed error where the page forbids that. */
export function spawn(workerURL: Place["workerURL"]): Worker {
  try {
    return construct(workerURL);
  } catch (cause) {
    if (cause instanceof CandlewickError) throw cause;
    throw new CandlewickError("network", `${explainFailedStart(workerURL)} (${cause})`, { cause });
  }
}

function construct(workerURL: Place["workerURL"]): Worker {
  const override =
    workerURL === undefined ? foreign(here, "./worker.js") : new URL(absolute(String(workerURL), "workerURL"));
  if (override === undefined) {
    // Exactly this form is what Vite, webpack, Parcel and Rollup plugins recognise and bundle.
    return trusting(() => new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "candlewick" }));
  }
  const direct = override.origin === globalThis.origin || /^(blob|data):/.test(override.protocol);
  const given = direct && typeof workerURL === "object" && !(workerURL instanceof URL) ? workerURL : undefined;
  const url = given ?? (direct ? override.href : shim(override));
  // The constructor takes a trusted address as it is; TypeScript does not know.
  return trusting(() => new Worker(url as string, { type: "module", name: "candlewick" }));
}

/** The address of the file beside this module if it is on another origin, as with a CDN, or everything is, as in a sandbox. */
function foreign(base: string, path: string): URL | undefined {
  const url = /^https?:/.test(base) ? new URL(path, base) : undefined;
  return url?.origin === globalThis.origin ? undefined : url;
}

const shims = new Map<string, string>();

/** A Worker cannot be constructed from another origin, but a local one can import from there (where CORS allows). */
function shim({ href }: URL): string {
  const script = `import ${JSON.stringify(href)};`;
  // Without an origin, Chromium makes no module Workers of Blobs.
  if (globalThis.origin === "null") return `data:text/javascript,${encodeURIComponent(script)}`;
  let url = shims.get(href);
  if (url === undefined) {
    url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    shims.set(href, url);
  }
  return url;
}

interface Policies {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): Policy;
}
interface Policy {
  createScriptURL(url: string): TrustedScriptURL;
}
let policy: Policy | undefined;

/**
 * `start`, which constructs a Worker; in a page that has `require-trusted-types-for 'script'`, with an address that is
 * trusted by the policy `candlewick`. Where bundlers have put the script, only the constructor hears.
 */
function trusting(start: () => Worker): Worker {
  const { trustedTypes, Worker: Native } = globalThis as typeof globalThis & { trustedTypes?: Policies };
  try {
    return start();
  } catch (cause) {
    if (!trustedTypes || !(cause instanceof TypeError)) throw cause;
  }
  try {
    policy ??= trustedTypes.createPolicy("candlewick", { createScriptURL: (url) => url });
  } catch (cause) {
    throw new CandlewickError(
      "invalid_argument",
      "The page's Content-Security-Policy requires Trusted Types and has no place for those of candlewick: " +
        "add candlewick to its trusted-types, or pass workerURL as a TrustedScriptURL.",
      { cause },
    );
  }
  const { createScriptURL } = policy;
  // For this one call, during which nothing else runs.
  globalThis.Worker = function (url: string | URL, options?: WorkerOptions) {
    return new Native(createScriptURL.call(policy, String(url)) as unknown as string, options);
  } as unknown as typeof Worker;
  try {
    return start();
  } finally {
    globalThis.Worker = Native;
  }
}

/** The engine on this thread, over a channel as if it were a Worker. */
async function seatHere(workerURL: Place["workerURL"], ears: Ears): Promise<Seat> {
  const found = () => (globalThis as { [ATTACH]?: (port: MessagePort) => void })[ATTACH];
  if (!found()) {
    const url = workerURL === undefined ? new URL("worker.js", here).href : absolute(String(workerURL), "workerURL");
    try {
      await import(/* webpackIgnore: true */ /* @vite-ignore */ url);
    } catch (cause) {
      throw new CandlewickError(
        "invalid_argument",
        `No Workers can be started here, and the engine's code could not be imported from ${url} (${cause}). ` +
          'Write import "candlewick/worker.js" at the top of this script: then the engine runs on its thread.',
        { cause },
      );
    }
  }
  const attach = found();
  if (!attach) throw new CandlewickError("invalid_argument", `workerURL: ${workerURL} is not candlewick's worker.js.`);
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => ears.message(data as never);
  port1.onmessageerror = () => ears.unreadable();
  attach(port2);
  return {
    post: (message, transfer = []) => port1.postMessage(message, transfer),
    end: () => {
      port1.postMessage({ end: true });
      port1.close();
    },
  };
}

/** What to say when the Worker's script did not start; browsers give no reason. */
export function explainFailedStart(workerURL: Place["workerURL"]): string {
  const hint = here.includes("/.vite/deps/")
    ? 'Vite before version 8 loses the Worker of a pre-bundled dependency: add optimizeDeps: { exclude: ["candlewick"] } to its configuration.'
    : "Check that worker.js is served beside the package (or pass workerURL), and that the page's Content-Security-Policy allows it in worker-src." +
      (globalThis.origin === "null"
        ? " This page has no origin of its own (a sandbox, or a file): the script must be served with CORS headers."
        : "");
  return `The Worker script ${workerURL === undefined ? "" : `${workerURL} `}could not be started. ${hint}`;
}
