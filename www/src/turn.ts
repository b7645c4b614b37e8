import { announce, button, h, isComposing } from "./dom.js";
import { copyButton } from "./markdown.js";
import type { Passage } from "./passage.js";

/** `false` where the model is still writing. */
type Ask = (text: string) => boolean;

/** One turn of a conversation, with what can be done with it. */
export class Turn {
  readonly element: HTMLElement;
  readonly #passage: Passage;
  readonly #ask: Ask | undefined;
  readonly #who = h("h3");
  readonly #ways = h("div", { className: "ways" });
  readonly #remark = h("p", { className: "remark", hidden: true });

  /** `ask`: the turn is the reader's, who may put it differently. */
  constructor(who: string, passage: Passage, ask?: Ask) {
    this.#passage = passage;
    this.#ask = ask;
    this.who = who;
    const copy = copyButton("Copy", () => passage.text);
    copy.setAttribute("aria-label", ask ? "Copy your message" : "Copy the answer");
    if (ask) {
      const edit = button("Edit", () => this.edit());
      edit.setAttribute("aria-label", "Edit your message");
      edit.className = "edit";
      this.#ways.append(edit);
    }
    this.#ways.append(copy);
    const className = ask ? "turn mine" : "turn";
    this.element = h("article", { className }, this.#who, this.#remark, passage.element, passage.note, this.#ways);
  }

  set who(name: string) {
    this.#who.textContent = name;
  }

  /** Something about the answer that is no part of it. */
  remark(text: string): void {
    this.#remark.textContent = text;
    this.#remark.hidden = false;
  }

  /** Lets the reader put it differently, from `text` on. */
  edit(text = this.#passage.text): void {
    const input = h("textarea", { rows: 3, value: text, ariaLabel: "Your message, edited" });
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
      if (!input.value.trim() || this.#ask?.(input.value)) return;
      hint.textContent = "The model is still writing. Send it when that is done, or stop it.";
      announce(hint.textContent);
    };
    input.onkeydown = (event) => {
      if (isComposing(event)) return;
      if (event.key === "Escape") {
        event.stopPropagation(); // It would stop the model.
        return leave();
      }
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      form.requestSubmit();
    };
    this.#passage.element.replaceWith(form);
    this.#ways.hidden = true;
    input.focus();
  }
}
