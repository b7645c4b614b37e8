import { Lexer, type MarkedToken, type Token, type Tokens } from "marked";
import { announce, button, h } from "./dom.js";

/**
 * Markdown as elements. It is made from marked's tokens and never from markup: HTML in a text stays text, pictures are
 * links to them (to load one would tell its server of the reader), and links go to the web and nowhere else.
 */
export function blocks(text: string): Block[] {
  try {
    return Lexer.lex(text).map((token) => ({ raw: token.raw, make: () => block(token) }));
  } catch {
    // Quotes or lists within one another by the thousand are more than the lexer's stack holds.
    return [{ raw: text, make: () => [h("p", {}, text)] }];
  }
}

/** A piece of a text, and what makes its elements. */
interface Block {
  raw: string;
  make: () => Node[];
}

function block(token: Token): Node[] {
  const known = token as MarkedToken;
  switch (known.type) {
    case "space":
    case "def":
      return [];
    case "hr":
      return [h("hr")];
    case "heading":
      return [heading(known)];
    case "paragraph":
      return [h("p", {}, ...inlines(known.tokens))];
    // In lists, without a paragraph around it.
    case "text":
      return known.tokens ? inlines(known.tokens) : [plain(known.text)];
    case "code":
      return [code(known)];
    case "blockquote":
      return [h("blockquote", {}, ...known.tokens.flatMap(block))];
    case "list":
      return [list(known)];
    case "table":
      return [table(known)];
    default:
      return [h("p", {}, token.raw.trim())]; // HTML
  }
}

/** The page has headings of its own down to the third; those of an answer come below. */
function heading({ depth, tokens }: Tokens.Heading): HTMLElement {
  const level = `h${Math.min(depth + 3, 6)}` as "h4" | "h5" | "h6";
  return h(level, {}, ...inlines(tokens));
}

function code({ text, lang }: Tokens.Code): HTMLElement {
  const copy = copyButton("Copy", () => text);
  copy.setAttribute("aria-label", "Copy code");
  const pre = h("pre", { tabIndex: 0 }, h("code", {}, text));
  pre.setAttribute("role", "region"); // It scrolls, so the keyboard must get there, and hear where it is.
  pre.setAttribute("aria-label", lang ? `Code, ${lang}` : "Code");
  return h("div", { className: "code" }, h("div", { className: "code-head" }, h("span", {}, lang ?? ""), copy), pre);
}

function list({ ordered, start, items, loose }: Tokens.List): HTMLElement {
  const rows = items.map(({ task, checked, tokens }) => {
    const box = task ? [checked ? "☑ " : "☐ "] : [];
    const content = tokens
      .filter(({ type }) => type !== "checkbox")
      .flatMap((token) => (loose && token.type === "text" ? [h("p", {}, ...block(token))] : block(token)));
    return h("li", {}, ...box, ...content);
  });
  return ordered ? h("ol", { start: Number(start) || 1 }, ...rows) : h("ul", {}, ...rows);
}

function table({ header, rows, align }: Tokens.Table): HTMLElement {
  const cells = (kind: "th" | "td", row: Tokens.TableCell[]) =>
    h("tr", {}, ...row.map(({ tokens }, at) => h(kind, { className: align[at] ?? "" }, ...inlines(tokens))));
  const body = rows.map((row) => cells("td", row));
  const scroller = h(
    "div",
    { className: "table", tabIndex: 0 },
    h("table", {}, h("thead", {}, cells("th", header)), h("tbody", {}, ...body)),
  );
  scroller.setAttribute("role", "region");
  scroller.setAttribute("aria-label", "Table");
  return scroller;
}

const inlines = (tokens: Token[]): Node[] => tokens.flatMap(inline);

function inline(token: Token): Node[] {
  const known = token as MarkedToken;
  switch (known.type) {
    case "text":
    case "escape":
      return "tokens" in known && known.tokens ? inlines(known.tokens) : [plain(known.text)];
    case "strong":
    case "em":
    case "del":
      return [h(known.type, {}, ...inlines(known.tokens))];
    case "codespan":
      return [h("code", {}, known.text)];
    case "br":
      return [h("br")];
    case "link":
      return link(known.href, known.tokens.length ? inlines(known.tokens) : [plain(known.href)]);
    case "image":
      return link(known.href, [plain(`${known.text || "picture"} (picture)`)]);
    default:
      return [document.createTextNode(token.raw)]; // HTML
  }
}

function link(written: string, content: Node[]): Node[] {
  const href = decode(written);
  if (!/^https?:\/\//i.test(href) || !URL.canParse(href)) return content;
  return [h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href }, ...content)];
}

const plain = (text: string): Node => document.createTextNode(decode(text));

/** The lexer leaves character references to the browser. Parsed apart from the page, nothing in it is loaded or run. */
function decode(text: string): string {
  const parsed = (reference: string) =>
    new DOMParser().parseFromString(reference, "text/html").documentElement.textContent;
  return text.replaceAll(/&[#\w]+;/g, (reference) => parsed(reference) ?? "");
}

/** Copies what `text` gives, and says so on itself for a moment. */
export function copyButton(label: string, text: () => string): HTMLButtonElement {
  const copy = button(label, async () => {
    // There is no clipboard for pages at addresses that are not secure.
    const copied = Promise.resolve().then(() => navigator.clipboard.writeText(text()));
    const said = await copied.then(
      () => "Copied",
      () => "Not allowed",
    );
    copy.textContent = said;
    announce(said === "Copied" ? "Copied." : "The browser does not allow this page to copy.");
    setTimeout(() => (copy.textContent = label), 2000);
  });
  return copy;
}
