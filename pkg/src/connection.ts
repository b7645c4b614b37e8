import { check } from "./check.js";
import type { Place } from "./compile.js";
import { aborted, CandlewickError } from "./errors.js";
import { WINDOW, type Call, type Control, type Reply } from "./protocol.js";
import { Stream } from "./stream.js";
import type { Seat } from "./spawn.js";
import { Thread, type Sending } from "./thread.js";
import type { EngineInfo, LoadProgress, RemoteInfo } from "./types.js";

interface CallOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: never) => void) | undefined;
  onRetry?: ((retry: never) => void) | undefined;
}

/** What becomes of one call. `done` or `fail` comes last, once. */
interface Receiver {
  onProgress?: ((progress: never) => void) | undefined;
  onRetry?: ((retry: never) => void) | undefined;
  recovery?(progress: LoadProgress): void;
  info?(info: EngineInfo | RemoteInfo): void;
  started?(): void;
  chunk?(chunk: unknown): void;
  done(value: never): void;
  fail(error: CandlewickError): void;
}

/** What is known of the engine, and who hears of it. */
interface State {
  info?: EngineInfo | RemoteInfo;
  /** Hears of a lost GPU, in whichever request it is noticed. */
  onRecovery?: ((progress: LoadProgress) => void) | undefined;
}

const dropped = new CandlewickError("internal", "The engine was dropped.");
const registry = new FinalizationRegistry<Thread>((thread) => thread.close(dropped, dropped));

/**
 * The page's end of one Worker: every call gets its own MessagePort, and an answer or a typed error, never silence. The
 * Worker ends when nobody has this any more: only what is under way holds it, not the Worker itself.
 */
export class Connection {
  readonly #thread: Thread;
  readonly state: State = {};

  constructor(place: Place) {
    this.#thread = new Thread(place);
    registry.register(this, this.#thread, this.#thread);
  }

  get closed(): boolean {
    return this.#thread.closed !== undefined;
  }

  /** One request, one answer. */
  call<T>(call: Call, options: CallOptions = {}): Promise<T> {
    return new Promise((done, fail) => {
      this.#send(call, options.signal, { onProgress: options.onProgress, onRetry: options.onRetry, done, fail });
    });
  }

  /** Resolves when the request has been checked. The Worker then stays at most `WINDOW` chunks ahead of the consumer. */
  stream<T>(call: Call, options: CallOptions = {}): Promise<Stream<T>> {
    return new Promise((resolve, reject) => {
      const stream = new Stream<T>({
        taken: () => exchange.allow(1),
        abandoned: () => exchange.abort(),
      });
      const exchange = this.#send(call, options.signal, {
        onProgress: options.onProgress,
        onRetry: options.onRetry,
        started: () => resolve(stream),
        chunk: (chunk) => stream.push(chunk as T),
        done: () => stream.end(),
        fail: (error) => {
          stream.end(error);
          reject(error);
        },
      });
      exchange.allow(WINDOW);
    });
  }

  /** Ends the Worker and with it everything under way. Only the first call counts. */
  close(pending: CandlewickError, later: CandlewickError): void {
    registry.unregister(this.#thread);
    this.#thread.close(pending, later);
  }

  #send(call: Call, signal: AbortSignal | undefined, receiver: Receiver): Exchange {
    if (signal?.aborted) throw aborted(signal);
    if (this.#thread.closed) throw this.#thread.closed;
    for (const [name, value] of Object.entries(call))
      check(value, ["body", "options", "hub"].includes(name) ? "" : name);
    const heard: Receiver = {
      ...receiver,
      recovery: (progress) => this.state.onRecovery?.(progress),
      info: (info) => (this.state.info = info),
    };
    const exchange = new Exchange(this.#thread, call, heard, signal);
    exchange.send();
    return exchange;
  }
}

/** What a call does not keep on this side. */
function buffersOf(call: Call): ArrayBuffer[] {
  if (call.method === "restoreSession") return [call.bytes.buffer];
  const sources = call.method === "load" ? call.sources : call.method === "inspect" ? [call.source] : [];
  return sources
    .flat()
    .filter((source) => source instanceof Uint8Array)
    .map(({ buffer }) => buffer);
}

/** One request under way. */
class Exchange implements Sending {
  /** Once the call was sent. */
  #port: MessagePort | undefined;
  /** What the Worker may send before it hears more, as it has to be told with the call. */
  #credit = 0;
  readonly #thread: Thread;
  readonly #call: Call;
  readonly #buffers: ArrayBuffer[];
  readonly #receiver: Receiver;
  readonly #signal: AbortSignal | undefined;
  readonly again: boolean;

  constructor(thread: Thread, call: Call, receiver: Receiver, signal: AbortSignal | undefined) {
    this.#thread = thread;
    this.#call = call;
    this.#buffers = buffersOf(call);
    this.#receiver = receiver;
    this.#signal = signal;
    this.again = this.#buffers.length === 0;
  }

  send(): void {
    this.#thread.open.add(this.fail);
    this.#signal?.addEventListener("abort", this.#abort);
    this.#thread.send(this);
  }

  /** To the Worker; the second time, which is before the first chunk, to the one that takes its place. */
  post(seat: Seat): void {
    this.#port?.close();
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    port1.onmessage = ({ data }: MessageEvent<Reply>) => this.#receive(data);
    port1.onmessageerror = () =>
      this.fail(new CandlewickError("internal", "A message from the engine could not be read."));
    try {
      seat.post(this.#call, [port2, ...this.#buffers]);
      if (this.#credit > 0) this.control({ credit: this.#credit });
    } catch (cause) {
      this.fail(
        new CandlewickError("invalid_argument", `The request cannot be sent to the engine: ${cause}`, { cause }),
      );
    }
  }

  /** Gives the Worker room for so many chunks more. */
  allow(chunks: number): void {
    this.#credit += chunks;
    this.control({ credit: chunks });
  }

  control(control: Control): void {
    this.#port?.postMessage(control);
  }

  abort(): void {
    this.control({ abort: true });
    this.#close();
  }

  readonly fail = (error: CandlewickError): void => {
    this.#close();
    this.#receiver.fail(error);
  };

  readonly #abort = (): void => {
    this.control({ abort: true });
    this.fail(aborted(this.#signal!));
  };

  #receive(reply: Reply): void {
    this.#thread.heard();
    if ("chunk" in reply) this.#receiver.chunk?.(reply.chunk);
    else if ("progress" in reply) this.#receiver.onProgress?.(reply.progress as never);
    else if ("retry" in reply) this.#receiver.onRetry?.(reply.retry as never);
    else if ("recovery" in reply) this.#receiver.recovery?.(reply.recovery);
    else if ("info" in reply) this.#receiver.info?.(reply.info);
    else if ("started" in reply) this.#receiver.started?.();
    else if ("error" in reply) this.fail(new CandlewickError(reply.error.code, reply.error.message));
    else {
      this.#close();
      this.#receiver.done(reply.done as never);
    }
  }

  #close(): void {
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#port?.close();
    this.#thread.forget(this);
    this.#thread.open.delete(this.fail);
  }
}
