import { CandlewickError } from "./errors.js";

interface Source {
  /** The consumer has taken a chunk. */
  taken(): void;
  /** The consumer wants no more. */
  abandoned(): void;
}

/** A stream as it is read. `return()` stops the model, also while `next()` waits for it. */
export interface Chunks<T> extends AsyncIterator<T, void, undefined> {
  next(): Promise<IteratorResult<T, void>>;
  return(): Promise<IteratorResult<T, void>>;
  [Symbol.asyncIterator](): Chunks<T>;
}

/** Chunks as they are made. Leaving the `for await` loop stops the model, and so does `controller.abort()`. */
export class Stream<T> implements AsyncIterable<T> {
  /** As in OpenAI's client: where it aborts, the stream just ends. */
  readonly controller = new AbortController();
  readonly #source: Source;
  /** In place of the source: those of another stream. */
  readonly #shared: (() => Chunks<T>) | undefined;
  readonly #chunks: T[] = [];
  #ended = false;
  #error: CandlewickError | undefined;
  #wake = () => {};
  #consumed = false;

  /** @internal */
  constructor(source: Source, shared?: () => Chunks<T>) {
    this.#source = source;
    this.#shared = shared;
    this.controller.signal.addEventListener("abort", () => {
      if (!this.#ended) this.#source.abandoned();
      this.#chunks.length = 0;
      this.end();
    });
  }

  /** @internal */
  push(chunk: T): void {
    this.#chunks.push(chunk);
    this.#wake();
  }

  /** @internal */
  end(error?: CandlewickError): void {
    if (this.#ended) return;
    if (error?.code === "aborted") this.#chunks.length = 0;
    this.#ended = true;
    this.#error = error;
    this.#wake();
  }

  /** No generator: its `return()` would wait for the chunk that is being made. This one's stops the model at once. */
  [Symbol.asyncIterator](): Chunks<T> {
    const first = !this.#consumed;
    this.#consumed = true;
    if (first && this.#shared) return this.#shared();
    let over = false;
    let turn: Promise<unknown> = Promise.resolve();
    const take = async (): Promise<IteratorResult<T, void>> => {
      while (!over) {
        if (!first) {
          over = true;
          throw new CandlewickError(
            "invalid_argument",
            "This stream has been read already. A stream can be read once.",
          );
        }
        const chunk = this.#chunks.shift();
        if (chunk !== undefined) {
          this.#source.taken();
          return { done: false, value: chunk };
        }
        if (this.#ended) {
          over = true;
          if (this.#error) throw this.#error;
        } else {
          await new Promise<void>((wake) => (this.#wake = wake));
        }
      }
      return { done: true, value: undefined };
    };
    return {
      next: () => {
        const taken = turn.then(take);
        turn = taken.catch(() => {});
        return taken;
      },
      return: async () => {
        if (first && !over && !this.#ended) this.#source.abandoned();
        over = true;
        if (first) this.#wake();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  /** Two streams of the same chunks, each read at its own pace; the slower one's wait in memory. */
  tee(): [Stream<T>, Stream<T>] {
    const chunks = this[Symbol.asyncIterator]();
    type Waiting = Promise<IteratorResult<T, void>>[];
    /** What each has not read yet; nothing of one that was left. */
    const sides: (Waiting | undefined)[] = [[], []];
    const side = (mine: 0 | 1): Stream<T> => {
      const leave = async (): Promise<IteratorResult<T, void>> => {
        sides[mine] = undefined;
        if (sides.every((side) => side === undefined)) await chunks.return();
        return { done: true, value: undefined };
      };
      return new Stream<T>({ taken() {}, abandoned: () => void leave() }, () => ({
        next() {
          if (!sides[mine]) return Promise.resolve({ done: true, value: undefined });
          if (sides[mine].length === 0) {
            const coming = chunks.next();
            coming.catch(() => {}); // Whoever reads it hears of it.
            for (const side of sides) side?.push(coming);
          }
          return sides[mine].shift()!;
        },
        return: leave,
        [Symbol.asyncIterator]() {
          return this;
        },
      }));
    };
    return [side(0), side(1)];
  }

  /** One JSON object a line, as `toReadableStream()` of OpenAI's client gives it; for `new Response(…)`. */
  toReadableStream(): ReadableStream<Uint8Array> {
    const chunks = this[Symbol.asyncIterator]();
    const encoder = new TextEncoder();
    return new ReadableStream({
      async pull(controller) {
        const { done, value } = await chunks.next();
        if (done) controller.close();
        else controller.enqueue(encoder.encode(JSON.stringify(value) + "\n"));
      },
      async cancel() {
        await chunks.return();
      },
    });
  }
}
