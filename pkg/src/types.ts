/** The OpenAI shapes, with the sampling fields that local engines know and OpenAI does not. */

import type { FileName, TrustedScriptURL } from "./compile.js";
import type {
  CachedModel,
  FileInspection,
  FinishReason,
  GPUFeature,
  LoadProgress,
  ModelInfo,
  ModelVerdict,
  Origin,
  PromptProgress,
  Retry,
  Timings,
  Totals,
  Usage,
} from "./engine-types.js";
import type { ErrorCode } from "./errors.js";

// What the engine says; derived from its own types.
export type * from "./engine-types.js";

export type Device = "auto" | "cpu" | "gpu";

// Requests

export interface TextPart {
  type: "text";
  text: string;
}

/** A picture, for hosted models that see. */
export interface ImagePart {
  type: "image_url";
  /** An address, or a `data:` URL. */
  image_url: { url: string; detail?: "auto" | "low" | "high" | undefined };
}

/** Sound, for hosted models that hear. */
export interface AudioPart {
  type: "input_audio";
  input_audio: { data: string; format: "wav" | "mp3" };
}

/** A file, for hosted models that read such. */
export interface FilePart {
  type: "file";
  file: { file_data?: string | undefined; file_id?: string | undefined; filename?: string | undefined };
}

/** Of an assistant's message: why it did not answer. */
export interface RefusalPart {
  type: "refusal";
  refusal: string;
}

export type ContentPart = TextPart | ImagePart | AudioPart | FilePart | RefusalPart;

export interface ToolCall {
  id: string;
  type: "function";
  /** `arguments` is JSON. */
  function: { name: string; arguments: string };
}

/** OpenAI's calls of tools that take text instead of JSON; for hosted models. */
export interface CustomToolCall {
  id: string;
  type: "custom";
  custom: { name: string; input: string };
}

/** OpenAI's messages, all roles in one. `function` is OpenAI's older name for `tool`. */
export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant" | "tool" | "function";
  content?: string | ContentPart[] | null | undefined;
  name?: string | undefined;
  tool_calls?: (ToolCall | CustomToolCall)[] | undefined;
  tool_call_id?: string | undefined;
  refusal?: string | null | undefined;
  audio?: { id: string } | null | undefined;
  function_call?: { name: string; arguments: string } | null | undefined;
}

export interface FunctionTool {
  type: "function";
  function: {
    name: string;
    description?: string | undefined;
    parameters?: Record<string, unknown> | undefined;
    strict?: boolean | null | undefined;
  };
}

export interface CustomTool {
  type: "custom";
  custom: { name: string; description?: string | undefined; format?: object | undefined };
}

export type Tool = FunctionTool | CustomTool;

/** What form the answer has. */
export type ResponseFormat =
  | { type: "text" | "json_object" }
  | {
      type: "json_schema";
      json_schema: {
        name: string;
        description?: string | undefined;
        schema?: Record<string, unknown> | undefined;
        strict?: boolean | null | undefined;
      };
    };

/** Whether tools are called, and which. */
export type ToolChoice =
  | "none"
  | "auto"
  | "required"
  | { type: "function"; function: { name: string } }
  | { type: "custom"; custom: { name: string } }
  | { type: "allowed_tools"; allowed_tools: { mode: "auto" | "required"; tools: Record<string, unknown>[] } };

