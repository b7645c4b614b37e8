import type { Origin } from "candlewick";
import { createStore, del, entries, set, type UseStore } from "idb-keyval";
import { announce, button, byId, h } from "./dom.js";
import { since } from "./format.js";
import { recall, remember } from "./memory.js";

export interface Message {
  role: "user" | "assistant";
  content: string;
  /** Of an answer: who wrote it, where, and whether the page says why there. */
  model?: string;
  origin?: [Origin, why: boolean];
  /** That the model did not read all of the conversation for it. */
  dropped?: string;
}

export interface Conversation {
  id: string;
  system: string;
  messages: Message[];
  /** Milliseconds since 1970. */
  changed: number;
}

const newConversation = (): Conversation => ({ id: crypto.randomUUID(), system: "", messages: [], changed: Date.now() });

const TITLE = 60;

/**
 * The conversations that this browser keeps, in IndexedDB, and the panel that lists them. Where the browser keeps nothing
 * (private windows of some, blocked storage) they last as long as the page.
 */
export class Conversations {
  readonly #panel = byId("conversations", HTMLDetailsElement);
  readonly #list = h("ul");
  readonly #none = h("p", { className: "hint" }, "None yet. They are kept in this browser, and nowhere else.");
  readonly #all = new Map<string, Conversation>();
  #store: UseStore | undefined;
  #current = newConversation();
  /** Another one is to be put on the desk. */
  onChange = () => {};

  constructor() {
    this.#panel.append(h("div", { className: "talks" }, button("New conversation", () => this.begin()), this.#none, this.#list));
  }

  /** Reads what earlier visits have kept. */
  async restore(): Promise<void> {
    try {
      this.#store = createStore("candlewick-demo", "conversations");
      for (const [id, conversation] of await entries<string, Conversation>(this.#store)) this.#all.set(id, conversation);
    } catch {
      this.#store = undefined;
    }
    this.#current = this.#all.get(recall("conversation") ?? "") ?? this.#current;
    this.#show();
  }

  get current(): Conversation {
    return this.#current;
  }

  /** The list is for models that converse. */
  set hidden(hidden: boolean) {
    this.#panel.hidden = hidden;
  }

  /** Keeps one as it is now. An empty one is not worth keeping. */
  async keep(conversation: Conversation): Promise<void> {
    conversation.changed = Date.now();
    const { id } = conversation;
    if (conversation.messages.length === 0) return this.#forget(id);
    this.#all.set(id, conversation);
    if (id === this.#current.id) remember("conversation", id);
    this.#show();
    if (this.#store) await set(id, conversation, this.#store).catch(() => {});
  }

  begin(): void {
    this.#open(newConversation());
    announce("A new conversation.");
  }

  #open(conversation: Conversation): void {
    this.#current = conversation;
    remember("conversation", conversation.id);
    const focused = this.#panel.contains(document.activeElement);
    this.#show();
    if (focused) (this.#list.querySelector<HTMLElement>("[aria-current]") ?? this.#panel.querySelector("button"))!.focus();
    this.onChange();
  }

  async #forget(id: string): Promise<void> {
    this.#all.delete(id);
    this.#show();
    if (this.#store) await del(id, this.#store).catch(() => {});
  }

  async #delete(id: string): Promise<void> {
    await this.#forget(id);
    if (this.#current.id === id) this.#open(newConversation());
    announce("The conversation is deleted.");
    this.#panel.querySelector("button")!.focus();
  }

  #show(): void {
    const latest = [...this.#all.values()].sort((a, b) => b.changed - a.changed);
    this.#none.hidden = latest.length > 0;
    this.#list.replaceChildren(...latest.map((conversation) => this.#row(conversation)));
  }

  #row(conversation: Conversation): HTMLElement {
    const { id, messages, changed } = conversation;
    const title = titleOf(messages);
    const open = button(title, () => this.#open(conversation));
    open.className = "conversation";
    if (id === this.#current.id) open.setAttribute("aria-current", "true");
    const remove = button("Delete", () => this.#delete(id));
    remove.setAttribute("aria-label", `Delete: ${title}`);
    const detail = h("p", { className: "detail" }, `${messages.length} messages · ${since(changed / 1000)}`);
    return h("li", {}, open, h("div", { className: "ways" }, detail, remove));
  }
}

/** What was asked first, cut to a line. */
function titleOf([first]: Message[]): string {
  const text = first?.content.trim().replaceAll(/\s+/g, " ") ?? "";
  return text.length > TITLE ? `${text.slice(0, TITLE)}…` : text;
}
