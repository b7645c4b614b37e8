/// <reference lib="esnext.disposable" preserve="true" />
import type { Connection } from "./connection.js";
import { CandlewickError } from "./errors.js";
import { fetchFrom } from "./fetch.js";
import { checkNames } from "./options.js";
import { checkName, heard, Session, type SessionOptions } from "./session.js";
import type { Stream } from "./stream.js";
import { Tasks } from "./tasks.js";
import type {
  Capabilities,
  ChatCompletion,
  ChatCompletionChunk,
  ChatParams,
  Comparison,
  Completion,
  CompletionParams,
  ConversationParams,
  Embedding,
  EmbeddingList,
  EmbeddingParams,
  EmbedOptions,
  EngineInfo,
  KernelTime,
  PinOptions,
  PromptParams,
  RemoteInfo,
  RequestOptions,
  Spent,
  StreamParams,
} from "./types.js";

/** OpenAI's `create`: `stream: true` gives a stream of chunks, anything else the whole answer. */
export interface Create<Params extends StreamParams, Whole, Chunk> {
  (body: Params & { stream: true }, options?: RequestOptions): Promise<Stream<Chunk>>;
  (body: Params & { stream?: false | null | undefined }, options?: RequestOptions): Promise<Whole>;
  (body: Params, options?: RequestOptions): Promise<Stream<Chunk> | Whole>;
}

/** OpenAI's `create` for vectors. As in its types, they are numbers unless base64 was asked for by name. */
export interface CreateEmbeddings {
  (body: EmbeddingParams & { encoding_format: "base64" }, options?: RequestOptions): Promise<EmbeddingList<string>>;
  (body: EmbeddingParams, options?: RequestOptions): Promise<EmbeddingList>;
}

/** One loaded model. Requests are answered together; each can be aborted, waiting or running. */
export class Engine<Info extends EngineInfo | RemoteInfo = EngineInfo> implements AsyncDisposable {
  readonly chat: { completions: { create: Create<ChatParams, ChatCompletion, ChatCompletionChunk> } };
  readonly completions: { create: Create<CompletionParams, Completion, Completion> };
  /** OpenAI's shape of {@link embed}, which has no place for a text that failed: the first failure fails all. */
  readonly embeddings: { create: CreateEmbeddings };
  /**
   * A `fetch` that this engine answers, for clients of OpenAI's interface: `/v1/chat/completions`, `/v1/completions`,
   * `/v1/embeddings` and `/v1/models`, at whatever host. Nothing goes over the network, and tokens mean nothing.
   */
  readonly fetch: typeof globalThis.fetch;
  /** Classification, summaries, translations and pictures, by hosted models. */
  readonly tasks: Tasks;
  readonly #connection: Connection;

