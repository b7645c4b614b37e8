import type { Timings } from "candlewick";
import { byId, pairs } from "./dom.js";
import { count, milliseconds, rate } from "./format.js";

const list = byId("readout", HTMLElement);

/** What was measured: on the page while the model writes, by the engine once it is done. */
export class Readout {
  readonly #started = performance.now();
  #first = 0;
  #tokens = 0;
  #frame = 0;

  constructor() {
    show("…", "…", "0");
  }

  token(): void {
    this.#first ||= performance.now();
    this.#tokens++;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#show();
    });
  }

  end(timings: Timings | undefined): void {
    cancelAnimationFrame(this.#frame);
    if (timings)
      show(
        rate(timings.predicted_per_second),
        milliseconds(timings.time_to_first_token_ms),
        count(timings.predicted_n),
      );
    else this.#show();
  }

  #show(): void {
    const elapsed = (performance.now() - this.#first) / 1000;
    const speed = this.#tokens > 1 && elapsed > 0 ? rate((this.#tokens - 1) / elapsed) : "…";
    show(speed, this.#first ? milliseconds(this.#first - this.#started) : "…", count(this.#tokens));
  }
}

export function clearReadout(): void {
  list.replaceChildren();
}

function show(speed: string, first: string, tokens: string): void {
  list.replaceChildren(
    ...pairs([
      ["tokens/s", speed],
      ["to first token", first],
      ["tokens", tokens],
    ]),
  );
}
