import type { SamplingParams } from "candlewick";
import { button, byId, h } from "./dom.js";

interface Setting {
  key: "temperature" | "top_p" | "top_k" | "min_p" | "repeat_penalty" | "max_tokens" | "seed";
  label: string;
  hint: string;
  /** Empty: leave it to the engine. */
  initial: number | "";
  min: number;
  max: number;
  step: number;
  /** Without one it is a number box. */
  slider?: true;
}

const SETTINGS: Setting[] = [
  { key: "temperature", label: "Temperature", hint: "How daring the choice of words is. At 0 it always takes the likeliest.", initial: 0.7, min: 0, max: 2, step: 0.05, slider: true },
  { key: "top_p", label: "Top p", hint: "Choose among the likeliest words that together make up this share.", initial: 0.95, min: 0.05, max: 1, step: 0.05, slider: true },
  { key: "min_p", label: "Min p", hint: "Drop words less likely than this share of the likeliest one.", initial: 0.05, min: 0, max: 0.5, step: 0.01, slider: true },
  { key: "repeat_penalty", label: "Repeat penalty", hint: "Above 1, words just used become less likely.", initial: 1, min: 1, max: 2, step: 0.05, slider: true },
  { key: "top_k", label: "Top k", hint: "Choose among this many words. 0: all.", initial: 40, min: 0, max: 1000, step: 1 },
  { key: "max_tokens", label: "Longest answer", hint: "In tokens: pieces of words.", initial: 500, min: 1, max: 100000, step: 1 },
  { key: "seed", label: "Seed", hint: "The same seed gives the same text again. Empty: a new one each time.", initial: "", min: 0, max: 4294967295, step: 1 },
];

/** Builds the panel; what it returns reads the settings as they stand. */
export function settingsPanel(): () => SamplingParams {
  const form = byId("settings", HTMLDetailsElement).querySelector("form")!;
  const rows = SETTINGS.map(row);
  form.append(...rows.map((row) => row.element));
  form.append(button("Reset settings", () => rows.forEach((row) => row.reset())));
  form.onsubmit = (event) => event.preventDefault();
  return () => Object.fromEntries(rows.flatMap((row) => row.entry()));
}

function row(setting: Setting) {
  const { key, label, hint, initial, min, max, step, slider } = setting;
  const input = h("input", { id: `setting-${key}`, name: key, type: slider ? "range" : "number" });
  Object.assign(input, { min, max, step, placeholder: initial === "" ? "random" : "" });
  input.setAttribute("aria-describedby", `${input.id}-hint`);
  const output = h("output", { htmlFor: input.id as never });
  const show = () => {
    output.textContent = slider ? input.valueAsNumber.toFixed(2) : "";
    input.setAttribute("aria-invalid", String(!input.validity.valid));
  };
  const reset = () => {
    input.value = String(initial);
    show();
  };
  input.oninput = show;
  reset();
  const element = h(
    "div",
    { className: slider ? "setting" : "setting setting-number" },
    h("label", { htmlFor: input.id }, label),
    output,
    input,
    h("p", { id: `${input.id}-hint`, className: "hint" }, hint),
  );
  // What is empty or out of range is left to the engine, which has its own defaults.
  const entry = (): [string, number][] => (input.value !== "" && input.validity.valid ? [[key, input.valueAsNumber]] : []);
  return { element, reset, entry };
}
