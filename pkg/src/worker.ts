/**
 * The Worker's side: one wasm engine, any number of requests.
 *
 * The engine works synchronously inside `next()`, so every few milliseconds the Worker goes back to its event loop between two
 * of them, where aborts and new requests come in.
 */
import type { Answer, Engine, Models, Stopper } from "../wasm/candlewick.js";
import type { Setup } from "./compile.js";
import { CandlewickError } from "./errors.js";
import { help, type HelperTask } from "./helpers.js";
import { start, type Started } from "./module.js";
import type { Call, Control, HubParams, Reply } from "./protocol.js";
import type { EngineInfo, LoadProgress, RemoteInfo } from "./types.js";
import { requestSubgroups } from "./webgpu.js";

/** What this file looks at in a chunk. */
interface Chunk {
  choices: unknown[];
  prompt_progress?: unknown;
  retry?: unknown;
  recovery?: LoadProgress;
}

let engine: Engine;
/** The WebAssembly in which it runs. */
let home: Started;
let setUp: (setup: Setup) => void;
const started = new Promise<Setup>((resolve) => (setUp = resolve)).then(start);

requestSubgroups();

addEventListener("message", ({ data, ports }: MessageEvent<Call | Setup | HelperTask>) => {
  if ("work" in data) help(data);
  else if ("cpu" in data) setUp(data);
  else void serve(data, new Caller(ports[0]!));
});
addEventListener("messageerror", () => reportError(new Error("a message from the page could not be read")));
// An uncaught error reaches the page, which then fails every open request; an unhandled rejection does not.
addEventListener("unhandledrejection", (event) => reportError(event.reason));

async function serve(call: Call, caller: Caller): Promise<void> {
  try {
    caller.reply({ done: await perform(call, caller) });
  } catch (error) {
    if (isFatal(error)) reportError(error);
    else caller.reply({ error: describe(error) });
  }
}

async function perform(call: Call, caller: Caller): Promise<unknown> {
  switch (call.method) {
    case "load":
      return load(call, caller);
    case "inspect":
      return inspect(call, caller);
    case "list":
      return (await stored(call, caller)).list();
    case "usage":
      return (await stored(call, caller)).usage();
    case "pull":
      return (await stored(call, caller)).pull(call.model, (progress: unknown) => caller.reply({ progress }));
    case "remove":
      return (await stored(call, caller)).remove(call.model);
    case "verify":
      return (await stored(call, caller)).verify(call.model, (progress: unknown) => caller.reply({ progress }));
    case "chat":
      return generate(engine.chat(call.body), call.body.stream, call.body.stream_options?.include_usage, caller);
    case "complete":
      return generate(engine.complete(call.body), call.body.stream, call.body.stream_options?.include_usage, caller);
    case "render":
      return engine.render(call.body);
    case "tokenize":
      return Array.from(engine.tokenize(call.text, call.special));
    case "detokenize":
      return engine.detokenize(call.ids);
    case "capabilities":
      return engine.capabilities();
    case "totals":
      return engine.totals();
    case "embed":
      return stoppable(caller, (stopper) => engine.embed(stopper, call.model, call.body, caller.retrying));
    case "embeddings":
      return stoppable(caller, (stopper) => engine.embeddings(stopper, call.body, caller.retrying));
    case "task":
      return stoppable(caller, (stopper) => engine.task(stopper, call.model, call.task, caller.retrying));
    case "compare":
      return stoppable(caller, (stopper) => engine.compare(stopper, call.body, caller.retrying));
    case "profile":
      return engine.profile();
  }
}

async function load({ sources, options }: Call & { method: "load" }, caller: Caller): Promise<EngineInfo | RemoteInfo> {
  home = await started;
  engine = await home.wasm.Engine.load(sources, options, (progress: unknown) => caller.reply({ progress }), caller.retrying);
  return info();
}

/** What the engine says of itself, and what runs it. */
function info(): EngineInfo | RemoteInfo {
  return { ...engine.info(), wasm: home.file, wasmReason: home.reason };
}

async function inspect({ source, options }: Call & { method: "inspect" }, caller: Caller): Promise<unknown> {
  return (await started).wasm.Engine.inspect(source, options, caller.retrying);
}

/** What is in the browser's storage. */
async function stored({ hub }: { hub: HubParams }, caller: Caller): Promise<Models> {
  return (await started).wasm.Models.open(hub, caller.retrying);
}

/** Work that ends, with its transfers, when the page gives it up. */
async function stoppable<T>(caller: Caller, work: (stopper: Stopper) => Promise<T>): Promise<T> {
  const stopper = engine.stopper();
  caller.onabort = () => stopper.stop();
  try {
    return await work(stopper);
  } finally {
    caller.onabort = undefined;
  }
}

/** Runs one request to its end: prefill chunks become progress, the rest the stream or the whole answer. */
async function generate(
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
      // Its turn has come, or its host has begun to answer.
      if (stream && !started) caller.reply({ started: true });
      started = Boolean(stream);
      if (!chunk) break;
      if (chunk.recovery) {
        if (chunk.recovery.stage === "ready") caller.reply({ info: info() });
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
      if ("credit" in data) this.#credit += data.credit;
      else {
        this.gone = true;
        this.onabort?.();
      }
      this.#wake();
    };
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
  return error instanceof WebAssembly.RuntimeError || error instanceof RangeError;
}

/** Errors lose their own fields on the way to the page, so the code travels beside the message. */
function describe(error: unknown): { code: CandlewickError["code"]; message: string } {
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    return { code: error.code as CandlewickError["code"], message: error.message };
  }
  return { code: "internal", message: String(error) };
}