/** Applied in this order: penalties, `top_k`, `typical_p`, `top_p`, `min_p`, `temperature`, and a seeded draw. */
export interface SamplingParams {
  /** 0 takes the most likely token every time. */
  temperature?: number | null | undefined;
  /** Keep the most likely tokens that together reach this probability. */
  top_p?: number | null | undefined;
  /** Keep this many tokens; 0 keeps all. */
  top_k?: number | null | undefined;
  /** Drop tokens less likely than this share of the most likely one. */
  min_p?: number | null | undefined;
  typical_p?: number | null | undefined;
  /** Above 1 discourages tokens seen among the last `repeat_last_n`. */
  repeat_penalty?: number | null | undefined;
  repeat_last_n?: number | null | undefined;
  presence_penalty?: number | null | undefined;
  frequency_penalty?: number | null | undefined;
  /** Token id → number added to its logit. */
  logit_bias?: Record<string, number> | null | undefined;
  /** The same seed, request and device give the same answer. */
  seed?: number | null | undefined;
  /** Choices get the ids of their tokens, as `tokens`. Of models on this device. */
  return_tokens?: boolean | null | undefined;
  max_tokens?: number | null | undefined;
  stop?: string | string[] | null | undefined;
  /** Number of answers, each with the next seed; their chunks come by turns. */
  n?: number | null | undefined;
  /** Go on where the model would end the answer: for measuring. */
  ignore_eos?: boolean | undefined;
  /**
   * What to do with a prompt longer than the context: fail (the default), cut out its middle, or leave out a conversation's
   * oldest turns. What the system said at its beginning stays then, and so does the last turn;
   * `usage.prompt_tokens_details.dropped_messages` says how many messages went.
   */
  truncate?: "error" | "middle" | "oldest" | undefined;
  /** Accepted for compatibility; the engine has one model. */
  model?: string | undefined;
}

/**
 * What OpenAI's servers know beside that. Hosted models get it as it is. On this device `reasoning_effort` goes to the chat
 * template; some fields change nothing, and others are refused with `invalid_argument`.
 */
export interface HostedParams {
  audio?: object | null | undefined;
  function_call?: "none" | "auto" | { name: string } | null | undefined;
  functions?:
    | { name: string; description?: string | undefined; parameters?: Record<string, unknown> | undefined }[]
    | null
    | undefined;
  logprobs?: boolean | null | undefined;
  top_logprobs?: number | null | undefined;
  metadata?: Record<string, string> | null | undefined;
  modalities?: ("text" | "audio")[] | null | undefined;
  parallel_tool_calls?: boolean | null | undefined;
  prediction?: object | null | undefined;
  prompt_cache_key?: string | null | undefined;
  prompt_cache_retention?: string | null | undefined;
  reasoning_effort?: string | null | undefined;
  safety_identifier?: string | null | undefined;
  service_tier?: string | null | undefined;
  store?: boolean | null | undefined;
  user?: string | null | undefined;
  verbosity?: string | null | undefined;
  web_search_options?: object | null | undefined;
}

export interface StreamParams {
  stream?: boolean | null | undefined;
  /** `include_usage` appends a chunk without choices that holds `usage` and `timings`. */
  stream_options?:
    { include_usage?: boolean | undefined; include_obfuscation?: boolean | undefined } | null | undefined;
}

/** What the text of a prompt is made from. */
export interface PromptParams {
  messages: ChatMessage[];
  tools?: Tool[] | null | undefined;
  /** End with the header of an assistant's turn. Default: true. */
  add_generation_prompt?: boolean | undefined;
  /** Go on with the last assistant message instead of starting a turn. */
  continue_final_message?: boolean | undefined;
  /** Passed to the model's template, for example `{ enable_thinking: false }`. */
  chat_template_kwargs?: Record<string, unknown> | undefined;
}

/** A conversation so far. */
export type ConversationParams = Pick<PromptParams, "messages" | "tools" | "chat_template_kwargs">;

export interface ChatParams extends PromptParams, SamplingParams, StreamParams, HostedParams {
  max_completion_tokens?: number | null | undefined;
  /** Hosted models alone give JSON; models on this device refuse what is not text. */
  response_format?: ResponseFormat | null | undefined;
  /** For hosted models: those on this device see the tools, but nothing reads calls out of what they write. */
  tool_choice?: ToolChoice | null | undefined;
}

export interface CompletionParams extends SamplingParams, StreamParams {
  /** Text, or token ids; or a list of either, each with answers of its own. */
  prompt: string | string[] | number[] | number[][] | null;
  /** Give the prompt back in front of the text. */
  echo?: boolean | null | undefined;
  best_of?: number | null | undefined;
  logprobs?: number | null | undefined;
  suffix?: string | null | undefined;
  user?: string | undefined;
}

// Answers

/** A request to a hosted model, or for a model's file, failed and is made again. */
export interface Retrying extends Retry {
  /** Of several models that are compared: which one. */
  model?: string;
  /** Who has that one. */
  provider?: string;
}

/** The probabilities of a token, as hosted models tell them: natural logarithms. */
export interface TokenLogprob {
  token: string;
  bytes: number[] | null;
  logprob: number;
}

