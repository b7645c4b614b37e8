import type { Connection } from "./connection.js";
import type { Engine } from "./engine.js";
import { CandlewickError } from "./errors.js";
import { checkNames } from "./options.js";
import { Stream, type Chunks } from "./stream.js";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatMessage,
  ChatParams,
  ContentPart,
  ConversationParams,
  EngineInfo,
  RemoteInfo,
  RequestOptions,
  ToolCall,
} from "./types.js";

/** Settings of answers, as `chat.completions.create()` takes them. */
export type SessionParams = Omit<ChatParams, "messages" | "n">;

export interface SessionOptions extends RequestOptions {
  /** What was said so far: often a message of the system. */
  messages?: ChatMessage[] | undefined;
  /** For all answers, unless `send()` says otherwise: `truncate: "oldest"` keeps the session from growing too long. */
  params?: SessionParams | undefined;
  /** By which `save()` keeps it in the browser's storage. What is there goes on; `messages` are for a new one. */
  name?: string | undefined;
  /** What `export()` gave. */
  from?: Blob | ArrayBuffer | Uint8Array | undefined;
}

/** What has become of a session that was read back. */
export interface SessionRestored {
  /** Tokens that the model need not read again. */
  tokens: number;
  /** Why that is none, where it is: another model for example. */
  reason?: string;
}

/** What `openSession` and `restoreSession` give. */
type Back = ConversationParams & SessionRestored;

/**
 * A conversation that goes on. What the model has read of it stays in memory as long as there is room, also while other
 * sessions go on, so that an answer begins at once.
 */
export class Session {
  /** Of a session that was read back. */
  readonly restored: SessionRestored | undefined;
  readonly name: string | undefined;
  readonly #engine: Engine<EngineInfo | RemoteInfo>;
  readonly #connection: Connection;
  readonly #params: SessionParams;
  #messages: ChatMessage[];
  #busy = false;

  private constructor(from: {
    engine: Engine<EngineInfo | RemoteInfo>;
    connection: Connection;
    messages: ChatMessage[];
    params: SessionParams;
    name: string | undefined;
    restored: SessionRestored | undefined;
  }) {
    this.#engine = from.engine;
    this.#connection = from.connection;
    this.#messages = from.messages;
    this.#params = from.params;
    this.name = from.name;
    this.restored = from.restored;
  }

  /** @internal */
  static async open(
    engine: Engine<EngineInfo | RemoteInfo>,
    connection: Connection,
    options: SessionOptions,
  ): Promise<Session> {
    checkNames(options, "session()");
    const { messages = [], params = {}, name, from, ...request } = options;
    if (!Array.isArray(messages)) throw new CandlewickError("invalid_argument", "messages must be an array.");
    if (name !== undefined) checkName(name);
    let back: Back | undefined;
    if (from !== undefined)
      back = await connection.call({ method: "restoreSession", bytes: await copy(from) }, request);
    else if (name !== undefined) back = await connection.call({ method: "openSession", name }, request);
    const { tools, chat_template_kwargs } = back ?? {};
    return new Session({
      engine,
      connection,
      messages: structuredClone(back?.messages ?? messages),
      params: { ...(tools && { tools }), ...(back && { chat_template_kwargs }), ...params },
      name,
      restored: back && { tokens: back.tokens, ...(back.reason !== undefined && { reason: back.reason }) },
    });
  }