  /** @internal */
  constructor(connection: Connection) {
    this.#connection = connection;
    this.chat = { completions: { create: this.#creator("chat") } };
    this.completions = { create: this.#creator("complete") };
    this.embeddings = {
      create: (async (body: EmbeddingParams, options: RequestOptions = {}) => {
        if (typeof body !== "object" || body === null)
          throw new CandlewickError("invalid_argument", "The request must be an object.");
        return connection.call({ method: "embeddings", body }, options);
      }) as CreateEmbeddings,
    };
    this.fetch = fetchFrom(this);
    this.tasks = new Tasks(connection);
  }

  /** What was loaded, where it runs now and why. */
  get info(): Info {
    return this.#connection.state.info as Info;
  }

  /** The ids of a text. `special` reads special tokens written in it and adds those the model starts and ends with. */
  async tokenize(text: string, options: { special?: boolean } & RequestOptions = {}): Promise<number[]> {
    if (typeof text !== "string") throw new CandlewickError("invalid_argument", "tokenize() takes a text.");
    return this.#connection.call({ method: "tokenize", text, special: options.special ?? false }, options);
  }

  async detokenize(ids: ArrayLike<number>, options: RequestOptions = {}): Promise<string> {
    if (typeof ids?.length !== "number" || !(ids.length <= 1 << 24)) {
      throw new CandlewickError("invalid_argument", "The ids must be an array of numbers, at most 2²⁴ of them.");
    }
    const wrong = Array.prototype.findIndex.call(ids, (id) => typeof id !== "number" || id !== id >>> 0);
    if (wrong >= 0) throw new CandlewickError("invalid_argument", `ids[${wrong}] is no token id.`);
    return this.#connection.call({ method: "detokenize", ids: Uint32Array.from(ids) }, options);
  }

  /** The prompt text that a conversation becomes. */
  applyChatTemplate(body: PromptParams, options: RequestOptions = {}): Promise<string> {
    return this.#connection.call({ method: "render", body }, options);
  }

  /** What the model that answers now can do. */
  capabilities(options: RequestOptions = {}): Promise<Capabilities> {
    return this.#connection.call({ method: "capabilities" }, options);
  }

  /** What was spent on each hosted model's provider. */
  spent(options: RequestOptions = {}): Promise<Spent[]> {
    return this.#connection.call({ method: "totals" }, options);
  }

  /**
   * The vectors of texts, by the loaded model where that is an encoder, else by the first hosted one; or by `model`, another
   * of its provider. One text that fails does not fail the rest.
   */
  async embed(texts: string[], { model, dimensions, truncate, ...options }: EmbedOptions = {}): Promise<Embedding[]> {
    if (!Array.isArray(texts)) throw new CandlewickError("invalid_argument", "embed() takes an array of texts.");
    if (texts.length === 0) return [];
    return this.#connection.call({ method: "embed", model, body: { input: texts, dimensions, truncate } }, options);
  }

  /** Runs one conversation over the loaded model and all hosted ones. `onRetry` hears which of them will be asked again. */
  compare(body: ChatParams, options: RequestOptions = {}): Promise<Comparison[]> {
    return this.#connection.call({ method: "compare", body }, options);
  }

  /** What the device's kernels have cost since the last call, longest first. Empty unless the model was loaded with `profile`. */
  profile(options: RequestOptions = {}): Promise<KernelTime[]> {
    return this.#connection.call({ method: "profile" }, options);
  }

  /** Begins a conversation that goes on, or takes up one that was saved. */
  session(options: SessionOptions = {}): Promise<Session> {
    return Session.open(this as Engine<EngineInfo | RemoteInfo>, this.#connection, options);
  }

  /**
   * Keeps the beginning of conversations in memory, where others that are kept go first: those that begin so are answered
   * at once. What needs the room gets it nevertheless. With `persist` it also stays in the browser's storage, and is read
   * back from there after a reload. Resolves to the number of its tokens.
   */
  async pin(name: string, body: ConversationParams, options: PinOptions = {}): Promise<number> {
    checkName(name);
    checkNames(options, "pin()");
    const { persist = false, ...request } = options;
    const { messages, tools, chat_template_kwargs } = body;
    const begin = { messages, tools, chat_template_kwargs };
    return this.#connection.call({ method: "pin", name, body: begin, persist }, heard(request));
  }

  /** Lets go of what was pinned. Resolves to whether there was such; what is in the storage stays: see `sessions.remove()`. */
  async unpin(name: string, options: RequestOptions = {}): Promise<boolean> {
    checkName(name);
    return this.#connection.call({ method: "unpin", name }, options);
  }

  /** What is pinned. */
  pinned(options: RequestOptions = {}): Promise<{ name: string; tokens: number }[]> {
    return this.#connection.call({ method: "pinned" }, options);
  }

  /** Frees all memory at once. Requests under way fail with `aborted`. Unloading twice is harmless. */
  async unload(): Promise<void> {
    this.#connection.close(
      new CandlewickError("aborted", "The engine was unloaded while the request was under way."),
      new CandlewickError("invalid_argument", "This engine was unloaded. Call load() for a new one."),
    );
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unload();
  }

  #creator<Params extends StreamParams, Whole, Chunk>(method: "chat" | "complete"): Create<Params, Whole, Chunk> {
    const create = async (body: Params, { signal, onPromptProgress: onProgress, onRetry }: RequestOptions = {}) => {
      if (typeof body !== "object" || body === null)
        throw new CandlewickError("invalid_argument", "The request must be an object.");
      const call = { method, body } as never;
      if (body.stream) return this.#connection.stream<Chunk>(call, { signal, onProgress, onRetry });
      const whole = await this.#connection.call<Whole>(call, { signal, onProgress, onRetry });
      return method === "chat" ? withRefusals(whole as ChatCompletion) : whole;
    };
    return create as Create<Params, Whole, Chunk>;
  }
}

/** OpenAI's answers say that there is no refusal. */
function withRefusals(whole: ChatCompletion): ChatCompletion {
  for (const choice of whole.choices) choice.message = { ...choice.message, refusal: choice.message.refusal ?? null };
  return whole;
}
