// Writes GGUF models with random weights and the shapes of published ones, for measuring speed.
// The vocabulary is made up too, as SentencePiece files have it: byte tokens, then single characters, of which any
// engine makes one token each, then words.
import { closeSync, openSync, writeSync } from "node:fs";

/** Shapes as in the published files. @type {Record<string, Shape>} */
export const SHAPES = {
  // Of no published model: as many layers as a small one has, and next to no work in them.
  "thirty-thin": {
    layers: 30,
    width: 64,
    heads: 4,
    kvHeads: 2,
    headSize: 16,
    feedForward: 128,
    vocabulary: 32000,
    tied: true,
  },
  "smollm2-135m": {
    layers: 30,
    width: 576,
    heads: 9,
    kvHeads: 3,
    headSize: 64,
    feedForward: 1536,
    vocabulary: 49152,
    tied: true,
  },
  "smollm2-360m": {
    layers: 32,
    width: 960,
    heads: 15,
    kvHeads: 5,
    headSize: 64,
    feedForward: 2560,
    vocabulary: 49152,
    tied: true,
  },
  "qwen2.5-0.5b": {
    architecture: "qwen2",
    layers: 24,
    width: 896,
    heads: 14,
    kvHeads: 2,
    headSize: 64,
    feedForward: 4864,
    vocabulary: 151936,
    tied: true,
    biases: true,
  },
  "llama-3.2-1b": {
    layers: 16,
    width: 2048,
    heads: 32,
    kvHeads: 8,
    headSize: 64,
    feedForward: 8192,
    vocabulary: 128256,
    tied: true,
  },
};

// ggml_type, elements and bytes of a block, and where in it the f16 scales lie.
const TYPES = {
  F16: { id: 1, elements: 1, bytes: 2, scales: [] },
  Q4_0: { id: 2, elements: 32, bytes: 18, scales: [0] },
  Q5_0: { id: 6, elements: 32, bytes: 22, scales: [0] },
  Q8_0: { id: 8, elements: 32, bytes: 34, scales: [0] },
  Q4_K: { id: 12, elements: 256, bytes: 144, scales: [0, 2] },
  Q6_K: { id: 14, elements: 256, bytes: 210, scales: [208] },
};
/** What llama.cpp's "Q4_K_M" takes for a matrix: more bits where they matter, other types where rows are not whole blocks. */
function mixed(name, columns, layer, layers) {
  const eighth = Math.floor(layers / 8);
  const sensitive = layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2;
  const more = name === "token_embd" || name === "output" || (sensitive && (name === "attn_v" || name === "ffn_down"));
  if (columns % 256) return more ? TYPES.Q8_0 : TYPES.Q5_0;
  return more ? TYPES.Q6_K : TYPES.Q4_K;
}
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
  u32(value) {
    const b = Buffer.alloc(4);
    b.writeUInt32LE(value);
    this.parts.push(b);
    return this;
  }
  u64(value) {
    const b = Buffer.alloc(8);
    b.writeBigUInt64LE(BigInt(value));
    this.parts.push(b);
    return this;
  }
  f32(value) {
    const b = Buffer.alloc(4);
    b.writeFloatLE(value);
    this.parts.push(b);
    return this;
  }
  string(text) {
    const b = Buffer.from(text);
    return this.u64(b.length).raw(b);
  }
  raw(bytes) {
    this.parts.push(bytes);
    return this;
  }
  key(name, type) {
    return this.string(name).u32(type);
  }
  done() {
    return Buffer.concat(this.parts);
  }
}

function tensors(shape, typeName) {
  const { layers, width, headSize, feedForward, vocabulary } = shape;
  const list = [];
  const vector = (name, length, value) => list.push({ name, dimensions: [length], type: F32, value });
  const matrix = (layer, name, columns, rows) => {
    const type = typeName === "Q4_K_M" ? mixed(name, columns, layer, layers) : TYPES[typeName];
    const prefix = layer === null ? "" : `blk.${layer}.`;
    // No answer has bytes that are not UTF-8 when bytes score 0: wllama fails at them.
    const scores = name === "token_embd" || name === "output";
    list.push({ name: `${prefix}${name}.weight`, dimensions: [columns, rows], type, scores });
    if (shape.biases && /attn_[qkv]/.test(name)) vector(`${prefix}${name}.bias`, rows, 0);
  };
  // In the order in which files have them that are made from Hugging Face's: by Hugging Face's names.
  matrix(null, "token_embd", width, vocabulary);
  for (let i = 0; i < layers; i++) {
    vector(`blk.${i}.attn_norm.weight`, width, 1);
    matrix(i, "ffn_down", feedForward, width);
    matrix(i, "ffn_gate", width, feedForward);
    matrix(i, "ffn_up", width, feedForward);
    vector(`blk.${i}.ffn_norm.weight`, width, 1);
    matrix(i, "attn_k", width, shape.kvHeads * headSize);
    matrix(i, "attn_output", shape.heads * headSize, width);
    matrix(i, "attn_q", width, shape.heads * headSize);
    matrix(i, "attn_v", width, shape.kvHeads * headSize);
  }
  vector("output_norm.weight", width, 1);
  if (!shape.tied) matrix(null, "output", width, vocabulary);
  return list;
}

// Characters that are tokens: Chinese ideographs.
const FIRST_CHARACTER = 0x4e00;
const CHARACTERS = 20_000;
/** The id of the first of them; special tokens and bytes come before. */
const FIRST_ID = 259;

