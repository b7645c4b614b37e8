import { h } from "./dom.js";

/** A piece of writing that grows. New words are put on the page once a frame, however fast they come. */
export class Passage {
  readonly element = h("div", { className: "passage" });
  readonly #flame = h("span", { className: "flame", ariaHidden: "true" });
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
    this.element.append(this.#flame);
  }

  append(text: string): void {
    this.text += text;
    this.#pending += text;
    this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  end(): void {
    this.#flush();
    this.#flame.remove();
    this.element.removeAttribute("aria-busy");
    const given = this.element.querySelector(".given");
    this.element.replaceChildren(...(given ? [given] : []), this.text.slice(given?.textContent?.length ?? 0));
  }

  #flush(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#pending) return;
    const follow = atBottom();
    this.#flame.before(h("span", { className: "fresh" }, this.#pending));
    this.#pending = "";
    if (follow) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }
}

/** Whoever has scrolled up to read is left alone. */
function atBottom(): boolean {
  const { scrollHeight, scrollTop, clientHeight } = document.documentElement;
  return scrollHeight - scrollTop - clientHeight < 80;
}
