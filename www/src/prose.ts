import { blocks } from "./markdown.js";
import { Passage } from "./passage.js";

/** So many blocks at the end may still change: what looks like a paragraph may become the next item of the list before it. */
const UNSETTLED = 2;
/** So many characters may be read again with every frame. */
const QUICK = 10_000;
/** Milliseconds between frames where there are more. */
const PAUSE = 100;

interface Shown {
  raw: string;
  nodes: Node[];
}

/**
 * A passage in Markdown. Only its last blocks are read anew as it grows, so an answer of many blocks costs no more than
 * one of few. A single block of great length does, and is painted less often.
 */
export class Prose extends Passage {
  /** Characters in blocks that will not change any more. */
  #settled = 0;
  #unsettled: Shown[] = [];
  /** Characters that are on the page, and since when. */
  #painted = 0;
  #time = 0;

  constructor(written = "") {
    super();
    this.element.classList.add("prose");
    this.text = written;
    this.#render();
  }

  protected override paint(): void {
    const isLong = this.text.length - this.#settled > QUICK;
    if (isLong && performance.now() - this.#time < PAUSE) return;
    if (!this.#unsettled.flatMap(({ nodes }) => nodes).some(isSelected)) this.#render();
  }

  protected override settle(): void {
    // Links may come before the definitions of where they lead.
    const refers = /^ {0,3}\[[^\]]+\]:/m.test(this.text);
    if (refers) {
      this.element.replaceChildren();
      this.#settled = 0;
      this.#unsettled = [];
    }
    if (refers || this.#painted < this.text.length) this.#render();
  }

  /** What has not changed keeps its elements, and with them the focus and what is selected. */
  #render(): void {
    const rest = this.text.slice(this.#settled);
    const found = blocks(rest);
    const before = this.#unsettled;
    const changed = before.findIndex(({ raw }, at) => raw !== found[at]?.raw);
    const same = changed < 0 ? before.length : changed;
    const old = before.slice(same).flatMap(({ nodes }) => nodes);
    const focus = focusable(old).indexOf(document.activeElement as HTMLElement);
    old.forEach((node) => node.parentNode?.removeChild(node));
    const shown: Shown[] = found.map(({ raw, make }, at) => (at < same ? before[at]! : { raw, nodes: make() }));
    const fresh = shown.slice(same).flatMap(({ nodes }) => nodes);
    this.element.append(...fresh);
    focusable(fresh)[focus]?.focus({ preventScroll: true });
    this.#settle(shown, rest);
    this.#painted = this.text.length;
    this.#time = performance.now();
    if (this.element.hasAttribute("aria-busy")) this.#end().append(this.flame);
  }

  #settle(shown: Shown[], rest: string): void {
    const visible = shown.flatMap(({ nodes }, at) => (nodes.length ? [at] : []));
    // The lexer rewrites some line endings; without a place to go on from, everything is read again.
    const whole = shown.reduce((sum, { raw }) => sum + raw.length, 0) === rest.length;
    const open = whole ? (visible.at(-UNSETTLED) ?? 0) : 0;
    this.#settled += shown.slice(0, open).reduce((sum, { raw }) => sum + raw.length, 0);
    this.#unsettled = shown.slice(open);
  }

  /** Where the next word will be, about. */
  #end(): Element {
    const last = this.element.lastElementChild;
    if (!last || last === this.flame) return this.element;
    if (last.matches("p, h4, h5, h6")) return last;
    return last.matches("ul, ol") ? (last.lastElementChild ?? last) : this.element;
  }
}

function focusable(nodes: Node[]): HTMLElement[] {
  const all = nodes.flatMap((node) =>
    node instanceof HTMLElement ? [node, ...node.querySelectorAll<HTMLElement>("*")] : [],
  );
  return all.filter((element) => element.matches("a, button, [tabindex]"));
}

/** What the reader is selecting is not taken away under the pointer; it is painted later. */
function isSelected(node: Node): boolean {
  const selection = getSelection();
  return selection !== null && !selection.isCollapsed && selection.containsNode(node, true);
}
