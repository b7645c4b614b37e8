import type { Quantization } from "./catalogue.js";

// A GGUF file, as https://github.com/ggml-org/ggml/blob/master/docs/gguf.md has it.

const WIDTH = 1024;
const FEED_FORWARD = 256;
const CONTEXT = 256;
/** Types by their number in the format; in a block, so many weights take so many bytes. */
const TYPES = { F32: [0, 1, 4], Q8_0: [8, 32, 34], Q4_K: [12, 256, 144] } as const;
const KIND = { u32: 4, f32: 6, string: 8, array: 9 };

/** A Llama of one layer, all zeros, with the width of the smallest models on offer. */
export function oneLayer(quantized: Quantization): Uint8Array<ArrayBuffer> {
  const tokens = ["<unk>", "<s>", "</s>", "▁a"];
  const out = new GGUFWriter();
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
  type Tensor = [name: string, type: keyof typeof TYPES, ...dimensions: number[]];
  const tensors: Tensor[] = [
    ["token_embd.weight", quantized, WIDTH, tokens.length],
    ["output_norm.weight", "F32", WIDTH],
    ...["attn_q", "attn_k", "attn_v", "attn_output"].map((name): Tensor => [
      `blk.0.${name}.weight`,
      quantized,
      WIDTH,
      WIDTH,
    ]),
    ["blk.0.attn_norm.weight", "F32", WIDTH],
    ["blk.0.ffn_norm.weight", "F32", WIDTH],
    ["blk.0.ffn_gate.weight", quantized, WIDTH, FEED_FORWARD],
    ["blk.0.ffn_up.weight", quantized, WIDTH, FEED_FORWARD],
    ["blk.0.ffn_down.weight", quantized, FEED_FORWARD, WIDTH],
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
  for (const [name, type, ...dimensions] of tensors) {
    out.text(name);
    out.u32(dimensions.length);
    dimensions.forEach((dimension) => out.u64(dimension));
    const [number, weights, size] = TYPES[type];
    out.u32(number);
    out.u64(offset);
    offset += (dimensions.reduce((product, dimension) => product * dimension) / weights) * size;
    offset += -offset & 31;
  }
  return out.padded(offset);
}

class GGUFWriter {
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