/** Of hosted models only. */
export interface ChatLogprobs {
  content: (TokenLogprob & { top_logprobs: TokenLogprob[] })[] | null;
  refusal: (TokenLogprob & { top_logprobs: TokenLogprob[] })[] | null;
}

/** Of hosted models only. */
export interface CompletionLogprobs {
  text_offset?: number[];
  token_logprobs?: number[];
  tokens?: string[];
  top_logprobs?: { [token: string]: number }[];
}

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  created: number;
  model: string;
  choices: {
    index: number;
    message: {
      role: "assistant";
      content: string | null;
      refusal: string | null;
      reasoning_content?: string;
      tool_calls?: ToolCall[];
    };
    logprobs: ChatLogprobs | null;
    /** With `return_tokens`: the answer's ids. */
    tokens?: number[];
    finish_reason: FinishReason;
  }[];
  usage: Usage;
  timings?: Timings;
  candlewick?: Origin;
}

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  choices: {
    index: number;
    delta: {
      role?: "assistant";
      content?: string | null;
      refusal?: string | null;
      reasoning_content?: string;
      tool_calls?: {
        index: number;
        id?: string;
        type?: "function";
        function?: { name?: string; arguments?: string };
      }[];
    };
    logprobs: ChatLogprobs | null;
    finish_reason: FinishReason | null;
  }[];
  usage?: Usage | null;
  timings?: Timings;
  /** On the first chunk that says something, and on the last. */
  candlewick?: Origin;
}

/**
 * Whole, and each chunk of a stream. As in OpenAI's types, and as little true there: in all chunks but a choice's last,
 * `finish_reason` is null.
 */
export interface Completion {
  id: string;
  object: "text_completion";
  created: number;
  model: string;
  choices: {
    index: number;
    text: string;
    logprobs: CompletionLogprobs | null;
    /** With `return_tokens`: the answer's ids. */
    tokens?: number[];
    finish_reason: "stop" | "length" | "content_filter";
  }[];
  usage?: Usage;
  timings?: Timings;
  /** On the first chunk that says something, and on the last. */
  candlewick?: Origin;
}

// The engine

export interface EngineInfo extends ModelInfo {
  /** The WebAssembly file that runs, and why not another one. */
  wasm: FileName;
  wasmReason: string;
}

/** A hosted model in the place of a local one. */
export interface RemoteInfo {
  name: string;
  device: "remote";
  provider: string;
  /** Why no local model. */
  deviceReason: string;
  /** The WebAssembly file that makes the requests, and why that one. */
  wasm: FileName;
  wasmReason: string;
}

export interface GPUOptions {
  /** What to do without. */
  disable?: GPUFeature[] | undefined;
  /** `device: "auto"` takes a renderer in software too; for tests. */
  software?: boolean | undefined;
  /** What `device: "auto"` shall find when it measures whether the GPU is faster; for tests. */
  faster?: boolean | undefined;
  /** Name of the Cache that keeps the results of self-tests. Default: `"candlewick-gpu"`. */
  cache?: string | undefined;
}

/** A hosted model and who has it. */
export interface RemoteModel {
  /** OpenAI's interface, relative to the page or absolute. Default: Hugging Face's router. */
  baseURL?: string | URL | undefined;
  /** For example `"org/name"`, on Hugging Face also `"org/name:provider"`. */
  model: string;
  /** Everybody who opens the page can read it: keep tokens on a server, and let `baseURL` point there. */
  token?: string | undefined;
  /** `baseURL` is a relay to Hugging Face's router, its tasks included. */
  hfInference?: boolean | undefined;
  /** What answers call it. */
  name?: string | undefined;
  billTo?: string | undefined;
  headers?: Record<string, string> | undefined;
  /** Fields of every request's body, where it does not have them itself. `null` takes a field out, such as `stream_options`. */
  extraBody?: Record<string, unknown> | undefined;
  /** Milliseconds, but for `attempts`. `timeout` is for everything: attempts, waits, and the answer to its end. */
  retry?:
    | {
        attempts?: number | undefined;
        base?: number | undefined;
        cap?: number | undefined;
        loading?: number | undefined;
        timeout?: number | undefined;
      }
    | undefined;
  /** Requests beyond it fail with `resource_exhausted`. */
  budget?: { dollars?: number | undefined; tokens?: number | undefined; requests?: number | undefined } | undefined;
  /** US dollars for a million tokens, by model; before what the list of models says. */
  prices?: Record<string, { input: number; output: number }> | undefined;
}