  /** What was said so far. */
  get messages(): ChatMessage[] {
    return structuredClone(this.#messages);
  }

  /**
   * Says something, and resolves to the answer, or with `stream: true` to its chunks. Both are part of the session once the
   * answer has ended, and not before: where that fails, is aborted or left, the session is as it was.
   */
  send(
    message: string | ContentPart[] | ChatMessage,
    params: SessionParams & { stream: true },
    options?: RequestOptions,
  ): Promise<Stream<ChatCompletionChunk>>;
  send(
    message: string | ContentPart[] | ChatMessage,
    params?: SessionParams & { stream?: false | null | undefined },
    options?: RequestOptions,
  ): Promise<ChatCompletion>;
  async send(
    message: string | ContentPart[] | ChatMessage,
    params: SessionParams = {},
    options: RequestOptions = {},
  ): Promise<Stream<ChatCompletionChunk> | ChatCompletion> {
    const said: ChatMessage =
      typeof message === "string" || Array.isArray(message) ? { role: "user", content: message } : message;
    if (this.#busy) {
      throw new CandlewickError(
        "invalid_argument",
        "This session is answering. Wait for the answer or leave it, or go on in a fork().",
      );
    }
    if ("n" in params && params.n !== 1 && params.n != null)
      throw new CandlewickError("invalid_argument", "A session goes on with one answer: n must be 1.");
    this.#busy = true;
    try {
      const messages = [...this.#messages, structuredClone(said)];
      const body: ChatParams = { ...this.#params, ...params, messages };
      const answer = await this.#engine.chat.completions.create(body, options);
      if (answer instanceof Stream) return this.#follow(answer, messages);
      const { refusal, ...answered } = answer.choices[0]!.message;
      this.#messages = [...messages, { ...answered, ...(refusal && { refusal }) }];
      this.#busy = false;
      return answer;
    } catch (error) {
      this.#busy = false;
      throw error;
    }
  }

  /** Another session that begins with what was said in this one. The model need not read it again. */
  fork(options: { name?: string | undefined } = {}): Session {
    if (options.name !== undefined) checkName(options.name);
    return new Session({
      engine: this.#engine,
      connection: this.#connection,
      messages: this.messages,
      params: this.#params,
      name: options.name,
      restored: undefined,
    });
  }

  /** Goes back to the first `messages` messages. */
  rewind(messages: number): void {
    if (this.#busy) throw new CandlewickError("invalid_argument", "This session is answering.");
    if (!Number.isInteger(messages) || messages < 0 || messages > this.#messages.length) {
      throw new CandlewickError(
        "invalid_argument",
        `The session has ${this.#messages.length} messages, and cannot go back to ${messages}.`,
      );
    }
    this.#messages.length = messages;
  }

  /** Has the model read what was said so far, so that the next answer begins at once. Resolves to the number of tokens. */
  prefill(options: RequestOptions = {}): Promise<number> {
    return this.#connection.call({ method: "prefill", body: this.#body() }, heard(options));
  }

  /** Keeps it in the browser's storage by its name, with what the model has computed of it. */
  async save(options: RequestOptions = {}): Promise<void> {
    if (this.name === undefined)
      throw new CandlewickError("invalid_argument", "This session has no name: give session() one, or use export().");
    return this.#connection.call({ method: "storeSession", name: this.name, body: this.#body() }, heard(options));
  }

  /** The same as bytes, for `session({ from })` here or in another engine. */
  async export(options: RequestOptions = {}): Promise<ArrayBuffer> {
    const call = { method: "saveSession", body: this.#body() } as const;
    return (await this.#connection.call<Uint8Array<ArrayBuffer>>(call, heard(options))).buffer;
  }

  #body(): ConversationParams {
    const { tools, chat_template_kwargs } = this.#params;
    return { messages: this.#messages, tools, chat_template_kwargs };
  }

  /** The chunks of an answer; at their end it is part of the session. */
  #follow(answer: Stream<ChatCompletionChunk>, messages: ChatMessage[]): Stream<ChatCompletionChunk> {
    const end = (message?: ChatMessage) => {
      if (message) this.#messages = [...messages, message];
      this.#busy = false;
    };
    const chunks = (): Chunks<ChatCompletionChunk> => {
      const inner = answer[Symbol.asyncIterator]();
      const whole = new Whole();
      return {
        async next() {
          try {
            const result = await inner.next();
            if (result.done) end(whole.message);
            else whole.add(result.value);
            return result;
          } catch (error) {
            end();
            throw error;
          }
        },
        return() {
          end();
          return inner.return();
        },
        [Symbol.asyncIterator]() {
          return this;
        },
      };
    };
    const abandoned = () => {
      end();
      answer.controller.abort();
    };
    return new Stream({ taken() {}, abandoned }, chunks);
  }
}

/** A message in the making. */
class Whole {
  #content = "";
  #calls: ToolCall[] = [];
  #ended = false;

  add({ choices }: ChatCompletionChunk): void {
    const choice = choices[0];
    if (!choice) return;
    this.#content += choice.delta.content ?? "";
    for (const { index, id, function: part } of choice.delta.tool_calls ?? []) {
      const call = (this.#calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
      call.id ||= id ?? "";
      call.function.name += part?.name ?? "";
      call.function.arguments += part?.arguments ?? "";
    }
    this.#ended ||= choice.finish_reason !== null;
  }

  /** Once the answer has ended by itself. */
  get message(): ChatMessage | undefined {
    if (!this.#ended) return undefined;
    const calls = this.#calls.filter(Boolean);
    return { role: "assistant", content: this.#content, ...(calls.length > 0 && { tool_calls: calls }) };
  }
}

/** @internal */
export function checkName(name: unknown): asserts name is string {
  if (typeof name !== "string" || name === "")
    throw new CandlewickError("invalid_argument", "A name must be a text that is not empty.");
}

/** @internal */
export function heard({ onPromptProgress: onProgress, ...options }: RequestOptions): object {
  return { ...options, onProgress };
}

/** Bytes that can go to the Worker. */
async function copy(from: Blob | ArrayBuffer | Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  if (from instanceof Blob) return new Uint8Array(await from.arrayBuffer());
  if (from instanceof ArrayBuffer || ArrayBuffer.isView(from)) return new Uint8Array(from as ArrayBuffer).slice();
  throw new CandlewickError("invalid_argument", "from must be what export() gave: bytes or a Blob.");
}
