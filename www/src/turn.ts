import { button, h } from "./dom.js";
import { copyButton } from "./markdown.js";
import type { Passage } from "./passage.js";

/** One turn of a conversation, with what can be done with it. */
export class Turn {
  readonly element: HTMLElement;
  readonly #passage: Passage;
  readonly #ways = h("div", { className: "ways" });
  readonly #remark = h("p", { className: "remark", hidden: true });

  /** `ask`: the turn is the reader's, who may put it differently; `false` where nothing came of that. */
  constructor(who: string, passage: Passage, ask?: (text: string) => Promise<boolean>) {
    this.#passage = passage;
    const copy = copyButton("Copy", () => passage.text);
    copy.setAttribute("aria-label", ask ? "Copy your message" : "Copy the answer");
    if (ask) {
      const edit = button("Edit", () => this.#edit(ask));
      edit.setAttribute("aria-label", "Edit your message");
      edit.className = "edit";
      this.#ways.append(edit);
    }
    this.#ways.append(copy);
    this.element = h("article", { className: ask ? "turn mine" : "turn" }, h("h3", {}, who), this.#remark, passage.element, passage.note, this.#ways);
  }

  /** Something about the answer that is no part of it. */
  remark(text: string): void {
    this.#remark.textContent = text;
    this.#remark.hidden = false;
  }

  #edit(ask: (text: string) => Promise<boolean>): void {
    const input = h("textarea", { rows: 3, value: this.#passage.text, ariaLabel: "Your message, edited" });
    const leave = () => {
      form.replaceWith(this.#passage.element);
      this.#ways.hidden = false;
      this.#ways.querySelector<HTMLElement>(".edit")!.focus();
    };
    const cancel = button("Cancel", leave);
    const send = h("button", { type: "submit", className: "primary" }, "Send");
    const hint = h("p", { className: "hint" }, "What follows is answered anew.");
    const form = h("form", { className: "field" }, input, hint, h("div", { className: "ways" }, send, cancel));
    form.onsubmit = (event) => {
      event.preventDefault();
      if (input.value.trim()) void ask(input.value);
    };
    input.onkeydown = (event) => {
      if (event.key === "Escape") leave();
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    };
    this.#passage.element.replaceWith(form);
    this.#ways.hidden = true;
    input.focus();
  }
}
