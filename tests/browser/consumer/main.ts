/** What someone who installed the package would write, without any configuration. */
import { CandlewickError, load, type ChatCompletionChunk, type Completion, type Engine, type Stream } from "candlewick";

const out = document.querySelector("pre")!;
try {
  await using engine = await load("/stories260K.gguf", {
    onProgress: ({ progress }) => (document.title = `${progress}`),
  });
  const stream = await engine.completions.create({ prompt: "", temperature: 0, max_tokens: 40, stream: true });
  for await (const chunk of stream) out.textContent += chunk.choices[0]?.text ?? "";
  document.title = "done";
} catch (error) {
  document.title = error instanceof CandlewickError ? `${error.code}: ${error.message}` : `untyped: ${error}`;
}

// `stream` decides the type of what comes back.
export async function types(engine: Engine, stream: boolean): Promise<void> {
  const body = { messages: [{ role: "user" as const, content: "Hello" }] };
  const whole = await engine.chat.completions.create(body);
  const text: string | null | undefined = whole.choices[0]?.message.content;
  const chunks: Stream<ChatCompletionChunk> = await engine.chat.completions.create({
    ...body,
    stream: true,
    top_k: 40,
    min_p: 0.1,
  });
  const either = await engine.completions.create({ prompt: "Once", stream });
  const completion: Completion | Stream<Completion> = either;
  // @ts-expect-error: a whole answer is no stream
  for await (const _ of whole) void 0;
  // @ts-expect-error: a misspelt option
  await engine.completions.create({ prompt: "Once", temprature: 1 });
  void [text, chunks, completion];
}
