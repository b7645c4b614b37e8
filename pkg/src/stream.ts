import { CandlewickError } from "./errors.js";

interface Source {
  /** The consumer has taken a chunk. */
  taken(): void;
  /** The consumer wants no more. */
  abandoned(): void;
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

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    if (this.#consumed) throw new CandlewickError("invalid_argument", "This stream has been read already. A stream can be read once.");
    this.#consumed = true;
    try {
      for (;;) {
        const chunk = this.#chunks.shift();
        if (chunk !== undefined) {
          this.#source.taken();
          yield chunk;
        } else if (this.#ended) {
          if (this.#error) throw this.#error;
          return;
        } else {
          await new Promise<void>((wake) => (this.#wake = wake));
        }
      }
    } finally {
      if (!this.#ended) this.#source.abandoned();
    }
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
