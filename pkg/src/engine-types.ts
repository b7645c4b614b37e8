/** What the engine says. Made from Rust's types by `src/typescript.rs`, which a test compares: do not edit. */

import type { ErrorCode } from "./errors.js";

/**
 * A report to the one who waits. Over one load the bytes never go backwards, and their total stays what it is once it is
 * known: see `Steady`.
 */
export type LoadProgress = {
  /** What is going on. */
  stage: "download" | "compile" | "load" | "ready";
  /** The file's name; of a split model the first one's. */
  file: string;
  /** Bytes of the model's files that are done with. */
  loaded: number;
  /** Bytes of all its files; 0 while nobody knows. */
  total: number;
  /** 0 to 1. */
  progress: number;
  /** Mean since the start; what was there before does not count. */
  bytesPerSecond: number;
  /** Seconds left at that speed; absent until it is known. */
  etaSeconds?: number;
  /** How far the GPU's kernels are, while they are compiled. */
  kernels?: {
    /** Those that are ready. */
    compiled: number;
    /** All that the model needs. */
    total: number;
  };
  /** Why this is not the first time: a GPU that failed or was lost. */
  restarted?: string;
};

/** A model and where it runs. */
export type ModelInfo = {
  /** The model's own name, or the file's. */
  name: string;
  /** As in the file: `llama`. */
  architecture: string;
  /** Weights, in numbers. */
  parameters: number;
  /** The type that holds most of them: `Q4_K`. */
  quantization: string;
  /** Bytes. */
  fileSize: number;
  /** Tokens that prompt and answer may take together. */
  contextLength: number;
  /** Why these are fewer than the maximum that was asked for. */
  contextNote?: string;
  /** Tokens that the model was trained for. */
  trainedContextLength: number;
  /** Width of the residual stream. */
  embeddingLength: number;
  /** Decoder layers. */
  layers: number;
  /** Query heads. */
  heads: number;
  /** Key and value heads. */
  kvHeads: number;
  /** Tokens. */
  vocabularySize: number;
  /** `model`, or `named:…`; absent for models that only continue text. */
  chatTemplate?: string;
  /** `cpu` or `gpu`. */
  device: "cpu" | "gpu";
  /** Why that one. */
  deviceReason: string;
  /** Threads of the CPU, where that is the device. */
  threads?: number;
  /** The GPU, where that is the device. */
  gpu?: GPUInfo;
  /** How often the model came back after its GPU was lost. */
  recoveries: number;
  /** Bytes on the device. */
  memory: {
    /** All tensors, as the device has them. */
    weights: number;
    /** Keys and values for the whole context. */
    kvCache: number;
  };
  /** What in the file is wrong, and was passed over. */
  warnings: Array<string>;
};

/** What a model is, and what it needs and would be on this machine. No more of the file than its header is read. */
export type FileInspection = {
  /** The model's own name, or the file's. */
  name: string;
  /** As in the file: `llama`. */
  architecture: string | null;
  /** Weights, in numbers. */
  parameters: number;
  /** The type that holds most of them: `Q4_K`. */
  quantization: string;
  /** The file's name; of a split model the first one's. */
  file: string;
  /** Bytes of all its files. */
  fileSize: number;
  /** How many there are. */
  tensors: number;
  /** Tokens of context that a load makes room for, on the device that has the verdict. */
  contextLength: number | null;
  /** Why these are fewer than the maximum that was asked for. */
  contextNote?: string;
  /** Tokens that the model was trained for. */
  trainedContextLength: number | null;
  /** Width of the residual stream. */
  embeddingLength: number | null;
  /** Decoder layers. */
  layers: number | null;
  /** Tokens. */
  vocabularySize: number;
  /** `model`, or `named:…`; nothing for models that only continue text. */
  chatTemplate: string | null;
  /** Why the file cannot be run at all, where it cannot; then the verdict is "does not fit". */
  unsupported: string | null;
  /** What in the file is wrong, and is passed over. */
  warnings: Array<string>;
  /** The best of the devices' verdicts. */
  verdict: Verdict;
  /** The device that has it, the fastest of those: `cpu` or `gpu`. */
  device: "cpu" | "gpu" | null;
  /** Tokens a second of an answer there, at most. */
  predictedPerSecond: number | null;
  /** What it needs, on each device that was asked for and is here. */
  devices: Array<DeviceEstimate>;
};

