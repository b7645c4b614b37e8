import type { Origin } from "candlewick";
import { byId, h } from "./dom.js";
import { whereAndWhy } from "./origin.js";

/** A piece of writing that grows. New words are put on the page once a frame, however fast they come. */
export class Passage {
  readonly element = h("div", { className: "passage" });
  /** Goes under it: where it was written and why there, or why it is not written yet. */
  readonly note = h("p", { className: "origin", hidden: true });
  origin: Origin | undefined;
  protected readonly flame = h("span", { className: "flame", ariaHidden: "true" });
  #pending = "";
  #frame = 0;
  text = "";

  /** `given` is the reader's own beginning, set apart from what the model adds. */
  constructor(given = "") {
    if (given) this.element.append(h("span", { className: "given" }, given));
    this.text = given;
  }

  begin(): void {
    this.element.setAttribute("aria-busy", "true");
    this.element.append(this.flame);
  }

  append(text: string): void {
    if (!this.text) text = text.trimStart(); // Many tokenizers begin a text with a space.
    this.text += text;
    this.#pending += text;
    this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  end(): void {
    this.#flush();
    this.flame.remove();
    this.element.removeAttribute("aria-busy");
    this.settle();
  }

  /** Says who wrote it. */
  sign(origin: Origin, why: boolean): void {
    this.origin = origin;
    this.explain(...whereAndWhy(origin, why));
  }

  explain(...note: (Node | string)[]): void {
    this.note.replaceChildren(...note);
    this.note.hidden = note.length === 0;
  }

  /** Puts what is new on the page, in front of the flame. */
  protected paint(fresh: string): void {
    this.flame.before(h("span", { className: "fresh" }, fresh));
  }

  /** All of it is there, and no more comes. */
  protected settle(): void {
    const given = this.element.querySelector(".given");
    this.element.replaceChildren(...(given ? [given] : []), this.text.slice(given?.textContent?.length ?? 0));
  }

  #flush(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#pending) return;
    const visible = this.#below() <= 0;
    this.paint(this.#pending);
    this.#pending = "";
    if (visible) this.#follow();
  }

  /** How far the end of the text is hidden by the composer, which stays at the bottom of the window. */
  #below(): number {
    return this.flame.getBoundingClientRect().bottom + 12 - byId("composer", HTMLElement).getBoundingClientRect().top;
  }

  /** Keeps the end in sight as long as the beginning is, too. Before the reader has touched anything, the page stays put. */
  #follow(): void {
    if (!navigator.userActivation?.hasBeenActive) return;
    const room = this.element.getBoundingClientRect().top - 16;
    const distance = Math.min(this.#below(), room);
    if (distance > 0) scrollBy({ top: distance, behavior: "instant" });
  }
}
