import {
  CandlewickError,
  type ChatCompletionChunk,
  type Completion,
  type RequestOptions,
  type Timings,
} from "candlewick";
import { announce } from "./dom.js";
import { againSoon } from "./origin.js";
import type { Passage } from "./passage.js";
import { Readout } from "./readout.js";

type Chunk = ChatCompletionChunk | Completion;
type Ask = (options: RequestOptions) => Promise<AsyncIterable<Chunk>>;

/** Why the model is no longer writing: it was done, it reached the limit, or the reader stopped it. */
export type Ending = "stop" | "length" | "stopped";

/** Lets models work, one piece of work at a time. */
export class Writer {
  readonly #onBusy: (busy: boolean) => void;
  #controller: AbortController | undefined;
  #done: Promise<unknown> = Promise.resolve();
  /** Whether answers say why they were made where they were: where there is a choice. */
  givesReasons = false;

  constructor(onBusy: (busy: boolean) => void) {
    this.#onBusy = onBusy;
  }

  get busy(): boolean {
    return this.#controller !== undefined;
  }

  /** Resolves when the model has put down its pen. */
  async stop(): Promise<void> {
    this.#controller?.abort();
    await this.#done.catch(() => {});
  }

  /** Lets a model write into a passage. */
  write(passage: Passage, ask: Ask): Promise<Ending> {
    return this.work((signal) => this.#write(passage, ask, signal));
  }

  /** Any other work that the reader may stop. */
  work<T>(what: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = (this.#controller = new AbortController());
    const work = what(controller.signal).finally(() => {
      this.#controller = undefined;
      this.#onBusy(false);
    });
    this.#done = work;
    this.#onBusy(true);
    return work;
  }

  async #write(passage: Passage, ask: Ask, signal: AbortSignal): Promise<Ending> {
    const readout = new Readout();
    let timings: Timings | undefined;
    let ending: Ending = "stop";
    const before = passage.text.length;
    const onRetry: RequestOptions["onRetry"] = (retry) => {
      passage.explain(againSoon(retry));
      announce(againSoon(retry));
    };
    announce("Writing…");
    passage.begin();
    try {
      for await (const chunk of await ask({ signal, onRetry })) {
        const text = textOf(chunk);
        if (text) {
          passage.append(text);
          readout.token();
        }
        if (chunk.candlewick) passage.sign(chunk.candlewick, this.givesReasons);
        if (chunk.choices[0]?.finish_reason === "length") ending = "length";
        timings ??= chunk.timings;
      }
    } catch (error) {
      if (!(error instanceof CandlewickError && error.code === "aborted")) throw error;
      ending = "stopped";
    } finally {
      passage.end();
      if (!passage.origin) passage.explain();
      readout.end(timings);
      announce(passage.text.slice(before) || "Nothing was written.");
    }
    return ending;
  }
}

function textOf({ choices: [choice] }: Chunk): string {
  if (!choice) return "";
  return ("delta" in choice ? choice.delta.content : choice.text) ?? "";
}