/** Of one device. */
export type DeviceEstimate = {
  /** `cpu` or `gpu`. */
  device: "cpu" | "gpu";
  /** Tokens of context that the numbers are for. */
  contextLength: number;
  /** Bytes of all tensors, as the device has them. */
  weights: number;
  /** Bytes of keys and values. */
  kvCache: number;
  /** Bytes of everything else, about: activations, logits, pieces of the file while it loads. */
  working: number;
  /** Bytes, together. */
  total: number;
  /**
   * Bytes that a model can have, where the system or the browser says so. In a page a guess: three quarters of
   * `navigator.deviceMemory`, less on phones, and on the CPU at most the 4 GiB of WebAssembly.
   */
  available?: number;
  /** Fits, tight, or not. */
  verdict: Verdict;
  /** Why not, where it is not for memory. */
  reason?: string;
  /**
   * Tokens a second of an answer, at most: every token reads all weights, at the speed measured with matrices of
   * the model's main type. Attention over a long context comes on top.
   */
  predictedPerSecond?: number;
};

/** Whether a model can run here. */
export type Verdict = "fits" | "tight" | "does not fit" | "unknown";

/** Token counts in OpenAI's terms. */
export type Usage = {
  /** Of the prompt. */
  prompt_tokens: number;
  /** Of all answers. */
  completion_tokens: number;
  /** Both. */
  total_tokens: number;
  /** Where some of the prompt needed no work. */
  prompt_tokens_details: {
    /** Tokens that were still in the KV cache. */
    cached_tokens: number;
    /**
     * Messages that were left out of it, where the oldest turns go when there is no room for them. Not sent where
     * it is 0.
     */
    dropped_messages?: number;
  };
};

/** Speed of an answer. Times are wall-clock, without waiting for the caller. */
export type Timings = {
  /** Prompt tokens that went through the model. */
  prompt_n: number;
  /** Tokens a second. */
  prompt_per_second: number;
  /** Tokens generated. */
  predicted_n: number;
  /** Tokens a second, after the first; 0 where there was but one. */
  predicted_per_second: number;
  /** Milliseconds from when it was asked, waiting for room included. */
  time_to_first_token_ms: number;
};

/** Why an answer ended. */
export type FinishReason = "stop" | "length" | "tool_calls" | "content_filter";

/** A GPU and how it is used, for people. */
export type GPUInfo = {
  /** The adapter's name. */
  adapter: string;
  /** `vulkan`, `metal`, `dx12` or `webgpu`. */
  backend: string;
  /** Optional features of the device that are on. */
  features: Array<string>;
  /** Which variants of the kernels run. */
  variants: Array<string>;
  /** Types of weights that take more room than in the file, in words: `Q3_K as Q6_K`. Nothing is rounded. */
  wider: Array<string>;
  /** Pipelines that are made. */
  pipelines: number;
  /** Every kernel is compared with the CPU when a model first meets a GPU: what that found, where it was done. */
  selfTest?: {
    /** The result is that of an earlier test. */
    cached: boolean;
    /** Variants that gave wrong numbers and are not used. */
    off: Array<{
      /** Which. */
      variant: GPUFeature;
      /** What it did. */
      reason: string;
    }>;
    /** Why the device cannot be used at all. */
    failure?: string;
    /** Milliseconds that pipelines and test took. */
    milliseconds: number;
  };
};

/** A fast way of doing that has a safer one beside it. */
export type GPUFeature = "subgroups" | "f16" | "half" | "dp4a";

