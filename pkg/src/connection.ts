import { prepare, type Place } from "./compile.js";
import { aborted, CandlewickError } from "./errors.js";
import { WINDOW, type Call, type Control, type Reply } from "./protocol.js";
import { explainFailedStart, spawn } from "./spawn.js";
import { Stream } from "./stream.js";
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

/** The page's end of one Worker: every call gets its own MessagePort, and an answer or a typed error, never silence. */
export class Connection {
  readonly #worker: Worker;
  readonly #open = new Set<(error: CandlewickError) => void>();
  /** Hear of a lost GPU, in whichever request it is noticed. */
  onRecovery: ((progress: LoadProgress) => void) | undefined;
  onInfo: ((info: EngineInfo | RemoteInfo) => void) | undefined;
  #closed: CandlewickError | undefined;
  readonly #ended = new AbortController();

  constructor(place: Place) {
    this.#worker = spawn(place.workerURL);
    this.#worker.addEventListener("error", (event) => {
      event.preventDefault(); // It is reported through the calls that fail.
      const error = event.message
        ? new CandlewickError("internal", `The engine crashed: ${event.message}. Load the model again.`)
        : new CandlewickError("network", explainFailedStart(place.workerURL));
      this.close(error, error);
    });
    this.#worker.addEventListener("messageerror", () => {
      const error = new CandlewickError("internal", "A message to the engine could not be read. Load the model again.");
      this.close(error, error);
    });
    prepare(place, this.#ended.signal)
      .then((setup) => this.#worker.postMessage(setup))
      .catch((cause) => {
        const error = new CandlewickError("internal", `The engine could not be started: ${cause}`, { cause });
        this.close(error, error);
      });
  }

  /** One request, one answer. */
  call<T>(call: Call, options: CallOptions = {}): Promise<T> {
    return new Promise((done, fail) => {
      this.#send(call, options.signal, { onProgress: options.onProgress, onRetry: options.onRetry, done, fail });
    });
  }

  /** Resolves when the request's turn has come. The Worker then stays at most `WINDOW` chunks ahead of the consumer. */
  stream<T>(call: Call, options: CallOptions = {}): Promise<Stream<T>> {
    return new Promise((resolve, reject) => {
      const stream = new Stream<T>({
        taken: () => exchange.post({ credit: 1 }),
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
      exchange.post({ credit: WINDOW });
    });
  }

  /** Ends the Worker and with it everything under way. Only the first call counts. */
  close(pending: CandlewickError, later: CandlewickError): void {
    if (this.#closed) return;
    this.#closed = later;
    this.#worker.terminate();
    this.#ended.abort();
    for (const fail of this.#open) fail(pending);
  }

  #send(call: Call, signal: AbortSignal | undefined, receiver: Receiver): Exchange {
    if (signal?.aborted) throw aborted(signal);
    if (this.#closed) throw this.#closed;
    const heard: Receiver = {
      ...receiver,
      recovery: (progress) => this.onRecovery?.(progress),
      info: (info) => this.onInfo?.(info),
    };
    const exchange = new Exchange(heard, signal, () => this.#open.delete(exchange.fail));
    this.#open.add(exchange.fail);
    exchange.send(this.#worker, call);
    return exchange;
  }
}

/** What a call does not keep on this side. */
function buffersOf(call: Call): ArrayBuffer[] {
  const sources = call.method === "load" ? call.sources : call.method === "inspect" ? [call.source] : [];
  return sources.filter((source) => source instanceof Uint8Array).map(({ buffer }) => buffer);
}

const closed = new CandlewickError("internal", "The answer has come already.");

/** One request in a Worker of its own, which ends with the answer. */
export async function once<T>(call: Call, place: Place, options: CallOptions): Promise<T> {
  if (options.signal?.aborted) throw aborted(options.signal);
  const connection = new Connection(place);
  try {
    return await connection.call<T>(call, options);
  } finally {
    connection.close(closed, closed);
  }
}

/** One request under way. */
class Exchange {
  readonly #channel = new MessageChannel();
  readonly #receiver: Receiver;
  readonly #signal: AbortSignal | undefined;
  readonly #settled: () => void;

  constructor(receiver: Receiver, signal: AbortSignal | undefined, settled: () => void) {
    this.#receiver = receiver;
    this.#signal = signal;
    this.#settled = settled;
  }

  send(worker: Worker, call: Call): void {
    const { port1, port2 } = this.#channel;
    port1.onmessage = ({ data }: MessageEvent<Reply>) => this.#receive(data);
    port1.onmessageerror = () => this.fail(new CandlewickError("internal", "A message from the engine could not be read."));
    this.#signal?.addEventListener("abort", this.#abort);
    try {
      worker.postMessage(call, [port2, ...buffersOf(call)]);
    } catch (cause) {
      this.fail(new CandlewickError("invalid_argument", `The request cannot be sent to the engine: ${cause}`, { cause }));
    }
  }

  post(control: Control): void {
    this.#channel.port1.postMessage(control);
  }

  abort(): void {
    this.post({ abort: true });
    this.#close();
  }

  readonly fail = (error: CandlewickError): void => {
    this.#close();
    this.#receiver.fail(error);
  };

  readonly #abort = (): void => {
    this.post({ abort: true });
    this.fail(aborted(this.#signal!));
  };

  #receive(reply: Reply): void {
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
    this.#channel.port1.close();
    this.#settled();
  }
}