export interface RemoteOptions extends RemoteModel {
  /** `"needed"` (the default): where no local model can answer. `"always"`: no local model is even loaded. */
  when?: "never" | "needed" | "always" | undefined;
  /** More hosted models, for when this one fails. */
  fallbacks?: RemoteModel[] | undefined;
  /** Milliseconds to wait for a first token before the next model is asked. */
  firstTokenMs?: number | undefined;
  /** Bytes that a local model may take, weights and KV cache. */
  maxMemory?: number | undefined;
  /** Tokens of an answer in a second that the CPU must promise, where there is no GPU for the model. Measured while loading. */
  minTokensPerSecond?: number | undefined;
  /**
   * Answers to requests with a seed or temperature 0 are kept: milliseconds, bytes, whether others are kept too, and
   * whether they stay in the browser's storage when the page is gone.
   */
  cache?:
    | boolean
    | {
        ttlMs?: number | undefined;
        maxBytes?: number | undefined;
        random?: boolean | undefined;
        persist?: boolean | undefined;
      }
    | undefined;
}

/** What was spent on a hosted model's provider. */
export interface Spent {
  model: string;
  provider: string;
  totals: Totals;
}

/** A text's vector, of length 1 where it was made here; or why it has none. */
export type Embedding = { embedding: number[] } | { code: ErrorCode; message: string };

/** A request for vectors. */
export interface EmbeddingParams {
  /** A text or several; for a model on this device also token ids. */
  input: string | string[] | number[] | number[][];
  /** As in OpenAI's interface; the model that was loaded answers. */
  model?: string | undefined;
  /** Default: `"float"`. */
  encoding_format?: "float" | "base64" | null | undefined;
  user?: string | undefined;
  /** Keeps so many numbers of each vector, for models trained so. Default: all. */
  dimensions?: number | null | undefined;
  /** Read only the beginning of a text that is too long for a model on this device. Default: it fails. */
  truncate?: boolean | null | undefined;
}

/** The vectors of a request, in its order: base64 of little-endian 32-bit floats where that was asked for. */
export interface EmbeddingList<Vector = number[]> {
  object: "list";
  data: { object: "embedding"; index: number; embedding: Vector }[];
  model: string;
  /** Tokens; 0 where a host did not count them. */
  usage: { prompt_tokens: number; total_tokens: number };
  candlewick: Origin;
}

export interface EmbedOptions extends RequestOptions {
  /** Another model of the first hosted one's provider. */
  model?: string | undefined;
  /** Keeps so many numbers of each vector, for models trained so. Default: all. */
  dimensions?: number | undefined;
  /** Read only the beginning of a text that is too long for a model on this device. Default: it fails. */
  truncate?: boolean | undefined;
}

export interface TaskOptions {
  /** For example `"facebook/bart-large-cnn"`. By default the hosted model that was loaded. */
  model?: string | undefined;
  /** The task's own, such as `max_length` or `num_inference_steps`; they go to the server as they are. */
  parameters?: Record<string, unknown> | undefined;
  signal?: AbortSignal | undefined;
  /** Called when the host will be asked again. */
  onRetry?: ((retry: Retrying) => void) | undefined;
}

/** Sides in pixels; `aspectRatio` (`"16:9"`) gives the one that is missing. The same seed repeats a picture. */
export interface PictureOptions extends TaskOptions {
  width?: number | undefined;
  height?: number | undefined;
  aspectRatio?: string | undefined;
  seed?: number | undefined;
}

