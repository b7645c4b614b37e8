import { h } from "./dom.js";
import type { Desk, Mode } from "./mode.js";
import { Passage } from "./passage.js";
import type { Ending } from "./writer.js";

/** For models that continue text. */
export class Story implements Mode {
  readonly title = "Story";
  readonly label = "How should it begin?";
  readonly placeholder = "Optional";
  readonly verb = "Write";
  readonly suggestions = ["Once upon a time", "Lily found a big box", "One day, a little dog"];
  readonly sheet = h("div", {}, h("p", { className: "empty" }, "This model continues text. Give it a beginning."));
  readonly takes = false;
  readonly #desk: Desk;
  #text = "";
  #ending: Ending = "stop";

  constructor(desk: Desk) {
    this.#desk = desk;
  }

  async submit(beginning: string): Promise<boolean> {
    await this.#write(beginning);
    return true;
  }

  actions(): [string, () => Promise<void>][] {
    return this.#text && this.#ending !== "stop" ? [["Continue", () => this.#write(this.#text)]] : [];
  }

  async #write(beginning: string): Promise<void> {
    const { engine, writer, settings } = this.#desk;
    const passage = new Passage(beginning);
    passage.element.classList.add("story");
    this.sheet.replaceChildren(passage.element, passage.note);
    // What is in the middle of a story has no turns to be cut at: the engine takes tokens out.
    const sampling = { ...settings.sampling(), ...(settings.dropsMiddle() && { truncate: "middle" as const }) };
    try {
      this.#ending = await writer.write(passage, (options) =>
        engine.completions.create(
          { ...sampling, prompt: beginning, stream: true, stream_options: { include_usage: true } },
          options,
        ),
      );
    } finally {
      this.#text = passage.text;
    }
  }
}
