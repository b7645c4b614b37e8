/** What the Worker was deployed with. Variables are texts; a wrong one fails every request, with its name in the message. */
import { Refusal } from "./errors";

export interface Env {
  /** The page's files. */
  ASSETS: Fetcher;
  RATE_LIMITER?: RateLimit;
  /** Where the files of local models are, if not among the page's. */
  MODELS?: R2Bucket;
  /** Workers AI, for models named `@cf/…`. */
  AI?: Ai;
  /** Secret: the token for the hosted models. */
  HF_TOKEN?: string;
  /** Secret: keys that let programs in, which have no origin; separated by commas. */
  CLIENT_KEYS?: string;
  UPSTREAM_URL?: string;
  HF_INFERENCE?: string;
  BILL_TO?: string;
  ALLOWED_ORIGINS?: string;
  ALLOWED_MODELS?: string;
  EMBEDDING_MODEL?: string;
  MAX_BODY_BYTES?: string;
  CACHE_SECONDS?: string;
  CACHE_RANDOM?: string;
  UPSTREAM_TIMEOUT_SECONDS?: string;
}

export interface Settings {
  /** Without an end. */
  upstream: string;
  /** Hugging Face's router, whose embeddings are a task of its own. */
  huggingFace: boolean;
  token: string | undefined;
  billTo: string | undefined;
  clientKeys: string[];
  origins: string[];
  /** Empty: all. */
  models: string[];
  /** The encoder that runs here: the name of its file, without the end. */
  embeddingModel: string | undefined;
  maxBodyBytes: number;
  cacheSeconds: number;
  /** Answers drawn at random are kept too. */
  cacheRandom: boolean;
  /** To the first byte of the upstream's answer. */
  timeoutMs: number;
}

const HUGGING_FACE = "https://router.huggingface.co/v1";

/** A model's name as it stands in a path, where nothing in it may lead elsewhere: `name` or `owner/name`. */
export const PATH_NAME = /(?:[\w-][\w.-]*\/)?[\w-][\w.-]*?/.source;

/** Where Hugging Face's tasks are: beside the interface that is OpenAI's. */
export function root({ upstream }: Settings): string {
  return upstream.replace(/\/v1$/, "");
}

export function settings(env: Env): Settings {
  const upstream = url("UPSTREAM_URL", env.UPSTREAM_URL || HUGGING_FACE);
  return {
    upstream,
    huggingFace: upstream === HUGGING_FACE || env.HF_INFERENCE === "true",
    token: env.HF_TOKEN?.trim() || undefined,
    billTo: env.BILL_TO?.trim() || undefined,
    clientKeys: list(env.CLIENT_KEYS),
    origins: list(env.ALLOWED_ORIGINS),
    models: list(env.ALLOWED_MODELS),
    embeddingModel: fileName("EMBEDDING_MODEL", env.EMBEDDING_MODEL),
    maxBodyBytes: count("MAX_BODY_BYTES", env.MAX_BODY_BYTES, 1 << 20),
    cacheSeconds: count("CACHE_SECONDS", env.CACHE_SECONDS, 3600),
    cacheRandom: env.CACHE_RANDOM === "true",
    timeoutMs: 1000 * count("UPSTREAM_TIMEOUT_SECONDS", env.UPSTREAM_TIMEOUT_SECONDS, 120),
  };
}

function list(text: string | undefined): string[] {
  return (text ?? "")
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
}

function count(name: string, text: string | undefined, otherwise: number): number {
  if (text === undefined || text.trim() === "") return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new Refusal(500, "internal", `The setting ${name} must be a number of 0 or more.`);
  return value;
}

function fileName(name: string, text: string | undefined): string | undefined {
  const file = text?.trim().replace(/\.gguf$/, "") || undefined;
  if (file === undefined || /^[\w][\w.-]*$/.test(file)) return file;
  throw new Refusal(
    500,
    "internal",
    `The setting ${name} must be the name of a file in models/, like all-MiniLM-L6-v2-Q8_0.`,
  );
}

function url(name: string, text: string): string {
  const wrong = new Refusal(500, "internal", `The setting ${name} must be an address like ${HUGGING_FACE}.`);
  try {
    const { protocol, username, search, hash } = new URL(text);
    if (!/^https?:$/.test(protocol) || username || search || hash) throw wrong;
  } catch {
    throw wrong;
  }
  return text.replace(/\/+$/, "");
}