/** What one kernel of a device has cost. */
export type KernelTime = {
  /** With the variant's constants. */
  kernel: string;
  /** Dispatches measured. */
  calls: number;
  /** Over all of them. Browsers round each to 100 µs, unless they were started for developers. */
  nanoseconds: number;
};

/** Tokens of the prompt. */
export type PromptProgress = {
  /** In all. */
  total: number;
  /** So far. */
  processed: number;
};

/** Where an answer comes from, and why from there. */
export type Origin = {
  /** On this device or elsewhere. */
  ran: "local" | "remote";
  /** The device (`cpu`, `gpu`), or the name of the hosted provider. */
  provider: string;
  /** Which model. */
  model: string;
  /** Why there. */
  reason: string;
  /** Requests that were made for it; 0 where it was in the cache. */
  attempts: number;
  /** Milliseconds of waiting between them. */
  waited_ms?: number;
  /** Given before, to the same request. */
  cached?: boolean;
  /** US dollars, where the price is known. On the last chunk. */
  cost?: number;
  /** What repeats the answer, with the same request and device; where JavaScript's numbers hold it. */
  seed?: number;
};

/** What is told of an attempt that failed, before the next one. */
export type Retry = {
  /** The attempt that failed, from 1. */
  attempt: number;
  /** Milliseconds until the next. */
  wait_ms: number;
  /** Why it failed: an error's code. */
  code: ErrorCode;
  /** The same for people. */
  message: string;
};

/** A model that the store has, or has begun to fetch. */
export type CachedModel = {
  /** As one types it: `owner/repo/file.gguf`; of files at plain addresses the last part, which other addresses may have too. */
  model: string;
  /** The commit's 40 hex digits; of a file at a plain address those of this version there, and of no other. */
  commit: string;
  /** Bytes of all parts. */
  size: number;
  /** Bytes that are there. */
  stored: number;
  /** All of it is there, and verified. */
  complete: boolean;
  /** Seconds since 1970. */
  lastUsed: number;
};

/** What `Models::verify` says. */
export type ModelVerdict = "right" | "wrong" | "incomplete" | "unknown";

/** A session in a store. */
export type StoredSession = {
  /** Its name. */
  name: string;
  /** Bytes. */
  size: number;
  /** Seconds since 1970. */
  lastUsed: number;
};

/** What a model can do, as far as it is known. */
export type Capabilities = {
  /** Answers come in parts. */
  streaming: boolean;
  /**
   * It calls tools. Models on this device do not: templates may show them tools, but nothing reads calls out of what
   * they write.
   */
  tools: boolean | null;
  /** It sees pictures. */
  vision: boolean | null;
  /** Answers can be held to JSON, or to a schema. */
  json: boolean | null;
  /** It turns texts into vectors. */
  embeddings: boolean | null;
  /** Tokens of prompt and answer together. */
  context: number | null;
};

/** How one of them did. */
export type Comparison = {
  /** Its name. */
  model: string;
  /** Who runs it. */
  provider: string;
  /** Where. */
  ran: "local" | "remote";
  /** What it said, also before it failed. */
  text: string;
  /** Milliseconds to the end. */
  milliseconds: number;
  /** Milliseconds to the first text. */
  first_token_ms: number | null;
  /** Tokens, where they were counted. */
  usage: Usage | null;
  /** Why it ended. */
  finish_reason: FinishReason | null;
  /** The code of what went wrong. */
  error: ErrorCode | null;
  /** The same for people. */
  message: string | null;
  /** Where the answer comes from. */
  candlewick: Origin | null;
};

/** A class and how likely it is. */
export type Label = {
  /** As the model names it. */
  label: string;
  /** From 0 to 1. */
  score: number;
};

/** What was spent. */
export type Totals = {
  /** Answers begun. */
  requests: number;
  /** Tokens of prompts. */
  promptTokens: number;
  /** Tokens of answers. */
  completionTokens: number;
  /** US dollars for those whose price is known. */
  dollars: number;
  /** Answers whose price is not known. */
  unpriced: number;
  /** Answers whose tokens were not counted by their host: those numbers are from their characters. */
  estimated: number;
};
