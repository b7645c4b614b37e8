import type { ChatMessage } from "candlewick";
import { count } from "./format.js";
import type { AnyEngine } from "./mode.js";

/** What the model is asked, and that messages were left out for it. */
export interface Fitted {
  messages: ChatMessage[];
  note?: string;
}

/** Of the context, what is kept free for the answer at most, however long it may become. */
const FOR_ANSWER = 0.25;

/**
 * Leaves turns out of the middle of a conversation that does not fit the context, a question with its answer each time:
 * the first exchange stays as long as it can, the question last asked always. The engine could cut the middle out itself,
 * but at any token, also between a turn and its header. Whatever then does not fit, the engine refuses.
 */
export async function fit(
  engine: AnyEngine,
  system: ChatMessage[],
  messages: ChatMessage[],
  maxTokens: number,
  signal: AbortSignal,
): Promise<Fitted> {
  const { info } = engine;
  if (info.device === "remote") return { messages: [...system, ...messages] };
  const room = info.contextLength - Math.min(maxTokens, Math.floor(info.contextLength * FOR_ANSWER));
  const without = (dropped: number): ChatMessage[] => {
    const kept = messages.length - dropped;
    const first = kept > 2 ? 2 : 0;
    return [...system, ...messages.slice(0, first), ...messages.slice(first + dropped)];
  };
  const fits = async (dropped: number) => {
    const text = await engine.applyChatTemplate({ messages: without(dropped) }, { signal });
    return (await engine.tokenize(text, { special: true, signal })).length <= room;
  };
  const exchanges = (messages.length - 1) / 2;
  // Mostly there is room for all; and the last question stays, whatever it takes.
  if (exchanges === 0 || (await fits(0))) return { messages: without(0) };
  // The fewest that have to go; all but the last question, where nothing else helps.
  let [fewest, most] = [1, exchanges];
  while (fewest < most) {
    const middle = Math.floor((fewest + most) / 2);
    if (await fits(2 * middle)) most = middle;
    else fewest = middle + 1;
  }
  return { messages: without(2 * fewest), note: noteOf(2 * fewest, info.contextLength) };
}

const noteOf = (dropped: number, context: number) =>
  `The conversation is longer than the context of ${count(context)} tokens: ${dropped} messages in its middle were left out of what the model reads.`;
