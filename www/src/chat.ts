import type { ChatMessage } from "candlewick";
import { h } from "./dom.js";
import type { Desk, Mode } from "./mode.js";
import { Passage } from "./passage.js";

/** For models with a chat template. */
export class Chat implements Mode {
  readonly title = "Conversation";
  readonly label = "Your message";
  readonly placeholder = "Say something";
  readonly verb = "Send";
  readonly suggestions = ["Why does a candle burn?", "Write a haiku about rain", "Explain gravity to a child"];
  readonly sheet: HTMLElement;
  readonly takes = true;
  readonly #desk: Desk;
  readonly #system = h("textarea", { id: "system", rows: 2, placeholder: "How the model should behave; may stay empty" });
  readonly #turns = h("div", { className: "turns" });
  #messages: ChatMessage[] = [];

  constructor(desk: Desk) {
    this.#desk = desk;
    const system = h("details", { className: "system" }, h("summary", {}, "System prompt"), h("label", { htmlFor: "system", className: "visually-hidden" }, "System prompt"), this.#system);
    this.sheet = h("div", {}, system, this.#turns);
    this.#showEmpty();
  }

  async submit(text: string): Promise<boolean> {
    if (!text.trim()) return true;
    if (this.#messages.length === 0) this.#turns.replaceChildren();
    this.#messages.push({ role: "user", content: text });
    const turn = this.#addTurn("You", new Passage(text));
    let answered = false;
    try {
      answered = await this.#answer();
    } finally {
      if (this.#messages.at(-1)?.role === "user") {
        this.#messages.pop(); // Unanswered, it goes back to where it came from.
        turn.remove();
        if (this.#messages.length === 0) this.#showEmpty();
      }
    }
    return answered;
  }

  actions(): [string, () => Promise<void>][] {
    if (this.#messages.length === 0) return [];
    return [
      ["Regenerate", () => this.#regenerate()],
      ["Clear", async () => this.#clear()],
    ];
  }

  /** Whether there is one: it may have been stopped before its first word. */
  async #answer(): Promise<boolean> {
    const { engine, writer, settings } = this.#desk;
    const passage = new Passage();
    const turn = this.#addTurn(engine.info.name, passage);
    const system: ChatMessage[] = this.#system.value.trim() ? [{ role: "system", content: this.#system.value }] : [];
    const messages = [...system, ...this.#messages];
    try {
      await writer.write(passage, (options) =>
        engine.chat.completions.create({ ...settings(), messages, stream: true, stream_options: { include_usage: true } }, options),
      );
    } finally {
      // The model that was to answer may not be the one that did.
      if (passage.origin) turn.querySelector("h3")!.textContent = passage.origin.model;
      if (passage.text) this.#messages.push({ role: "assistant", content: passage.text });
      else turn.remove();
    }
    return passage.text !== "";
  }

  async #regenerate(): Promise<void> {
    const [before, turn] = [this.#messages.pop()!, this.#turns.lastElementChild!];
    turn.remove();
    try {
      await this.#answer();
    } finally {
      if (this.#messages.at(-1)?.role === "user") {
        this.#messages.push(before); // Better than none.
        this.#turns.append(turn);
      }
    }
  }

  #clear(): void {
    this.#messages = [];
    this.#showEmpty();
  }

  #showEmpty(): void {
    this.#turns.replaceChildren(h("p", { className: "empty" }, "This model converses. It remembers what is on this page and nothing else."));
  }

  #addTurn(who: string, passage: Passage): HTMLElement {
    const turn = h("article", { className: who === "You" ? "turn mine" : "turn" }, h("h3", {}, who), passage.element, passage.note);
    this.#turns.append(turn);
    turn.scrollIntoView({ block: "nearest" });
    return turn;
  }
}
