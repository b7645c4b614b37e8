import type { CachedModel } from "candlewick";

/** A model on the Hub that the picker proposes. */
export interface Proposal {
  /** As `load()` takes it. */
  model: string;
  name: string;
  about: string;
  /** Bytes, about: until the Hub was asked. */
  size: number;
  /** Its first words are thoughts. */
  thinks?: true;
}

/** How most weights of a proposed model are stored. */
export type Quantization = "Q8_0" | "Q4_K";

export const quantizationOf = ({ model }: Proposal): Quantization => (model.endsWith(":Q8_0") ? "Q8_0" : "Q4_K");

/** Those that candlewick has short names for (`ALIASES` in src/hub/spec.rs), the smallest first. */
export const PROPOSALS: Proposal[] = [
  {
    model: "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:Q8_0",
    name: "SmolLM2 360M",
    about: "Small and quick, English",
    size: 386e6,
  },
  {
    model: "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",
    name: "Qwen2.5 0.5B",
    about: "Small, many languages",
    size: 491e6,
  },
  {
    model: "Qwen/Qwen3-0.6B-GGUF:Q8_0",
    name: "Qwen3 0.6B",
    about: "Thinks before it answers",
    size: 639e6,
    thinks: true,
  },
  { model: "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", name: "Gemma 3 1B", about: "Writes well for its size", size: 806e6 },
  { model: "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", name: "Llama 3.2 1B", about: "An all-rounder", size: 808e6 },
  {
    model: "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M",
    name: "SmolLM2 1.7B",
    about: "Larger, English",
    size: 1.06e9,
  },
  {
    model: "Qwen/Qwen3-1.7B-GGUF:Q8_0",
    name: "Qwen3 1.7B",
    about: "The ablest here; wants a good GPU",
    size: 1.83e9,
    thinks: true,
  },
];

/**
 * Whether all of a model is among those in the browser's storage. Of a name that says neither file nor quantization it is
 * not known: the Hub decides what that means, and it may mean a file that is not here.
 */
export function isHere(source: string, kept: CachedModel[]): boolean {
  const [, name, quantization, revision = ""] = /^([^:@]+)(?::([^@]+))?(?:@(.+))?$/.exec(source.toLowerCase()) ?? [];
  return kept.some(({ model, commit, complete }) => {
    const file = model.toLowerCase();
    const parts = file.split(/[^a-z0-9_]/);
    const isMeant =
      quantization === undefined ? file === name : file.startsWith(`${name}/`) && parts.includes(quantization);
    return complete && isMeant && commit.startsWith(revision);
  });
}