/** The prompt of a round as tokens and as the text that has them. No two rounds begin alike, so that none finds its prompt in a KV cache. */
export function prompt(length, round) {
  const characters = Array.from({ length }, (_, i) => (round + i * 7919) % CHARACTERS);
  return {
    tokens: characters.map((index) => FIRST_ID + index),
    text: String.fromCodePoint(...characters.map((index) => FIRST_CHARACTER + index)),
  };
}

function metadata(name, shape) {
  const [U32, FLOAT, STRING, ARRAY, I32, BOOL] = [4, 6, 8, 9, 5, 7];
  const architecture = shape.architecture ?? "llama";
  const out = new Bytes();
  let count = 0;
  const text = (key, value) => {
    out.key(key, STRING).string(value);
    count++;
  };
  const number = (key, value) => {
    out.key(key, U32).u32(value);
    count++;
  };
  const float = (key, value) => {
    out.key(key, FLOAT).f32(value);
    count++;
  };
  const no = (key) => {
    out.key(key, BOOL).raw(Buffer.from([0]));
    count++;
  };
  text("general.architecture", architecture);
  text("general.name", `random ${name}`);
  // The contents alone, for benchmarks of conversations.
  text("tokenizer.chat_template", "{% for message in messages %}{{ message.content }}{% endfor %}");
  number(`${architecture}.block_count`, shape.layers);
  number(`${architecture}.context_length`, 8192);
  number(`${architecture}.embedding_length`, shape.width);
  number(`${architecture}.feed_forward_length`, shape.feedForward);
  number(`${architecture}.attention.head_count`, shape.heads);
  number(`${architecture}.attention.head_count_kv`, shape.kvHeads);
  number(`${architecture}.rope.dimension_count`, shape.headSize);
  float(`${architecture}.rope.freq_base`, 100000);
  float(`${architecture}.attention.layer_norm_rms_epsilon`, 1e-5);
  text("tokenizer.ggml.model", "llama");
  no("tokenizer.ggml.add_bos_token");
  no("tokenizer.ggml.add_space_prefix");
  const tokens = ["<unk>", "<s>", "</s>"];
  for (let i = 0; i < 256; i++) tokens.push(`<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  for (let i = 0; i < CHARACTERS; i++) tokens.push(String.fromCodePoint(FIRST_CHARACTER + i));
  while (tokens.length < shape.vocabulary) tokens.push(`▁w${tokens.length}`);
  out.key("tokenizer.ggml.tokens", ARRAY).u32(STRING).u64(tokens.length);
  tokens.forEach((token) => out.string(token));
  out.key("tokenizer.ggml.scores", ARRAY).u32(FLOAT).u64(tokens.length);
  out.raw(Buffer.from(Float32Array.from(tokens, (_, i) => -i).buffer));
  out.key("tokenizer.ggml.token_type", ARRAY).u32(I32).u64(tokens.length);
  out.raw(Buffer.from(Int32Array.from(tokens, (_, i) => (i === 0 ? 2 : i < 3 ? 3 : i < FIRST_ID ? 6 : 1)).buffer));
  number("tokenizer.ggml.bos_token_id", 1);
  number("tokenizer.ggml.eos_token_id", 2);
  return { bytes: out.done(), count: count + 3 };
}

/** Multiplications of a token by type of matrix: in all layers, and for its scores. */
export function multiplications(shapeName, typeName) {
  const shape = SHAPES[shapeName];
  const counts = {};
  for (const { name, dimensions, type } of tensors(shape, typeName)) {
    if (type === F32 || (name === "token_embd.weight" && !shape.tied)) continue;
    const [key] = Object.entries(TYPES).find(([, other]) => other === type);
    const count = (counts[key] ??= { layers: 0, scores: 0 });
    count[name.startsWith("blk.") ? "layers" : "scores"] += dimensions[0] * dimensions[1];
  }
  return counts;
}

const size = ({ dimensions, type }) => (dimensions.reduce((a, b) => a * b) / type.elements) * type.bytes;
const padded = (bytes) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Writes a model to `path` and gives the bytes of weights that a token reads. */
export function writeRandomModel(path, shapeName, typeName) {
  const shape = SHAPES[shapeName];
  if (!shape || !(typeName in TYPES || typeName === "Q4_K_M")) {
    throw new Error(
      `unknown model ${shapeName} ${typeName}; known: ${Object.keys(SHAPES)} in ${Object.keys(TYPES)},Q4_K_M`,
    );
  }
  const list = tensors(shape, typeName);
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
    const { type } = tensor;
    const data = Buffer.alloc(padded(size(tensor)));
    if (type === F32) {
      new Float32Array(data.buffer, data.byteOffset, tensor.dimensions[0]).fill(tensor.value);
    } else if (type === TYPES.F16) {
      for (let i = 0; i < data.length; i += 2) data.writeUInt16LE((next() & 0x8fff) | 0x2000, i);
    } else {
      const words = new Uint32Array(data.buffer, data.byteOffset, data.length >> 2);
      for (let i = 0; i < words.length; i++) words[i] = next();
      for (let block = 0; block + type.bytes <= size(tensor); block += type.bytes) {
        for (const at of type.scales) data.writeUInt16LE(SCALE, block + at);
      }
    }
    if (tensor.scores) data.fill(0, 0, (size(tensor) / tensor.dimensions[1]) * FIRST_ID);
    writeSync(file, data);
  }
  closeSync(file);
  return list.filter((t) => t.type !== F32).reduce((sum, t) => sum + size(t), 0);
}
