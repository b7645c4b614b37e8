/**
 * The Worker's side: one wasm engine, any number of requests.
 *
 * The engine works synchronously inside `next()`, so every few milliseconds the Worker goes back to its event loop between two
 * of them, where aborts and new requests come in.
 */
import type { Answer, Engine, Models, Stopper } from "../wasm/candlewick.js";
import type { Setup } from "./compile.js";
import { CandlewickError } from "./errors.js";
import { help } from "./helpers.js";
import { start, type Started } from "./module.js";
import {
  ATTACH,
  type Call,
  type Control,
  type End,
  type HelperAnswer,
  type HelperTask,
  type HubParams,
  type Notice,
  type Reply,
} from "./protocol.js";
import type { EngineInfo, LoadProgress, RemoteInfo } from "./types.js";
import { requestSubgroups } from "./webgpu.js";

/** What this file looks at in a chunk. */
interface Chunk {
  choices: unknown[];
  prompt_progress?: unknown;
  retry?: unknown;
  recovery?: LoadProgress;
}

type Message = Call | Setup | HelperAnswer | End;

/** What the engine's side of one connection knows. */
class Host {
  engine!: Engine;
  /** The WebAssembly in which it runs. */
  home!: Started;
  /** Helpers that did not answer the page. */
  late = 0;
  /** Resolves to it. */
  readonly started: Promise<Started>;
  #settle!: (started: Started) => void;
  readonly #say: (notice: Notice) => void;
  readonly #helpers = new Map<number, (runs: boolean) => void>();
  readonly #callers = new Set<Caller>();
  #ended = false;
  #asked = 0;

