import type { Origin } from "candlewick";

export interface Message {
  role: "user" | "assistant";
  content: string;
  /** Of an answer: who wrote it, where, and whether the page says why there. */
  model?: string;
  origin?: [Origin, why: boolean];
  /** That the model did not read all of the conversation for it. */
  dropped?: string;
}

/** Questions and their answers in turn. */
export interface Conversation {
  id: string;
  system: string;
  messages: Message[];
  /** Milliseconds since 1970. */
  changed: number;
}

/** `crypto.randomUUID` is there for secure addresses only, and the page also runs on http://192.168.… */
export const newId = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

export const newConversation = (): Conversation => ({ id: newId(), system: "", messages: [], changed: Date.now() });

/** Whether something that was stored is one: another version of the page may have written it. */
export function isConversation(value: unknown): value is Conversation {
  const { id, system, messages, changed } = (value ?? {}) as Partial<Conversation>;
  if (typeof id !== "string" || typeof system !== "string" || !Number.isFinite(changed)) return false;
  return Array.isArray(messages) && messages.length % 2 === 0 && messages.every(isMessage);
}

function isMessage(value: unknown, at: number): boolean {
  const { role, content, origin } = (value ?? {}) as Partial<Message>;
  const signed = origin === undefined || typeof origin?.[0]?.provider === "string";
  return role === (at % 2 === 0 ? "user" : "assistant") && typeof content === "string" && signed;
}

const TITLE = 60;

/** What was asked first, cut to a line. */
export function titleOf({ messages: [first] }: Conversation): string {
  const text = first?.content.trim().replaceAll(/\s+/g, " ") ?? "";
  return text.length > TITLE ? `${text.slice(0, TITLE)}…` : text;
}