/** How models are found by name, and what is kept of them. */
export interface HubOptions {
  /** For private and gated models. It goes to the Hub and nowhere else, and is not kept. */
  token?: string | undefined;
  /** A mirror of the Hub. Default: `https://huggingface.co`. */
  hubURL?: string | URL | undefined;
  /** Where the Worker's script is, when a bundler or a CDN has moved it. */
  workerURL?: string | URL | TrustedScriptURL | undefined;
  /** Where the WebAssembly file is, when a bundler or a CDN has moved it. */
  wasmURL?: string | URL | undefined;
  /** The same for the file with threads. Without it, a page that gives `wasmURL` has no threads. */
  threadsWasmURL?: string | URL | undefined;
  /** The same for the file with threads that browsers without relaxed SIMD run, such as Safari. */
  threadsPlainWasmURL?: string | URL | undefined;
  signal?: AbortSignal | undefined;
  /** Called when the Hub, or a file's server, did not answer as it should and will be asked again. */
  onRetry?: ((retry: Retrying) => void) | undefined;
  /** @internal For tests: small pieces, little patience. */
  transfer?: object | undefined;
}

/** Bytes. `used` and `quota` are the browser's estimates for everything of this origin; absent where it gives none. */
export interface StorageUsage {
  models: number;
  used?: number;
  quota?: number;
}

export interface VerifiedModel {
  model: string;
  commit: string;
  /** `"unknown"`: its server told no hash. `"wrong"`: load it with `force`. */
  verdict: ModelVerdict;
}

/**
 * Tokens of context: so many, or an error; or at most so many, `"max"` being no limit: then as many as the model was trained
 * for and memory allows.
 */
export type ContextLength = number | "max" | { max: number };

export interface LoadOptions extends HubOptions {
  /** `false` keeps nothing: the weights go from the Hub to the device, unverified. Default: `true`. */
  cache?: boolean | undefined;
  /** Bytes for all models. Those not used for longest make room. Default: what the browser allows, and nothing makes room. */
  cacheBudget?: number | undefined;
  /** Fetch it anew, whatever is there. */
  force?: boolean | undefined;
  /** Default: `"auto"`. */
  device?: Device | undefined;
  /** Tokens of context to make room for. Default: what the model was trained for, at most 4096. */
  contextLength?: ContextLength | undefined;
  /** Threads of the CPU, from 1 to 64; more than 1 need a cross-origin isolated page. Default: measured. */
  /** Keys and values on the CPU: `"8bit"` takes a quarter of the room, at some loss. GPUs keep them in 16 bits. Default: `"full"`. */
  kvCache?: "full" | "8bit" | undefined;
  threads?: number | undefined;
  /**
   * Whether the CPU takes over where the GPU fails, while loading or by being lost again and again. Default: with
   * `device: "auto"`.
   */
  fallback?: boolean | undefined;
  gpu?: GPUOptions | undefined;
  /** Measure what each of the device's kernels costs, for `engine.profile()`. Slows everything down. */
  profile?: boolean | undefined;
  /** Called while the model loads, and again when its GPU was lost and it comes back (`progress.restarted` says why). */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Hosted models. Absent: nothing but the model's name leaves the device. */
  remote?: RemoteOptions | undefined;
}

/** For an engine without a local model. */
export type ConnectOptions = Pick<
  LoadOptions,
  "signal" | "workerURL" | "wasmURL" | "threadsWasmURL" | "threadsPlainWasmURL"
>;

export interface InspectOptions extends HubOptions {
  /** Default: `"auto"`, the CPU and the GPU where there is one. */
  device?: Device | undefined;
  /** Tokens of context to reckon with. Default: what `load()` makes room for. */
  contextLength?: ContextLength | undefined;
  /** Threads of the CPU. Default: measured. */
  threads?: number | undefined;
  gpu?: GPUOptions | undefined;
}

export type PullOptions = HubOptions & Pick<LoadOptions, "force" | "cacheBudget" | "onProgress">;

export type VerifyOptions = HubOptions & Pick<LoadOptions, "onProgress">;

/** What a model is and needs. `null`: the file does not say. */
export interface Inspection extends FileInspection {
  /** What the browser's storage has of it; absent for files, which are not kept. */
  cached?: CachedModel;
}

export interface RequestOptions {
  signal?: AbortSignal | undefined;
  /** Called while a long prompt is being read. */
  onPromptProgress?: ((progress: PromptProgress) => void) | undefined;
  /** Called when a hosted model will be asked again. */
  onRetry?: ((retry: Retrying) => void) | undefined;
}

export interface PinOptions extends RequestOptions {
  /** Whether it stays in the browser's storage, too. */
  persist?: boolean | undefined;
}
