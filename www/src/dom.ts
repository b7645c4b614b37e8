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

/** The pairs of a `<dl>`, each in a `<div>`. */
export function pairs(rows: [term: string, value: Child][]): HTMLElement[] {
  return rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value)));
}

/** Says something to screen readers, once, when they are free. */
export function announce(text: string): void {
  byId("announcer", HTMLElement).textContent = text;
}
