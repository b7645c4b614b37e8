import type { Connection } from "./connection.js";
import { plain } from "./page.js";
import type { Task } from "./protocol.js";
import type { Label, PictureOptions, TaskOptions } from "./types.js";

/**
 * What Hugging Face's inference servers do beside chat, by the first hosted model or another of its provider. The
 * provider is Hugging Face's router, or a relay to it (`hfInference`).
 */
export class Tasks {
  readonly #connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** Continues a text. */
  generate(text: string, options: TaskOptions = {}): Promise<string> {
    return this.#run({ kind: "generate", text, parameters: options.parameters }, options);
  }

  /** Says the same in fewer words. */
  summarize(text: string, options: TaskOptions = {}): Promise<string> {
    return this.#run({ kind: "summarize", text, parameters: options.parameters }, options);
  }

  /** Says the same in another language. */
  translate(text: string, options: TaskOptions = {}): Promise<string> {
    return this.#run({ kind: "translate", text, parameters: options.parameters }, options);
  }

  /** What kind of text it is: the likeliest label first. */
  classify(text: string, options: TaskOptions = {}): Promise<Label[]> {
    return this.#run({ kind: "classify", text, parameters: options.parameters }, options);
  }

  /** Makes a picture: a Blob of its media type. */
  async textToImage(text: string, { model, signal, onRetry, ...picture }: PictureOptions = {}): Promise<Blob> {
    const options = {
      ...(model === undefined ? {} : { model }),
      ...(signal ? { signal } : {}),
      ...(onRetry ? { onRetry } : {}),
    };
    const [bytes, type] = await this.#run<[Uint8Array<ArrayBuffer>, string]>(
      { kind: "textToImage", text, picture },
      options,
    );
    return new Blob([bytes], { type });
  }

  async #run<T>(task: Task, { model, signal, onRetry }: TaskOptions): Promise<T> {
    return this.#connection.call({ method: "task", model, task: plain(task, "The task") }, { signal, onRetry });
  }
}
