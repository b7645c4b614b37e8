import { CandlewickError } from "./errors.js";

interface Source {
  /** The consumer has taken a chunk. */
  taken(): void;
  /** The consumer wants no more. */
  abandoned(): void;
}

/** A stream as it is read. `return()` stops the model, also while `next()` waits for it. */
export interface Chunks<T> extends AsyncIterableIterator<T, void, undefined> {
  return(): Promise<IteratorResult<T, void>>;
}

/** Chunks as they are made. Leaving the `for await` loop stops the model. */
export class Stream<T> implements AsyncIterable<T> {
  readonly #source: Source;
  readonly #chunks: T[] = [];
  #ended = false;
  #error: CandlewickError | undefined;
  #wake = () => {};
  #consumed = false;

  /** @internal */
  constructor(source: Source) {
    this.#source = source;
  }

  /** @internal */
  push(chunk: T): void {
    this.#chunks.push(chunk);
    this.#wake();
  }

  /** @internal */
  end(error?: CandlewickError): void {
    if (error?.code === "aborted") this.#chunks.length = 0;
    this.#ended = true;
    this.#error = error;
    this.#wake();
  }

  /** No generator: its `return()` would wait for the chunk that is being made. This one's stops the model at once. */
  [Symbol.asyncIterator](): Chunks<T> {
    const first = !this.#consumed;
    this.#consumed = true;
    let over = false;
    let turn: Promise<unknown> = Promise.resolve();
    const take = async (): Promise<IteratorResult<T, void>> => {
      while (!over) {
        if (!first) {
          over = true;
          throw new CandlewickError("invalid_argument", "This stream has been read already. A stream can be read once.");
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
