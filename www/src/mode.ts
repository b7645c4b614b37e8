import type { Engine, SamplingParams } from "candlewick";
import type { Writer } from "./writer.js";

/** What a mode works with. */
export interface Desk {
  engine: Engine;
  writer: Writer;
  paper: HTMLElement;
  settings: () => SamplingParams;
}

/** What a model is used for: stories to be continued, or conversation. */
export interface Mode {
  readonly title: string;
  readonly label: string;
  readonly placeholder: string;
  /** On the button. */
  readonly verb: string;
  readonly suggestions: string[];
  submit(text: string): Promise<void>;
  /** What can be done with what is on the paper now. */
  actions(): [label: string, action: () => Promise<void>][];
}
