import { inspect } from "candlewick";
import { bytes } from "./format.js";
import { recall, remember } from "./memory.js";
import { switches } from "./switches.js";

/** What this device can do for a model that nobody has asked anyone about yet. */
export interface Device {
  name: "CPU" | "GPU";
  /** Bytes of weights that it reads in a second. */
  bytesPerSecond: number;
  /** Bytes that a page can count on, as far as the browser says. */
  memory?: number;
}

/** A measurement counts for a week: browsers and drivers are updated. */
const LASTS = 7 * 24 * 3600_000;
/** Beside the weights: the context's keys and values, activations, and what the browser itself wants. */
const BESIDE_WEIGHTS = 300e6;
/** Where the browser does not say how much memory there is. */
const USUAL_MEMORY = 3e9;

/**
 * Measures the device with matrices of the kind that models on the Hub have, without asking anybody: what is inspected
 * is a model of one layer, made up here. The storyteller, whose weights are small and not quantized, would mislead.
 */
export async function measure(): Promise<Device | undefined> {
  const { device, gpu } = switches();
  const asked = JSON.stringify([device, gpu?.disable, crossOriginIsolated]);
  const known = recall("device");
  if (known && known.asked === asked && Date.now() - known.time < LASTS) return known.device;
  const { devices, device: best } = await inspect(oneLayer(), { device, gpu });
  const found = devices.find((estimate) => estimate.device === best);
  if (!found?.predictedPerSecond) return undefined;
  const { weights, predictedPerSecond, available } = found;
  const measured: Device = { name: best === "gpu" ? "GPU" : "CPU", bytesPerSecond: weights * predictedPerSecond, ...(available !== undefined && { memory: available }) };
  remember("device", { device: measured, asked, time: Date.now() });
  return measured;
}

/** Tokens a second, about: each token reads all weights. */
export const speedOf = (size: number, device: Device) => device.bytesPerSecond / size;

export function fits(size: number, { memory = USUAL_MEMORY }: Device): boolean {
  return size + BESIDE_WEIGHTS <= 0.8 * memory;
}

/** What the estimate is from. */
export const basis = ({ name, bytesPerSecond }: Device) => `reckoned from a short measurement: the ${name} here reads ${bytes(bytesPerSecond)} of weights a second`;

// A GGUF file, as https://github.com/ggml-org/ggml/blob/master/docs/gguf.md has it.

const WIDTH = 1024;
const FEED_FORWARD = 256;
const CONTEXT = 256;
const [Q8_0, F32] = [8, 0];
const KIND = { u32: 4, f32: 6, string: 8, array: 9 };
const size = (kind: number, numbers: number) => (kind === Q8_0 ? (numbers / 32) * 34 : numbers * 4);

/** A Llama of one layer, all zeros, with the width of the smallest models on offer. */
function oneLayer(): Uint8Array<ArrayBuffer> {
  const tokens = ["<unk>", "<s>", "</s>", "▁a"];
  const out = new Writer();
  const metadata: [string, number, () => void][] = [
    ["general.architecture", KIND.string, () => out.text("llama")],
    ["llama.block_count", KIND.u32, () => out.u32(1)],
    ["llama.context_length", KIND.u32, () => out.u32(CONTEXT)],
    ["llama.embedding_length", KIND.u32, () => out.u32(WIDTH)],
    ["llama.feed_forward_length", KIND.u32, () => out.u32(FEED_FORWARD)],
    ["llama.attention.head_count", KIND.u32, () => out.u32(WIDTH / 64)],
    ["llama.attention.layer_norm_rms_epsilon", KIND.f32, () => out.f32(1e-5)],
    ["tokenizer.ggml.model", KIND.string, () => out.text("llama")],
    ["tokenizer.ggml.tokens", KIND.array, () => out.array(KIND.string, tokens, (token) => out.text(token))],
    ["tokenizer.ggml.scores", KIND.array, () => out.array(KIND.f32, tokens, () => out.f32(0))],
  ];
  const tensors: [name: string, kind: number, ...dimensions: number[]][] = [
    ["token_embd.weight", Q8_0, WIDTH, tokens.length],
    ["output_norm.weight", F32, WIDTH],
    ...["attn_q", "attn_k", "attn_v", "attn_output"].map((name): [string, number, ...number[]] => [`blk.0.${name}.weight`, Q8_0, WIDTH, WIDTH]),
    ["blk.0.attn_norm.weight", F32, WIDTH],
    ["blk.0.ffn_norm.weight", F32, WIDTH],
    ["blk.0.ffn_gate.weight", Q8_0, WIDTH, FEED_FORWARD],
    ["blk.0.ffn_up.weight", Q8_0, WIDTH, FEED_FORWARD],
    ["blk.0.ffn_down.weight", Q8_0, FEED_FORWARD, WIDTH],
  ];
  out.raw(new TextEncoder().encode("GGUF"));
  out.u32(3);
  out.u64(tensors.length);
  out.u64(metadata.length);
  for (const [key, kind, value] of metadata) {
    out.text(key);
    out.u32(kind);
    value();
  }
  let offset = 0;
  for (const [name, kind, ...dimensions] of tensors) {
    out.text(name);
    out.u32(dimensions.length);
    dimensions.forEach((dimension) => out.u64(dimension));
    out.u32(kind);
    out.u64(offset);
    offset += size(kind, dimensions.reduce((product, dimension) => product * dimension));
    offset += -offset & 31;
  }
  return out.padded(offset);
}

class Writer {
  readonly #bytes: number[] = [];

  raw(bytes: Uint8Array): void {
    this.#bytes.push(...bytes);
  }

  u32(value: number): void {
    this.raw(new Uint8Array(Uint32Array.of(value).buffer));
  }

  u64(value: number): void {
    this.raw(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }

  f32(value: number): void {
    this.raw(new Uint8Array(Float32Array.of(value).buffer));
  }

  text(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.raw(bytes);
  }

  array<T>(kind: number, items: T[], write: (item: T) => void): void {
    this.u32(kind);
    this.u64(items.length);
    items.forEach(write);
  }

  /** All of it, and so many zeros after it, from the next multiple of 32 on. */
  padded(zeros: number): Uint8Array<ArrayBuffer> {
    const start = Math.ceil(this.#bytes.length / 32) * 32;
    const all = new Uint8Array(start + zeros);
    all.set(this.#bytes);
    return all;
  }
}
