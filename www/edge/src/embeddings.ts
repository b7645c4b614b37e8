/** `/v1/embeddings` over whatever the upstream has, in the encoding that was asked for. */
import type { Body } from "./body";
import { Refusal } from "./errors";
import { PATH_NAME, root, type Settings } from "./settings";
import { ask } from "./upstream";

export interface EmbeddingList {
  object: "list";
  data: { object: "embedding"; index: number; embedding: number[] | string }[];
  model: string;
  usage: { prompt_tokens: number; total_tokens: number };
}

export async function embeddings(body: Body, settings: Settings): Promise<Response> {
  const list = settings.huggingFace ? await extractFeatures(body, settings) : await relayed(body, settings);
  return Response.json(encode(list, body.encoding_format));
}

/** OpenAI's clients ask for base64 of little-endian floats by themselves, which not every server knows. */
export function encode(list: EmbeddingList, format: unknown): EmbeddingList {
  if (format !== "base64") return list;
  const data = list.data.map((entry) => {
    if (typeof entry.embedding === "string") return entry;
    const bytes = new Uint8Array(Float32Array.from(entry.embedding).buffer);
    return { ...entry, embedding: btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")) };
  });
  return { ...list, data };
}

/** The texts of a request. */
export function texts({ input }: Body): string[] {
  const list = typeof input === "string" ? [input] : input;
  const good = Array.isArray(list) && list.length > 0 && list.every((text) => typeof text === "string");
  if (!good) throw new Refusal(400, "invalid_argument", "input must be a text or a list of texts.");
  return list;
}

/** `{data: …}` from a list of vectors. */
export function embeddingList(model: string, vectors: number[][]): EmbeddingList {
  const data = vectors.map((embedding, index) => ({ object: "embedding" as const, index, embedding }));
  return { object: "list", data, model, usage: { prompt_tokens: 0, total_tokens: 0 } };
}

async function relayed(body: Body, settings: Settings): Promise<EmbeddingList> {
  const answer = await ask(`${settings.upstream}/embeddings`, { ...body, encoding_format: "float" }, settings);
  const list = await answer.json<Partial<EmbeddingList>>().catch(() => undefined);
  if (!Array.isArray(list?.data)) throw misshapen();
  const data = list.data.map((entry, index) => ({
    ...entry,
    object: "embedding" as const,
    index: entry.index ?? index,
  }));
  data.sort((a, b) => a.index - b.index);
  return { ...embeddingList(body.model, []), ...list, object: "list", data };
}

/** Hugging Face's router has them as the task of feature extraction. */
async function extractFeatures(body: Body, settings: Settings): Promise<EmbeddingList> {
  const inputs = texts(body);
  if (!new RegExp(`^${PATH_NAME}$`).test(body.model))
    throw new Refusal(400, "invalid_argument", 'model must be a name like "org/name".');
  const url = `${root(settings)}/hf-inference/models/${body.model}/pipeline/feature-extraction`;
  const vectors = await (await ask(url, { inputs }, settings)).json().catch(() => undefined);
  if (!Array.isArray(vectors) || vectors.length !== inputs.length) throw misshapen();
  return embeddingList(body.model, vectors.map(vector));
}

/** A vector, or the mean of one for each token. */
function vector(value: unknown): number[] {
  if (!Array.isArray(value) || value.length === 0) throw misshapen();
  if (value.every((number) => typeof number === "number")) return value;
  const rows = value.map(vector);
  if (rows.some((row) => row.length !== rows[0]!.length)) throw misshapen();
  return rows[0]!.map((_, at) => rows.reduce((sum, row) => sum + row[at]!, 0) / rows.length);
}

function misshapen(): Refusal {
  return new Refusal(502, "provider_error", "The provider's answer has no vector for each text.");
}
