import {
  CandlewickError,
  load,
  models,
  type ContextLength,
  type LoadOptions,
  type LoadProgress,
  type ModelFiles,
  type ModelSource,
} from "candlewick";
import { kernelProfile } from "./kernels.js";
import type { AnyEngine } from "./mode.js";
import { showProgress } from "./notices.js";
import { hub, switches } from "./switches.js";

/** A model to open. */
export interface Choice {
  source: ModelSource | readonly ModelFiles[];
  /** What the page calls it. */
  name: string;
  options?: Pick<LoadOptions, "cache" | "force" | "token">;
}

type Wish = "pause" | "cancel" | "leave";

/** A model on its way to the page, with a card that tells how far it is and lets the reader pause and cancel. */
export class Opening {
  readonly choice: Choice;
  readonly #remote: LoadOptions["remote"];
  readonly #contextLength: ContextLength | undefined;
  readonly #card: ReturnType<typeof showProgress>;
  #controller = new AbortController();
  #wish: Wish | undefined;
  #resume = () => {};
  /** The last report of a download. */
  #fetching: LoadProgress | undefined;
  #loaded = false;
  /** Hears of a GPU that was lost later on. */
  onRecovery: ((progress: LoadProgress) => void) | undefined;

  constructor(choice: Choice, remote: LoadOptions["remote"], contextLength: ContextLength | undefined) {
    this.choice = choice;
    this.#remote = remote;
    this.#contextLength = contextLength;
    this.#card = showProgress(choice.name, { cancel: () => this.#stop("cancel"), pause: () => this.#stop("pause") });
  }

  /** The engine, or nothing where the reader changed their mind. */
  async run(): Promise<AnyEngine | undefined> {
    try {
      while (this.#wish === undefined) {
        const engine = await this.#load();
        if (engine) return engine;
        if (this.#wish === "pause") await this.#paused();
      }
      if (this.#wish === "cancel") await this.#discard();
      return undefined;
    } finally {
      this.#card.remove();
    }
  }

  /** Another model is wanted, or this one no more. What was fetched of it stays. */
  leave(): void {
    this.#stop("leave");
  }

  /** What Escape does: nothing that was fetched is lost by it. */
  interrupt(): void {
    this.#stop(this.#fetching ? "pause" : "cancel");
  }

  async #load(): Promise<AnyEngine | undefined> {
    const { source, options } = this.choice;
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    try {
      const onProgress = (progress: LoadProgress) => this.#report(progress);
      const engine = await load(source, {
        ...switches(),
        ...hub,
        ...kernelProfile,
        ...options,
        contextLength: this.#contextLength,
        ...(this.#remote && { remote: this.#remote }),
        signal,
        onProgress,
      });
      this.#loaded = true;
      return engine;
    } catch (error) {
      if (error instanceof CandlewickError && error.code === "aborted" && this.#wish) return undefined;
      throw error;
    }
  }

  #report(progress: LoadProgress): void {
    if (this.#loaded) return this.onRecovery?.(progress);
    if (progress.stage === "download") this.#fetching = progress.loaded < progress.total ? progress : undefined;
    this.#card.update(progress);
  }

  /** Resolves when the reader has made up their mind. */
  #paused(): Promise<void> {
    return new Promise((decided) => {
      this.#resume = () => {
        this.#resume = () => {};
        decided();
      };
      this.#card.pause(() => {
        this.#wish = undefined;
        this.#resume();
      });
    });
  }

  #stop(wish: Wish): void {
    if (wish === "pause" && this.#wish === "pause") return;
    this.#wish = wish;
    this.#controller.abort();
    this.#resume();
  }

  /** Removes what was fetched of a file that is not whole. Other repositories may have files of the same name. */
  async #discard(): Promise<void> {
    const file = this.#fetching?.file;
    if (file === undefined) return;
    const { source } = this.choice;
    // Of a short name or an address the repository is not known here.
    const repository =
      typeof source === "string" ? /^([\w.-]+\/[\w.-]+)(?=[:@/]|$)/.exec(source)?.[1]?.toLowerCase() : undefined;
    const mine = (model: string) =>
      model === file ||
      (model.endsWith(`/${file}`) && (repository === undefined || model.toLowerCase().startsWith(`${repository}/`)));
    for (const { model, commit, complete } of await models.list(hub)) {
      if (!complete && mine(model)) await models.remove(`${model}@${commit}`, hub);
    }
  }
}
