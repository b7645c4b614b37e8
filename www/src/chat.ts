import type { ChatMessage } from "candlewick";
import type { Conversations, Message } from "./conversations.js";
import { announce, h } from "./dom.js";
import { count } from "./format.js";
import { fit } from "./fitting.js";
import type { Desk, Mode } from "./mode.js";
import { Passage } from "./passage.js";
import { Prose } from "./prose.js";
import { Turn } from "./turn.js";

/** What the engine takes where the settings do not say. */
const LONGEST_ANSWER = 512;

/** For models with a chat template. */
export class Chat implements Mode {
  readonly title = "Conversation";
  readonly label = "Your message";
  readonly placeholder = "Say something";
  readonly verb = "Send";
  readonly suggestions = ["Why does a candle burn?", "Write a haiku about rain", "Explain gravity to a child"];
  readonly sheet: HTMLElement;
  readonly takes = true;
  readonly #desk: Desk;
  readonly #conversations: Conversations;
  readonly #system = h("textarea", { id: "system", rows: 2, placeholder: "How the model should behave; may stay empty" });
  readonly #turns = h("div", { className: "turns" });
  #conversation;

  constructor(desk: Desk, conversations: Conversations) {
    this.#desk = desk;
    this.#conversations = conversations;
    this.#conversation = conversations.current;
    const system = h("details", { className: "system" }, h("summary", {}, "System prompt"), h("label", { htmlFor: "system", className: "visually-hidden" }, "System prompt"), this.#system);
    this.sheet = h("div", {}, system, this.#turns);
    this.#system.onchange = () => {
      this.#conversation.system = this.#system.value;
      void this.#keep();
    };
    this.refresh();
  }

  /** Another conversation is on the desk. */
  refresh(): void {
    this.#conversation = this.#conversations.current;
    this.#system.value = this.#conversation.system;
    this.#show();
  }

  async submit(text: string): Promise<boolean> {
    if (!text.trim()) return true;
    return this.#ask(text, this.#conversation.messages.length);
  }

  actions(): [string, () => Promise<boolean | void>][] {
    const { messages } = this.#conversation;
    const question = messages.length - 2;
    if (question < 0) return [];
    return [
      ["Regenerate", () => this.#ask(messages[question]!.content, question)],
      ["New conversation", async () => this.#conversations.begin()],
    ];
  }

  /** Asks in the place of message `at` and all after it. They are back where no answer came: before its first word it may be stopped. */
  async #ask(text: string, at: number): Promise<boolean> {
    const conversation = this.#conversation;
    const { messages } = conversation;
    const before = messages.splice(at);
    messages.push({ role: "user", content: text });
    this.#show(at);
    let answered = false;
    try {
      const answer = await this.#answer();
      if (answer) messages.push(answer);
      answered = answer !== undefined;
    } finally {
      if (messages.at(-1)?.role === "user") messages.splice(at, 1, ...before);
      if (conversation === this.#conversation) this.#show(at);
      await this.#keep(conversation);
    }
    return answered;
  }

  async #answer(): Promise<Message | undefined> {
    const { engine, writer, settings } = this.#desk;
    const { messages } = this.#conversation;
    const answer: Message = { role: "assistant", content: "", model: engine.info.name };
    const passage = new Prose();
    const turn = new Turn(engine.info.name, passage);
    this.#add(turn);
    const said = messages.map(({ role, content }): ChatMessage => ({ role, content }));
    const system: ChatMessage[] = this.#system.value.trim() ? [{ role: "system", content: this.#system.value }] : [];
    try {
      await writer.write(passage, async (options) => {
        const sampling = settings.sampling();
        const longest = sampling.max_tokens ?? LONGEST_ANSWER;
        const { messages, dropped } = settings.dropsMiddle() ? await fit(engine, system, said, longest, options.signal!) : { messages: [...system, ...said], dropped: 0 };
        if (dropped > 0) {
          answer.dropped = droppedNote(dropped, engine.info.device === "remote" ? 0 : engine.info.contextLength);
          turn.remark(answer.dropped);
          announce(answer.dropped);
        }
        return engine.chat.completions.create({ ...sampling, messages, stream: true, stream_options: { include_usage: true } }, options);
      });
    } finally {
      answer.content = passage.text;
      // The model that was to answer may not be the one that did.
      if (passage.origin) answer.model = passage.origin.model;
      if (passage.origin) answer.origin = [passage.origin, writer.givesReasons];
    }
    return answer.content ? answer : undefined;
  }

  #keep(conversation = this.#conversation): Promise<void> {
    return this.#conversations.keep(conversation);
  }

  /** Shows the turns anew from message `from` on. */
  #show(from = 0): void {
    const { messages } = this.#conversation;
    if (messages.length === 0) return this.#turns.replaceChildren(h("p", { className: "empty" }, "This model converses. It knows this conversation and nothing else."));
    if (from === 0) this.#turns.replaceChildren();
    while (this.#turns.childElementCount > from) this.#turns.lastElementChild!.remove();
    messages.slice(from).forEach((message, index) => this.#add(this.#turn(message, from + index)));
  }

  #turn({ role, content, model, dropped, origin }: Message, at: number): Turn {
    if (role === "user") return new Turn("You", new Passage(content), (text) => this.#desk.act(() => this.#ask(text, at)));
    const passage = new Prose(content);
    if (origin) passage.sign(...origin);
    const turn = new Turn(model ?? "The model", passage);
    if (dropped) turn.remark(dropped);
    return turn;
  }

  #add({ element }: Turn): void {
    this.#turns.append(element);
    element.scrollIntoView({ block: "nearest" });
  }
}

const droppedNote = (dropped: number, context: number) =>
  `The conversation is longer than the context of ${count(context)} tokens: ${dropped} messages in its middle were left out of what the model reads.`;
