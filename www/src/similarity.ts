import { announce, h } from "./dom.js";
import { rate } from "./format.js";
import type { Desk, Mode } from "./mode.js";

const TEXTS = [
  "A candle burns because its wax turns to vapour.",
  "The cat sleeps on the warm stove.",
  "Paraffin is made from petroleum.",
  "It will rain in the mountains tomorrow.",
  "Kittens like to nap beside the fire.",
  "Bees build their combs of wax.",
];

/** For encoders: they write nothing, but turn a text into a vector, and texts of like meaning into vectors that lie close. */
export class Similarity implements Mode {
  readonly title = "Search by meaning";
  readonly label = "What are you looking for?";
  readonly placeholder = "A question or a few words";
  readonly verb = "Compare";
  readonly suggestions = ["Where do cats rest?", "What are candles made of?", "What is the weather like?"];
  readonly takes = false;
  readonly sheet: HTMLElement;
  readonly #desk: Desk;
  readonly #texts = h("textarea", { id: "texts", rows: 7, value: TEXTS.join("\n") });
  readonly #asked = h("h3", { className: "asked" });
  readonly #ranking = h("ol", { className: "ranking" });
  readonly #detail = h("p", { className: "detail" });

  constructor(desk: Desk) {
    this.#desk = desk;
    const explained = h(
      "p",
      { className: "empty" },
      "This model is an encoder: it turns texts into vectors, and texts of like meaning lie close to each other. Ask below, and the texts are ranked by how close they are.",
    );
    const texts = h(
      "div",
      { className: "field" },
      h("label", { htmlFor: "texts" }, "Texts, one on each line"),
      this.#texts,
    );
    this.sheet = h("div", {}, explained, texts, this.#asked, this.#ranking, this.#detail);
  }

  async submit(query: string): Promise<boolean> {
    const texts = this.#texts.value
      .split("\n")
      .map((text) => text.trim())
      .filter(Boolean);
    if (!query.trim() || texts.length === 0) return true;
    const { engine, writer } = this.#desk;
    const started = performance.now();
    const [asked, ...found] = await writer.work((signal) =>
      engine.embed([query, ...texts], { truncate: true, signal }),
    );
    const took = performance.now() - started;
    const [about] = vectors([asked!]);
    const ranked = vectors(found)
      .map((vector, at) => ({ text: texts[at]!, closeness: dot(about!, vector) }))
      .sort((a, b) => b.closeness - a.closeness);
    this.#asked.textContent = `Closest to “${query.trim()}”`;
    this.#ranking.replaceChildren(...ranked.map(row));
    this.#detail.textContent = `Cosine similarity: 1 means the same direction. ${texts.length + 1} texts became vectors of ${about!.length} numbers in ${rate(took)} ms.`;
    announce(`Closest: ${ranked[0]!.text}`);
    return true;
  }

  actions(): [string, () => Promise<void>][] {
    return [];
  }
}

function row({ text, closeness }: { text: string; closeness: number }): HTMLElement {
  const meter = h("meter", { min: 0, max: 1, value: closeness });
  meter.setAttribute("aria-label", "Similarity");
  return h("li", {}, h("p", {}, text), meter, h("span", { className: "detail" }, closeness.toFixed(2)));
}

/** Vectors of length 1; a text that has none is an error, as nothing else could be said of it. */
function vectors(found: Awaited<ReturnType<Desk["engine"]["embed"]>>): number[][] {
  return found.map((one) => {
    if ("embedding" in one) return one.embedding;
    throw new Error(one.message);
  });
}

const dot = (a: number[], b: number[]) => a.reduce((sum, number, at) => sum + number * b[at]!, 0);
