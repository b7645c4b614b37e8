/**
 * What crosses the border between page and Worker.
 *
 * The Worker says `Notice`s: that it is there, how far it is, and that it wants a helper. The page posts one `Setup` (see
 * `compile.ts`), as soon as it has the WebAssembly, and says of each helper whether it runs. Each request is a `Call`
 * posted to the Worker together with a MessagePort of its own; what would be moved there waits until it has started, since
 * another one may have to take its place. On that port the Worker sends
 * `Reply`s, the last of which is `done` or `error`; the page sends `Control`s. The page closes the port. Where there are
 * no Workers, all of this goes over a channel within one thread, and an `End` ends the engine.
 */
import type { File } from "./compile.js";
import type { ErrorCode } from "./errors.js";
import type {
  ChatParams,
  CompletionParams,
  ContextLength,
  ConversationParams,
  Device,
  EmbeddingParams,
  EngineInfo,
  GPUOptions,
  LoadProgress,
  PromptParams,
  RemoteInfo,
  RemoteOptions,
} from "./types.js";

export type Call =
  | { method: "load"; sources: LocatedFiles[]; options: ModelOptions }
  | { method: "inspect"; source: LocatedFiles; options: ModelOptions }
  | { method: "list" | "usage"; hub: HubParams }
  | { method: "pull" | "remove"; model: string | string[]; hub: HubParams }
  | { method: "verify"; model: string | string[] | undefined; hub: HubParams }
  | { method: "chat"; body: ChatParams }
  | { method: "complete"; body: CompletionParams }
  | { method: "render"; body: PromptParams }
  | { method: "tokenize"; text: string; special: boolean }
  | { method: "detokenize"; ids: Uint32Array }
  | { method: "capabilities" }
  | { method: "totals" }
  | { method: "embed"; model: string | undefined; body: EmbeddingParams }
  | { method: "embeddings"; body: EmbeddingParams }
  | { method: "task"; model: string | undefined; task: Task }
  | { method: "compare"; body: ChatParams }
  | { method: "profile" }
  | { method: "prefill"; body: ConversationParams }
  | { method: "pin"; name: string; body: ConversationParams; persist: boolean }
  | { method: "unpin"; name: string }
  | { method: "pinned" }
  | { method: "saveSession"; body: ConversationParams }
  | { method: "storeSession"; name: string; body: ConversationParams }
  | { method: "restoreSession"; bytes: Uint8Array<ArrayBuffer> }
  | { method: "openSession"; name: string }
  | { method: "listSessions" }
  | { method: "removeSession"; name: string };

export type Notice =
  | { hello: true } // the script runs
  | { starting: true } // the code is there
  | { started: true }
  | { failed: { code: ErrorCode; message: string } } // it will not start
  | { crashed: string } // where no error event says so
  | { helper: HelperTask; id: number };

/** `late`: it did not answer. */
export interface HelperAnswer {
  helped: "runs" | "failed" | "late";
  id: number;
}

/** What a helper does: the page posts it to a Worker of its own. */
export interface HelperTask {
  /** The file that runs. */
  file: File;
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** What `help` is called with. */
  work: number;
  /** Address of the number of helpers that have crashed. */
  crashed: number;
}

export interface End {
  end: true;
}

/** The name of a model, its absolute URL, a Blob, which is read piece by piece, or its bytes, which become the Worker's. */
export type Located = string | Blob | Uint8Array<ArrayBuffer>;

/** Of a list each is a file of one model. */
export type LocatedFiles = Located | Located[];

export type Task =
  | {
      kind: "generate" | "summarize" | "translate" | "classify";
      text: string;
      parameters: Record<string, unknown> | undefined;
    }
  | { kind: "textToImage"; text: string; picture: object };

export interface ModelOptions {
  device?: Device | undefined;
  contextLength?: ContextLength | undefined;
  threads?: number | undefined;
  kvCache?: "full" | "8bit" | undefined;
  fallback?: boolean | undefined;
  gpu?: GPUOptions | undefined;
  profile?: boolean | undefined;
  remote?: Remote | undefined;
  hub: HubParams;
}

/** Absent fields, not undefined ones, have their defaults. */
export interface HubParams {
  token?: string;
  hubURL?: string;
  cache?: boolean;
  cacheBudget?: number;
  force?: boolean;
  transfer?: object;
}

/** `RemoteOptions` as the engine takes them: `crashed` says why local models are not tried. */
export interface Remote {
  policy: { when?: "never" | "needed" | "always" | undefined; firstTokenMs?: number | undefined };
  hosted: { model: string; config: Record<string, unknown> }[];
  cache?: Exclude<RemoteOptions["cache"], boolean>;
  maxMemory?: number | undefined;
  minTokensPerSecond?: number | undefined;
  crashed?: string | undefined;
}

export type Reply =
  | { progress: unknown } // of a load, or of reading a prompt
  | { retry: unknown } // of a request to a hosted model, or for a model's file
  | { recovery: LoadProgress } // the GPU was lost; the last one has the stage "ready"
  | { info: EngineInfo | RemoteInfo } // before that one
  | { started: true } // of a stream: it is under way
  | { chunk: unknown } // of a stream: costs one credit
  | { done: unknown }
  | { error: { code: ErrorCode; message: string } };

/** `credit`: how many more chunks the page will take. */
export type Control = { credit: number } | { abort: true };

/** Where `worker.js`, imported by a thread that cannot start Workers, leaves what attaches an engine to a port. */
export const ATTACH = Symbol.for("candlewick.attach");

/** How many chunks the Worker may produce ahead of the consumer of a stream. */
export const WINDOW = 16;
