/** The element with this id, of this kind; the page is broken without it. */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`#${id} is missing`);
  return element;
}

type Child = Node | string;

/** `h("p", { className: "hint" }, "text")`: text is always text, never markup. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<Omit<HTMLElementTagNameMap[K], "children">> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function button(label: string, onclick: () => unknown): HTMLButtonElement {
  return h("button", { type: "button", textContent: label, onclick });
}

/** A label, what is set or typed, and what it does; `more` comes after the label. */
export function field(
  className: string,
  label: string,
  input: HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement,
  hint: string,
  ...more: Child[]
): HTMLElement {
  const id = `${input.id}-hint`;
  input.setAttribute("aria-describedby", id);
  const explained = h("p", { id, className: "hint" }, hint);
  return h("div", { className }, h("label", { htmlFor: input.id }, label), ...more, input, explained);
}

/** Puts new rows into a list. Who was on one of its buttons is on the one of the same id again, or else `otherwise`. */
export function refill(list: Element, rows: Node[], otherwise: HTMLElement): void {
  const focused = list.contains(document.activeElement) ? document.activeElement!.id : undefined;
  list.replaceChildren(...rows);
  if (focused !== undefined) (document.getElementById(focused) ?? otherwise).focus();
}

/** Whether a key is part of composing a character, not meant for the page. Safari sends the last one when that is over. */
export const isComposing = (event: KeyboardEvent) => event.isComposing || event.keyCode === 229;

/** The pairs of a `<dl>`, each in a `<div>`. */
export function pairs(rows: [term: string, value: Child][]): HTMLElement[] {
  return rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)));
}

/** Says something to screen readers, once, when they are free. */
export function announce(text: string): void {
  byId("announcer", HTMLElement).textContent = text;
}
