import { createStore, del, entries, promisifyRequest, type UseStore } from "idb-keyval";
import { isConversation, newConversation, newId, titleOf, type Conversation } from "./conversation.js";
import { announce, button, byId, h, refill } from "./dom.js";
import { since } from "./format.js";
import { recall, remember } from "./memory.js";
import { showNotice } from "./notices.js";

/**
 * The conversations that this browser keeps, in IndexedDB, and the panel that lists them. Where the browser keeps nothing
 * (private windows of some, blocked storage) they last as long as the page.
 */
export class Conversations {
  readonly #panel = byId("conversations", HTMLDetailsElement);
  readonly #begin = button("New conversation", () => this.begin());
  readonly #list = h("ul");
  readonly #none = h("p", { className: "hint" }, "None yet. They are kept in this browser, and nowhere else.");
  readonly #all = new Map<string, Conversation>();
  /** When each was changed last that is stored, as far as this page knows. */
  readonly #stored = new Map<string, number>();
  /** An answer that is still being written must not bring them back. */
  readonly #deleted = new Set<string>();
  #store: UseStore | undefined;
  #current = newConversation();
  #warned = false;
  /** Another one is to be put on the desk. */
  onChange = () => {};

  constructor() {
    this.#panel.append(h("div", { className: "talks" }, this.#begin, this.#none, this.#list));
  }

  /** Reads what earlier visits have kept. */
  async restore(): Promise<void> {
    try {
      this.#store = createStore("candlewick-demo", "conversations");
      for (const [id, stored] of await entries<string, unknown>(this.#store)) {
        if (!isConversation(stored) || stored.id !== id) continue;
        this.#all.set(id, stored);
        this.#stored.set(id, stored.changed);
      }
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
    if (this.#deleted.has(conversation.id)) return;
    if (conversation.messages.length === 0) return this.#forget(conversation.id);
    conversation.changed = Date.now();
    this.#enlist(conversation);
    await this.#store?.("readwrite", (store) => this.#write(conversation, store)).catch(() => this.#warn());
  }

  begin(): void {
    this.#open(newConversation());
    announce("A new conversation.");
  }

  #open(conversation: Conversation): void {
    this.#current = conversation;
    remember("conversation", conversation.id);
    this.#show();
    this.onChange();
  }

  /** In one transaction with a look at what is there: another tab may have changed or deleted it. */
  async #write(conversation: Conversation, store: IDBObjectStore): Promise<void> {
    const { id } = conversation;
    const there: unknown = await promisifyRequest(store.get(id));
    const known = this.#stored.get(id);
    if (there === undefined && known !== undefined) return this.#drop(id);
    if (isConversation(there) && there.changed > (known ?? 0)) {
      // Both stay: that one as it is, this one under a name of its own.
      this.#all.set(id, there);
      this.#stored.set(id, there.changed);
      conversation.id = newId();
      this.#enlist(conversation);
    }
    const { changed } = conversation;
    store.put(conversation, conversation.id);
    await promisifyRequest(store.transaction);
    this.#stored.set(conversation.id, changed);
  }

  #enlist(conversation: Conversation): void {
    this.#all.set(conversation.id, conversation);
    if (conversation === this.#current) remember("conversation", conversation.id);
    this.#show();
  }

  #warn(): void {
    if (this.#warned) return;
    this.#warned = true;
    showNotice(
      "Conversations are not kept",
      "The browser could not store this one. Its storage may be full: remove models, and go on.",
      [],
    );
  }

  async #forget(id: string): Promise<void> {
    this.#all.delete(id);
    this.#show();
    if (this.#store) await del(id, this.#store).catch(() => {});
    this.#stored.delete(id); // Only now: it may have been on its way into the store.
  }

  /** It is deleted, here or in another tab. */
  #drop(id: string): void {
    this.#deleted.add(id);
    this.#all.delete(id);
    this.#show();
  }

  async #delete(id: string): Promise<void> {
    this.#drop(id);
    await this.#forget(id);
    if (this.#current.id === id) this.#open(newConversation());
    announce("The conversation is deleted.");
    this.#begin.focus();
  }

  #show(): void {
    const latest = [...this.#all.values()].sort((a, b) => b.changed - a.changed);
    this.#none.hidden = latest.length > 0;
    refill(
      this.#list,
      latest.map((conversation) => this.#row(conversation)),
      this.#begin,
    );
  }

  #row(conversation: Conversation): HTMLElement {
    const { id, messages, changed } = conversation;
    const title = titleOf(conversation);
    const open = button(title, () => this.#open(conversation));
    open.id = `conversation-${id}`;
    open.className = "conversation";
    if (id === this.#current.id) open.setAttribute("aria-current", "true");
    const remove = button("Delete", () => this.#delete(id));
    remove.id = `delete-${id}`;
    remove.setAttribute("aria-label", `Delete: ${title}`);
    const detail = h("p", { className: "detail" }, `${messages.length} messages · ${since(changed / 1000)}`);
    return h("li", {}, open, h("div", { className: "ways" }, detail, remove));
  }
}
