import type { ContextLength, SamplingParams } from "candlewick";
import { button, byId, field, h } from "./dom.js";
import { count } from "./format.js";
import { recall, remember } from "./memory.js";

export interface Settings {
  sampling(): SamplingParams;
  /** What models are loaded with; nothing: what the engine finds right. */
  context(): ContextLength | undefined;
  /** What does not fit the context loses its middle; otherwise it is an error. */
  dropsMiddle(): boolean;
}

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
  {
    key: "temperature",
    label: "Temperature",
    hint: "How daring the choice of words is. At 0 it always takes the likeliest.",
    initial: 0.7,
    min: 0,
    max: 2,
    step: 0.05,
    slider: true,
  },
  {
    key: "top_p",
    label: "Top p",
    hint: "Choose among the likeliest words that together make up this share.",
    initial: 0.95,
    min: 0.05,
    max: 1,
    step: 0.05,
    slider: true,
  },
  {
    key: "min_p",
    label: "Min p",
    hint: "Drop words less likely than this share of the likeliest one.",
    initial: 0.05,
    min: 0,
    max: 0.5,
    step: 0.01,
    slider: true,
  },
  {
    key: "repeat_penalty",
    label: "Repeat penalty",
    hint: "Above 1, words just used become less likely.",
    initial: 1,
    min: 1,
    max: 2,
    step: 0.05,
    slider: true,
  },
  {
    key: "top_k",
    label: "Top k",
    hint: "Choose among this many words. 0: all.",
    initial: 40,
    min: 0,
    max: 1000,
    step: 1,
  },
  {
    key: "max_tokens",
    label: "Longest answer",
    hint: "In tokens: pieces of words.",
    initial: 500,
    min: 1,
    max: 100000,
    step: 1,
  },
  {
    key: "seed",
    label: "Seed",
    hint: "The same seed gives the same text again. Empty: a new one each time.",
    initial: "",
    min: 0,
    max: 4294967295,
    step: 1,
  },
];

const CONTEXTS: Choices = [
  ["", "As the model suggests"],
  ...[2048, 4096, 8192, 16384, 32768].map((tokens): [string, string] => [
    String(tokens),
    `At most ${count(tokens)} tokens`,
  ]),
  ["max", "As much as memory allows"],
];

const OVERFLOWS: Choices = [
  ["middle", "Drop the middle"],
  ["error", "Stop and say so"],
];

/** Builds the panel, with what was set on the last visit. `onContext`: models are to be loaded with another context. */
export function settingsPanel(onContext: () => void): Settings {
  const form = byId("settings", HTMLDetailsElement).querySelector("form")!;
  const rows = SETTINGS.map(row);
  const context = select(
    "context",
    "Context length",
    "How much the model keeps in view: the conversation and its answer. More takes more memory. The model is loaded again.",
    CONTEXTS,
  );
  const overflow = select(
    "overflow",
    "When it is full",
    "The beginning and the latest turns stay; turns between them are left out, and the page says so.",
    OVERFLOWS,
  );
  const all = [...rows, context, overflow];
  const known = recall("settings") ?? {};
  for (const { input, set } of all) {
    const value = known[input.name];
    if (value !== undefined) set(value);
  }
  const keep = () => remember("settings", Object.fromEntries(all.map(({ input }) => [input.name, input.value])));
  const reset = () => {
    const reload = context.input.value !== "";
    all.forEach((row) => row.reset());
    keep();
    if (reload) onContext();
  };
  form.append(...all.map((row) => row.element), button("Reset settings", reset));
  form.onsubmit = (event) => event.preventDefault();
  form.addEventListener("input", keep);
  context.input.addEventListener("change", onContext);
  return {
    sampling: () => Object.fromEntries(rows.flatMap((row) => row.entry())),
    context: () => {
      const { value } = context.input;
      return value === "" ? undefined : value === "max" ? value : { max: Number(value) };
    },
    dropsMiddle: () => overflow.input.value === "middle",
  };
}

type Choices = [value: string, label: string][];

function select(name: string, label: string, hint: string, choices: Choices) {
  const input = h(
    "select",
    { id: `setting-${name}`, name },
    ...choices.map(([value, label]) => h("option", { value }, label)),
  );
  const set = (value: string) => {
    if (choices.some(([known]) => known === value)) input.value = value;
  };
  const element = field("setting setting-choice", label, input, hint);
  return { element, input, set, reset: () => set(choices[0]![0]) };
}

function row(setting: Setting) {
  const { key, label, hint, initial, min, max, step, slider } = setting;
  const input = h("input", { id: `setting-${key}`, name: key, type: slider ? "range" : "number" });
  Object.assign(input, { min, max, step, placeholder: initial === "" ? "random" : "" });
  const output = h("output", { htmlFor: input.id as never });
  const show = () => {
    output.textContent = slider ? input.valueAsNumber.toFixed(2) : "";
    input.setAttribute("aria-invalid", String(!input.validity.valid));
  };
  input.oninput = show;
  const set = (value: string) => {
    input.value = value;
    show();
  };
  const element = field(slider ? "setting" : "setting setting-number", label, input, hint, output);
  // What is empty or out of range is left to the engine, which has its own defaults.
  const entry = (): [string, number][] =>
    input.value !== "" && input.validity.valid ? [[key, input.valueAsNumber]] : [];
  const reset = () => set(String(initial));
  reset();
  return { element, input, set, reset, entry };
}