  constructor(say: (notice: Notice) => void) {
    this.#say = say;
    this.started = new Promise((settle) => (this.#settle = settle));
    say({ hello: true });
  }

  hear(message: Message, ports: readonly MessagePort[]): void {
    if ("helped" in message) {
      this.late += Number(message.helped === "late");
      this.#helpers.get(message.id)?.(message.helped === "runs");
      this.#helpers.delete(message.id);
    } else if ("file" in message) void this.#start(message);
    else if ("end" in message) this.#end();
    else {
      const caller = new Caller(ports[0]!);
      this.#callers.add(caller);
      void serve(this, message, caller).finally(() => this.#callers.delete(caller));
    }
  }

  async #start(setup: Setup): Promise<void> {
    try {
      this.home = await start(
        setup,
        (helper) => this.#ask(helper),
        () => this.#say({ starting: true }),
      );
      this.#settle(this.home);
      this.#say({ started: true });
    } catch (error) {
      this.#say({ failed: describe(error) });
    }
  }

  #ask(helper: HelperTask): Promise<boolean> {
    const id = this.#asked++;
    return new Promise((settle) => {
      this.#helpers.set(id, settle);
      this.#say({ helper, id });
    });
  }

  /** Where no Worker is ended: all that is under way stops at its next step, and holds the engine until then. */
  #end(): void {
    this.#ended = true;
    for (const caller of this.#callers) caller.leave();
    this.#release();
  }

  /** What a load that was under way has brought is not wanted any more, either. */
  settle(engine: Engine): void {
    this.engine = engine;
    if (this.#ended) this.#release();
  }

  #release(): void {
    try {
      this.engine?.free();
    } catch {
      // Something is under way, and holds it until its end.
    }
  }

  /** The engine's state is unknown from now on. */
  crash(error: unknown): void {
    if (dedicated) reportError(error);
    else this.#say({ crashed: String(error) });
  }
}

/** Whether this thread is the engine's own. */
const dedicated = typeof DedicatedWorkerGlobalScope !== "undefined" && globalThis instanceof DedicatedWorkerGlobalScope;
declare const DedicatedWorkerGlobalScope: { new (): object };

if (dedicated) {
  requestSubgroups();
  const host = new Host((notice) => postMessage(notice));
  addEventListener("message", ({ data, ports }: MessageEvent<Message | HelperTask>) => {
    if ("work" in data) help(data);
    else host.hear(data, ports);
  });
  addEventListener("messageerror", () => reportError(new Error("a message from the page could not be read")));
  // An uncaught error reaches the page, which then fails every open request; an unhandled rejection does not.
  addEventListener("unhandledrejection", (event) => reportError(event.reason));
} else {
  // For `load()` on this very thread, which cannot start Workers.
  Object.assign(globalThis, {
    [ATTACH]: (port: MessagePort) => {
      const host = new Host((notice) => port.postMessage(notice));
      port.onmessage = ({ data, ports }: MessageEvent<Message>) => host.hear(data, ports);
    },
  });
}

async function serve(host: Host, call: Call, caller: Caller): Promise<void> {
  try {
    await host.started;
    caller.reply({ done: await perform(host, call, caller) });
  } catch (error) {
    if (isFatal(error)) host.crash(error);
    else caller.reply({ error: describe(error) });
  }
}

async function perform(host: Host, call: Call, caller: Caller): Promise<unknown> {
  const { engine } = host;
  const progress = (progress: unknown) => caller.reply({ progress });
  switch (call.method) {
    case "load":
      return load(host, call, caller, progress);
    case "inspect":
      return stoppable(host, caller, (stopper) =>
        host.home.wasm.Engine.inspect(stopper, call.source, call.options, caller.retrying),
      );
    case "list":
      return stored(host, call, caller, (models) => models.list());
    case "usage":
      return stored(host, call, caller, (models) => models.usage());
    case "pull":
      return stored(host, call, caller, (models) =>
        stoppable(host, caller, (stopper) => models.pull(stopper, call.model, progress)),
      );
    case "remove":
      return stored(host, call, caller, (models) => models.remove(call.model));
    case "verify":
      return stored(host, call, caller, (models) =>
        stoppable(host, caller, (stopper) => models.verify(stopper, call.model, progress)),
      );
    case "chat":
      return generate(host, engine.chat(call.body), call.body.stream, call.body.stream_options?.include_usage, caller);
    case "complete":
      return generate(
        host,
        engine.complete(call.body),
        call.body.stream,
        call.body.stream_options?.include_usage,
        caller,
      );
    case "render":
      return engine.render(call.body);
    case "tokenize":
      return Array.from(await stoppable(host, caller, (stopper) => engine.tokenize(stopper, call.text, call.special)));
    case "detokenize":
      return engine.detokenize(call.ids);
    case "capabilities":
      return engine.capabilities();
    case "totals":
      return engine.totals();
    case "embed":
      return stoppable(host, caller, (stopper) => engine.embed(stopper, call.model, call.body, caller.retrying));
    case "embeddings":
      return stoppable(host, caller, (stopper) => engine.embeddings(stopper, call.body, caller.retrying));
    case "task":
      return stoppable(host, caller, (stopper) => engine.task(stopper, call.model, call.task, caller.retrying));
    case "compare":
      return stoppable(host, caller, (stopper) => engine.compare(stopper, call.body, caller.retrying));
    case "profile":
      return engine.profile();
    case "prefill":
      return stoppable(host, caller, (stopper) => engine.prefill(stopper, call.body, progress));
    case "pin":
      return stoppable(host, caller, (stopper) => engine.pin(stopper, call.name, call.body, call.persist, progress));
    case "unpin":
      return engine.unpin(call.name);
    case "pinned":
      return engine.pinned();
    case "saveSession":
      return stoppable(host, caller, (stopper) => engine.saveSession(stopper, call.body, progress));
    case "storeSession":
      return stoppable(host, caller, (stopper) => engine.storeSession(stopper, call.name, call.body, progress));
    case "restoreSession":
      return stoppable(host, caller, (stopper) => engine.restoreSession(stopper, call.bytes));
    case "openSession":
      return stoppable(host, caller, (stopper) => engine.openSession(stopper, call.name));
    case "listSessions":
      return host.home.wasm.Engine.listSessions();
    case "removeSession":
      return host.home.wasm.Engine.removeSession(call.name);
  }
}

async function load(
  host: Host,
  { sources, options }: Call & { method: "load" },
  caller: Caller,
  progress: (progress: unknown) => void,
): Promise<EngineInfo | RemoteInfo> {
  const { Engine } = host.home.wasm;
  host.settle(
    await stoppable(host, caller, (stopper) => Engine.load(stopper, sources, options, progress, caller.retrying)),
  );
  return info(host);
}

/** What the engine says of itself, and what runs it. */
function info({ engine, home: { file, reason }, late }: Host): EngineInfo | RemoteInfo {
  return {
    ...engine.info(),
    wasm: file,
    wasmReason: late > 0 ? `${reason}; ${late} of its helpers did not come up in time` : reason,
  };
}

/** Does something with what is in the browser's storage. */
async function stored<T>(
  host: Host,
  { hub }: { hub: HubParams },
  caller: Caller,
  work: (models: Models) => Promise<T>,
): Promise<T> {
  const models = await host.home.wasm.Models.open(hub, caller.retrying);
  let trapped = false;
  try {
    return await work(models);
  } catch (error) {
    trapped = isFatal(error);
    throw error;
  } finally {
    if (!trapped) models.free();
  }
}

/** Work that ends, with its transfers, when the page gives it up. */
async function stoppable<T>({ home }: Host, caller: Caller, work: (stopper: Stopper) => Promise<T>): Promise<T> {
  if (caller.gone) throw gone();
  const stopper = new home.wasm.Stopper();
  caller.onabort = () => stopper.stop();
  try {
    return await work(stopper);
  } finally {
    caller.onabort = undefined;
  }
}

/** Runs one request to its end: prefill chunks become progress, the rest the stream or the whole answer. */
async function generate(
  host: Host,
  answer: Answer,
  stream: boolean | null | undefined,
  includeUsage: boolean | undefined,
  caller: Caller,
): Promise<unknown> {
  caller.onabort = () => answer.stop();
  let started = false;
  try {
    for (;;) {
      if (started) await caller.credit();
      const chunk: Chunk | undefined = await answer.next();
      if (caller.gone) throw gone();
      if (chunk?.retry) {
        caller.reply({ retry: chunk.retry });
        continue;
      }
      // The engine or its host has begun to answer.
      if (stream && !started) caller.reply({ started: true });
      started = Boolean(stream);
      if (!chunk) break;
      if (chunk.recovery) {
        if (chunk.recovery.stage === "ready") caller.reply({ info: info(host) });
        caller.reply({ recovery: chunk.recovery });
      } else if (chunk.prompt_progress) caller.reply({ progress: chunk.prompt_progress });
      else if (stream && (chunk.choices.length > 0 || includeUsage)) caller.chunk(chunk);
      await breathe();
      if (caller.gone) throw gone();
    }
    return stream ? undefined : await answer.result();
  } catch (error) {
    if (isFatal(error)) caller.onabort = undefined; // After a trap the wasm must not be entered again.
    throw error;
  } finally {
    if (caller.onabort) {
      caller.onabort = undefined;
      answer.free();
    }
  }
}

/** The page's end of one request, as seen from here. */
class Caller {
  readonly #port: MessagePort;
  /** Called when the page gives the request up. */
  onabort: (() => void) | undefined;
  gone = false;
  #credit = 0;
  #wake = () => {};

