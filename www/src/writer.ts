import { CandlewickError, type ChatCompletionChunk, type Completion, type Timings } from "candlewick";
import { announce } from "./dom.js";
import type { Passage } from "./passage.js";
import { Readout } from "./readout.js";

type Chunk = ChatCompletionChunk | Completion;
type Ask = (signal: AbortSignal) => Promise<AsyncIterable<Chunk>>;

/** Why the model is no longer writing: it was done, it reached the limit, or the reader stopped it. */
export type Ending = "stop" | "length" | "stopped";

/** Lets the model write into a passage, one at a time. */
export class Writer {
  readonly #onBusy: (busy: boolean) => void;
  #controller: AbortController | undefined;
  #done: Promise<unknown> = Promise.resolve();

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

  write(passage: Passage, ask: Ask): Promise<Ending> {
    const controller = (this.#controller = new AbortController());
    const run = this.#run(passage, ask, controller.signal).finally(() => {
      this.#controller = undefined;
      this.#onBusy(false);
    });
    this.#done = run;
    this.#onBusy(true);
    return run;
  }

  async #run(passage: Passage, ask: Ask, signal: AbortSignal): Promise<Ending> {
    const readout = new Readout();
    let timings: Timings | undefined;
    let ending: Ending = "stop";
    const before = passage.text.length;
    announce("Writing…");
    passage.begin();
    try {
      for await (const chunk of await ask(signal)) {
        const text = textOf(chunk);
        if (text) {
          passage.append(text);
          readout.token();
        }
        if (chunk.choices[0]?.finish_reason === "length") ending = "length";
        timings ??= chunk.timings;
      }
    } catch (error) {
      if (!(error instanceof CandlewickError && error.code === "aborted")) throw error;
      ending = "stopped";
    } finally {
      passage.end();
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
