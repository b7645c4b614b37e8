// Writes GGUF models with random weights and the shapes of published ones, for measuring speed.
// The vocabulary is made up too: byte tokens, then words, as SentencePiece files have them.
import { closeSync, openSync, writeSync } from "node:fs";

/** Shapes as in the published files. @type {Record<string, Shape>} */
export const SHAPES = {
  // Of no published model: as many layers as a small one has, and next to no work in them.
  "thirty-thin": { layers: 30, width: 64, heads: 4, kvHeads: 2, headSize: 16, feedForward: 128, vocabulary: 32000, tied: true },
  "smollm2-135m": { layers: 30, width: 576, heads: 9, kvHeads: 3, headSize: 64, feedForward: 1536, vocabulary: 49152, tied: true },
  "smollm2-360m": { layers: 32, width: 960, heads: 15, kvHeads: 5, headSize: 64, feedForward: 2560, vocabulary: 49152, tied: true },
  "llama-3.2-1b": { layers: 16, width: 2048, heads: 32, kvHeads: 8, headSize: 64, feedForward: 8192, vocabulary: 128256, tied: true },
};

// ggml_type, elements and bytes of a block, and where in it the f16 scales lie.
const TYPES = {
  F16: { id: 1, elements: 1, bytes: 2, scales: [] },
  Q4_0: { id: 2, elements: 32, bytes: 18, scales: [0] },
  Q8_0: { id: 8, elements: 32, bytes: 34, scales: [0] },
  Q4_K: { id: 12, elements: 256, bytes: 144, scales: [0, 2] },
  Q6_K: { id: 14, elements: 256, bytes: 210, scales: [208] },
};
const F32 = { id: 0, elements: 1, bytes: 4 };
const ALIGNMENT = 32;
// f16 of about 0.01: weights of ±0.1 keep activations finite through any number of layers.
const SCALE = 0x211f;

/** xorshift32: the same file each time. */
function random(seed) {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

class Bytes {
  parts = [];
  u32(value) { const b = Buffer.alloc(4); b.writeUInt32LE(value); this.parts.push(b); return this; }
  u64(value) { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(value)); this.parts.push(b); return this; }
  f32(value) { const b = Buffer.alloc(4); b.writeFloatLE(value); this.parts.push(b); return this; }
  string(text) { const b = Buffer.from(text); return this.u64(b.length).raw(b); }
  raw(bytes) { this.parts.push(bytes); return this; }
  key(name, type) { return this.string(name).u32(type); }
  done() { return Buffer.concat(this.parts); }
}

function tensors(shape, type) {
  const { width, headSize, feedForward, vocabulary } = shape;
  const matrix = (name, columns, rows) => ({ name, dimensions: [columns, rows], type });
  const norm = (name) => ({ name, dimensions: [width], type: F32 });
  const list = [matrix("token_embd.weight", width, vocabulary), norm("output_norm.weight")];
  if (!shape.tied) list.push(matrix("output.weight", width, vocabulary));
  for (let i = 0; i < shape.layers; i++) {
    const blk = `blk.${i}.`;
    list.push(
      norm(`${blk}attn_norm.weight`),
      matrix(`${blk}attn_q.weight`, width, shape.heads * headSize),
      matrix(`${blk}attn_k.weight`, width, shape.kvHeads * headSize),
      matrix(`${blk}attn_v.weight`, width, shape.kvHeads * headSize),
      matrix(`${blk}attn_output.weight`, shape.heads * headSize, width),
      norm(`${blk}ffn_norm.weight`),
      matrix(`${blk}ffn_gate.weight`, width, feedForward),
      matrix(`${blk}ffn_up.weight`, width, feedForward),
      matrix(`${blk}ffn_down.weight`, feedForward, width),
    );
  }
  return list;
}