  constructor(port: MessagePort) {
    this.#port = port;
    port.onmessage = ({ data }: MessageEvent<Control>) => {
      if ("abort" in data) return this.leave();
      this.#credit += data.credit;
      this.#wake();
    };
  }

  /** Nobody waits for the answer any more. */
  leave(): void {
    this.gone = true;
    this.onabort?.();
    this.#wake();
  }

  /** Tells the page that a server will be asked again. */
  readonly retrying = (retry: unknown): void => this.reply({ retry });

  reply(reply: Reply): void {
    this.#port.postMessage(reply);
  }

  chunk(chunk: Chunk): void {
    this.#credit--;
    this.reply({ chunk });
  }

  /** Resolves when the consumer has room for a chunk. */
  async credit(): Promise<void> {
    while (this.#credit === 0 && !this.gone) await new Promise<void>((wake) => (this.#wake = wake));
    if (this.gone) throw gone();
  }
}

function gone(): CandlewickError {
  return new CandlewickError("aborted", "The request was aborted.");
}

const { port1, port2 } = new MessageChannel();
const waiting: (() => void)[] = [];
port1.onmessage = () => waiting.shift()?.();

/** Milliseconds for which an abort may wait. */
const BREATH = 8;
let breathed = 0;

/** Lets other messages in, at most every `BREATH` ms: a turn of the event loop after each token would slow small models down. */
async function breathe(): Promise<void> {
  if (performance.now() - breathed < BREATH) return;
  // A timer would cost 4 ms each time.
  await new Promise<void>((resume) => {
    waiting.push(resume);
    port2.postMessage(null);
  });
  breathed = performance.now();
}

/** A trap or an exhausted stack leaves the engine in an unknown state. */
function isFatal(error: unknown): boolean {
  // Firefox has an error of its own for an exhausted stack.
  return (
    error instanceof WebAssembly.RuntimeError ||
    error instanceof RangeError ||
    (error instanceof Error && error.name === "InternalError")
  );
}

/** Errors lose their own fields on the way to the page, so the code travels beside the message. */
function describe(error: unknown): { code: CandlewickError["code"]; message: string } {
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    return { code: error.code as CandlewickError["code"], message: error.message };
  }
  return { code: "internal", message: String(error) };
}
