import { blocks } from "./markdown.js";
import { Passage } from "./passage.js";

/** So many blocks at the end may still change: what looks like a paragraph may become the next item of the list before it. */
const UNSETTLED = 2;

/** A passage in Markdown. Only its last blocks are read anew as it grows, so that long answers cost no more than short ones. */
export class Prose extends Passage {
  /** Characters in blocks that will not change any more. */
  #settled = 0;
  #unsettled: Node[] = [];

  constructor(written = "") {
    super();
    this.element.classList.add("prose");
    if (!written) return;
    this.text = written;
    this.paint();
  }

  protected override paint(): void {
    const rest = this.text.slice(this.#settled);
    const found = blocks(rest);
    this.#unsettled.forEach((node) => node.parentNode?.removeChild(node));
    this.#unsettled = [];
    const visible = found.flatMap(({ nodes }, at) => (nodes.length ? [at] : []));
    // The lexer rewrites some line endings; without a place to go on from, everything is read again.
    const whole = found.reduce((sum, { raw }) => sum + raw.length, 0) === rest.length;
    const open = whole ? (visible.at(-UNSETTLED) ?? 0) : 0;
    for (const [at, { raw, nodes }] of found.entries()) {
      this.element.append(...nodes);
      if (at < open) this.#settled += raw.length;
      else this.#unsettled.push(...nodes);
    }
    if (this.element.hasAttribute("aria-busy")) this.#end().append(this.flame);
  }

  protected override settle(): void {}

  /** Where the next word will be, about. */
  #end(): Element {
    const last = this.element.lastElementChild;
    if (!last || last === this.flame) return this.element;
    if (last.matches("p, h4, h5, h6")) return last;
    return last.matches("ul, ol") ? (last.lastElementChild ?? last) : this.element;
  }
}
