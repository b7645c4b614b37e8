import { CandlewickError, type Comparison } from "candlewick";
import { announce, h, pairs } from "./dom.js";
import { count, milliseconds, rate } from "./format.js";
import { QUESTIONS, type Desk, type Mode } from "./mode.js";
import { whereAndWhy } from "./origin.js";

/** One prompt over the loaded model and all hosted ones, side by side. */
export class Compare implements Mode {
  readonly title = "Comparison";
  readonly label = "One prompt for all models";
  readonly placeholder = "Ask something";
  readonly verb = "Compare";
  readonly suggestions = QUESTIONS;
  readonly sheet = h("div", {}, h("p", { className: "empty" }, "Every model gets the same prompt, at the same time."));
  readonly takes = false;
  readonly #desk: Desk;

  constructor(desk: Desk) {
    this.#desk = desk;
  }

  async submit(text: string): Promise<boolean> {
    if (!text.trim()) return true;
    const { engine, writer, settings } = this.#desk;
    const asked = h("p", { className: "passage" }, h("span", { className: "given" }, text));
    const waiting = h(
      "p",
      { className: "empty" },
      "All models are writing. Their answers appear when the last one is done. ",
      h("span", { className: "flame", ariaHidden: "true" }),
    );
    this.sheet.replaceChildren(asked, waiting);
    announce("All models are writing…");
    try {
      const messages = [{ role: "user" as const, content: text }];
      const all = await writer.work((signal) => engine.compare({ ...settings.sampling(), messages }, { signal }));
      waiting.replaceWith(h("div", { className: "compared" }, ...all.map(card)));
      announce(all.map(summary).join(" "));
    } catch (error) {
      waiting.remove();
      if (!(error instanceof CandlewickError && error.code === "aborted")) throw error;
    }
    return true;
  }

  actions(): [string, () => Promise<void>][] {
    return [];
  }
}

function card(answer: Comparison): HTMLElement {
  const { model, text, error, message, milliseconds: all, first_token_ms: first, usage, finish_reason } = answer;
  const tokens = usage?.completion_tokens;
  const facts: [string, string][] = [
    ["Time", first === null ? milliseconds(all) : `${milliseconds(all)}, first token after ${milliseconds(first)}`],
    [
      "Tokens",
      tokens === undefined ? "not counted" : `${count(tokens)}, ${rate((tokens * 1000) / all)} a second in all`,
    ],
    ["Ended by", error === null ? ending(finish_reason) : `failure (${error})`],
  ];
  return h(
    "article",
    { className: "answer" },
    h("h3", {}, model),
    h("p", { className: "origin" }, ...where(answer)),
    ...(text ? [h("p", { className: "passage" }, text.trimStart())] : []),
    ...(error === null ? [] : [h("p", { className: "alarm" }, message ?? error)]),
    h("dl", {}, ...pairs(facts)),
  );
}

/** Of an answer that failed, less is known. */
function where({ candlewick, ran, provider }: Comparison): (Node | string)[] {
  if (candlewick) return whereAndWhy(candlewick, false);
  return [
    h("strong", {}, ran === "local" ? "On this device" : "Hosted"),
    ` · ${ran === "local" ? provider.toUpperCase() : provider}`,
  ];
}

function ending(reason: Comparison["finish_reason"]): string {
  if (reason === "stop") return "being done";
  return reason === "length" ? "the longest answer allowed" : (reason ?? "not known");
}

function summary({ model, error, milliseconds: all }: Comparison): string {
  return error === null ? `${model} was done after ${milliseconds(all)}.` : `${model} failed.`;
}