function metadata(name, shape) {
  const [U32, FLOAT, STRING, ARRAY, I32] = [4, 6, 8, 9, 5];
  const out = new Bytes();
  let count = 0;
  const text = (key, value) => { out.key(key, STRING).string(value); count++; };
  const number = (key, value) => { out.key(key, U32).u32(value); count++; };
  const float = (key, value) => { out.key(key, FLOAT).f32(value); count++; };
  text("general.architecture", "llama");
  text("general.name", `random ${name}`);
  number("llama.block_count", shape.layers);
  number("llama.context_length", 8192);
  number("llama.embedding_length", shape.width);
  number("llama.feed_forward_length", shape.feedForward);
  number("llama.attention.head_count", shape.heads);
  number("llama.attention.head_count_kv", shape.kvHeads);
  number("llama.rope.dimension_count", shape.headSize);
  float("llama.rope.freq_base", 100000);
  float("llama.attention.layer_norm_rms_epsilon", 1e-5);
  text("tokenizer.ggml.model", "llama");
  const tokens = ["<unk>", "<s>", "</s>"];
  for (let i = 0; i < 256; i++) tokens.push(`<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  while (tokens.length < shape.vocabulary) tokens.push(`▁w${tokens.length}`);
  out.key("tokenizer.ggml.tokens", ARRAY).u32(STRING).u64(tokens.length);
  tokens.forEach((token) => out.string(token));
  out.key("tokenizer.ggml.scores", ARRAY).u32(FLOAT).u64(tokens.length);
  out.raw(Buffer.from(Float32Array.from(tokens, (_, i) => -i).buffer));
  out.key("tokenizer.ggml.token_type", ARRAY).u32(I32).u64(tokens.length);
  out.raw(Buffer.from(Int32Array.from(tokens, (_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1)).buffer));
  number("tokenizer.ggml.bos_token_id", 1);
  number("tokenizer.ggml.eos_token_id", 2);
  return { bytes: out.done(), count: count + 3 };
}

const size = ({ dimensions, type }) => (dimensions.reduce((a, b) => a * b) / type.elements) * type.bytes;
const padded = (bytes) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Writes a model to `path` and gives the bytes of weights that a token reads. */
export function writeRandomModel(path, shapeName, typeName) {
  const shape = SHAPES[shapeName];
  const type = TYPES[typeName];
  if (!shape || !type) {
    throw new Error(`unknown model ${shapeName} ${typeName}; known: ${Object.keys(SHAPES)} in ${Object.keys(TYPES)}`);
  }
  const list = tensors(shape, type);
  const { bytes, count } = metadata(shapeName, shape);
  const header = new Bytes().raw(Buffer.from("GGUF")).u32(3).u64(list.length).u64(count).raw(bytes);
  let offset = 0;
  for (const tensor of list) {
    header.string(tensor.name).u32(tensor.dimensions.length);
    tensor.dimensions.forEach((n) => header.u64(n));
    header.u32(tensor.type.id).u64(offset);
    offset += padded(size(tensor));
  }
  const head = header.done();
  const file = openSync(path, "w");
  writeSync(file, head);
  writeSync(file, Buffer.alloc(padded(head.length) - head.length));
  const next = random(42);
  for (const tensor of list) {
    const data = Buffer.alloc(padded(size(tensor)));
    if (tensor.type === F32) {
      new Float32Array(data.buffer, data.byteOffset, tensor.dimensions[0]).fill(1);
    } else if (type === TYPES.F16) {
      for (let i = 0; i < data.length; i += 2) data.writeUInt16LE((next() & 0x8fff) | 0x2000, i);
    } else {
      const words = new Uint32Array(data.buffer, data.byteOffset, data.length >> 2);
      for (let i = 0; i < words.length; i++) words[i] = next();
      for (let block = 0; block + type.bytes <= size(tensor); block += type.bytes) {
        for (const at of type.scales) data.writeUInt16LE(SCALE, block + at);
      }
    }
    writeSync(file, data);
  }
  closeSync(file);
  return list.filter((t) => t.type !== F32).reduce((sum, t) => sum + size(t), 0);
}
