import type { ChatMessage } from "candlewick";
import type { Message } from "./conversation.js";
import type { Conversations } from "./conversations.js";
import { announce, byId, h } from "./dom.js";
import { fit, type Fitted } from "./fitting.js";
import { QUESTIONS, type Desk, type Mode } from "./mode.js";
import { showError } from "./notices.js";
import { Passage } from "./passage.js";
import { Prose } from "./prose.js";
import { Turn } from "./turn.js";

/** What the engine takes where the settings do not say. */
const LONGEST_ANSWER = 512;
/** Milliseconds between copies of an answer that is being written: what a visit loses that ends before it does. */
const SNAPSHOT = 2000;

/** For models with a chat template. */
export class Chat implements Mode {
  readonly title = "Conversation";
  readonly label = "Your message";
  readonly placeholder = "Say something";
  readonly verb = "Send";
  readonly suggestions = QUESTIONS;
  readonly sheet: HTMLElement;
  readonly takes = true;
  readonly #desk: Desk;
  readonly #conversations: Conversations;
  readonly #system = h("textarea", {
    id: "system",
    rows: 2,
    placeholder: "How the model should behave; may stay empty",
  });
  readonly #turns = h("div", { className: "turns" });
  readonly #empty = h(
    "p",
    { className: "empty" },
    "This model converses. It knows this conversation and nothing else.",
  );
  /** Those that are shown, one for each message. */
  readonly #shown: Turn[] = [];
  #conversation;

  constructor(desk: Desk, conversations: Conversations) {
    this.#desk = desk;
    this.#conversations = conversations;
    this.#conversation = conversations.current;
    const label = h("label", { htmlFor: "system", className: "visually-hidden" }, "System prompt");
    const system = h("details", { className: "system" }, h("summary", {}, "System prompt"), label, this.#system);
    this.sheet = h("div", {}, system, this.#empty, this.#turns);
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

  /** A question put differently. Where nothing came of it, it goes back to where it was written. */
  #askAnew(text: string, at: number): boolean {
    if (this.#desk.writer.busy) return false;
    const conversation = this.#conversation;
    void this.#desk
      .act(() => this.#ask(text, at))
      .then((answered) => {
        if (!answered && conversation === this.#conversation) this.#shown[at]?.edit(text);
      });
    return true;
  }

  /**
   * Asks in the place of message `at` and all after it. They are back where no answer came: before its first word it may
   * be stopped.
   */
  async #ask(text: string, at: number): Promise<boolean> {
    const conversation = this.#conversation;
    const { messages } = conversation;
    const before = messages.splice(at);
    messages.push({ role: "user", content: text });
    this.#show(at);
    const said = [...messages];
    const { engine, writer } = this.#desk;
    const answer: Message = { role: "assistant", content: "", model: engine.info.name };
    messages.push(answer);
    const passage = new Prose();
    const turn = new Turn(engine.info.name, passage);
    this.#add(turn);
    const record = () => {
      answer.content = passage.text;
      if (!passage.origin) return;
      // The model that was to answer may not be the one that did.
      turn.who = answer.model = passage.origin.model;
      answer.origin = [passage.origin, writer.givesReasons];
    };
    const snapshots = setInterval(() => {
      record();
      // Without a word of the answer, what it takes the place of is worth more.
      if (answer.content || before.length === 0) void this.#keep(conversation);
    }, SNAPSHOT);
    try {
      await this.#answer(said, answer, passage, turn);
    } catch (error) {
      if (!passage.text) throw error;
      showError(error); // What was written before it stays.
    } finally {
      clearInterval(snapshots);
      record();
      if (!answer.content) {
        messages.splice(at, Infinity, ...before);
        if (conversation === this.#conversation) this.#show(at);
      }
      await this.#keep(conversation);
    }
    return answer.content !== "";
  }

  async #answer(said: Message[], answer: Message, passage: Prose, turn: Turn): Promise<void> {
    const { engine, writer, settings } = this.#desk;
    const asked = said.map(({ role, content }): ChatMessage => ({ role, content }));
    const prompt = this.#system.value;
    const system: ChatMessage[] = prompt.trim() ? [{ role: "system", content: prompt }] : [];
    await writer.write(passage, async (options) => {
      const sampling = settings.sampling();
      const longest = sampling.max_tokens ?? LONGEST_ANSWER;
      const all: Fitted = { messages: [...system, ...asked] };
      const { messages, note } = settings.dropsMiddle()
        ? await fit(engine, system, asked, longest, options.signal!)
        : all;
      if (note) {
        answer.dropped = note;
        turn.remark(note);
        announce(note);
      }
      const request = { ...sampling, messages, stream: true, stream_options: { include_usage: true } } as const;
      return engine.chat.completions.create(request, options);
    });
  }

  #keep(conversation = this.#conversation): Promise<void> {
    return this.#conversations.keep(conversation);
  }

  /** Shows the turns anew from message `from` on. Who was in one of them goes on at the button that sends, or stops. */
  #show(from = 0): void {
    const { messages } = this.#conversation;
    const focused = this.#turns.contains(document.activeElement);
    this.#shown.splice(from).forEach(({ element }) => element.remove());
    this.#empty.hidden = messages.length > 0;
    messages.slice(from).forEach((message, index) => this.#add(this.#turn(message, from + index)));
    if (focused && !this.#turns.contains(document.activeElement)) byId("send", HTMLButtonElement).focus();
  }

  #turn({ role, content, model, dropped, origin }: Message, at: number): Turn {
    if (role === "user") return new Turn("You", new Passage(content), (text) => this.#askAnew(text, at));
    const passage = new Prose(content);
    if (origin) passage.sign(...origin);
    const turn = new Turn(model ?? "The model", passage);
    if (dropped) turn.remark(dropped);
    return turn;
  }

  #add(turn: Turn): void {
    this.#shown.push(turn);
    this.#turns.append(turn.element);
    turn.element.scrollIntoView({ block: "nearest" });
  }
}
