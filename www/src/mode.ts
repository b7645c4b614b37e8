import type { Engine, EngineInfo, RemoteInfo } from "candlewick";
import type { Settings } from "./settings.js";
import type { Writer } from "./writer.js";

/** On this device, or hosted where the reader has said so. */
export type AnyEngine = Engine<EngineInfo | RemoteInfo>;

/** For those who do not know what to ask. */
export const QUESTIONS = ["Why does a candle burn?", "Write a haiku about rain", "Explain gravity to a child"];

/** What a mode works with. */
export interface Desk {
  engine: AnyEngine;
  writer: Writer;
  settings: Settings;
  /** Does one thing with the model and shows what goes wrong; `false` where nothing came of it. */
  act: (what: () => Promise<boolean | void>) => Promise<boolean>;
}

/** What models are used for: stories to be continued, conversation, comparison, or texts by their meaning. */
export interface Mode {
  readonly title: string;
  readonly label: string;
  readonly placeholder: string;
  /** On the button. */
  readonly verb: string;
  readonly suggestions: string[];
  /** What lies on the desk. */
  readonly sheet: HTMLElement;
  /** Whether what was asked goes onto the sheet, so that the text box can be emptied. */
  readonly takes: boolean;
  /** `false` where nothing came of it: then the words go back into the text box. */
  submit(text: string): Promise<boolean>;
  /** What can be done with what is on the sheet now. */
  actions(): [label: string, action: () => Promise<boolean | void>][];
}
