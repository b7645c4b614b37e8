/** OpenAI's types and candlewick's, each in the other's place. Only compiled. */
import { inspect, load, models, type Engine, type LoadOptions, type RequestOptions, type Stream } from "candlewick";
import wasmURL from "candlewick/candlewick.wasm";
import threadsWasmURL from "candlewick/candlewick-threads.wasm";
import OpenAI from "openai";
import type { Stream as OpenAIStream } from "openai/streaming";

type Chat = OpenAI.Chat.ChatCompletionCreateParams;
type ChatWhole = OpenAI.Chat.ChatCompletionCreateParamsNonStreaming;
type ChatStream = OpenAI.Chat.ChatCompletionCreateParamsStreaming;

export async function asked(
  engine: Engine,
  chat: Chat,
  whole: ChatWhole,
  stream: ChatStream,
  text: OpenAI.CompletionCreateParams,
  vectors: OpenAI.EmbeddingCreateParams,
) {
  const answer: OpenAI.ChatCompletion = await engine.chat.completions.create(whole);
  const chunks: AsyncIterable<OpenAI.ChatCompletionChunk> = await engine.chat.completions.create(stream);
  const either: OpenAI.ChatCompletion | AsyncIterable<OpenAI.ChatCompletionChunk> =
    await engine.chat.completions.create(chat);
  const continued: OpenAI.Completion | AsyncIterable<OpenAI.Completion> = await engine.completions.create(text);
  const list: OpenAI.CreateEmbeddingResponse = await engine.embeddings.create(vectors);
  const base64 = await engine.embeddings.create({ input: "a", encoding_format: "base64" });
  const encoded: string | undefined = base64.data[0]?.embedding;
  return [answer, chunks, either, continued, list, encoded];
}

/** What one writes by hand, with OpenAI's fields and ours. */
export async function written(
  engine: Engine,
  messages: OpenAI.ChatCompletionMessageParam[],
  tools: OpenAI.ChatCompletionTool[],
  choice: OpenAI.ChatCompletionToolChoiceOption,
) {
  const format: OpenAI.ResponseFormatJSONSchema = { type: "json_schema", json_schema: { name: "x", schema: {} } };
  const answer = await engine.chat.completions.create({
    model: "any",
    messages,
    tools,
    tool_choice: choice,
    response_format: format,
    user: "me",
    top_k: 4,
    n: null,
    seed: null,
  });
  const again: OpenAI.ChatCompletionMessageParam[] = [...messages, answer.choices[0]!.message];
  await engine.chat.completions.create({ messages: again });
  const stream = await engine.chat.completions.create({ messages, stream: true });
  const [left, right] = stream.tee();
  left.controller.abort();
  const parts: Pick<OpenAIStream<OpenAI.ChatCompletionChunk>, "controller" | "toReadableStream"> = right;
  return parts;
}

/** Values that may not be there, as strict optional types distinguish them. */
export async function optional(
  signal: AbortSignal | undefined,
  device: LoadOptions["device"],
  temperature: number | undefined,
) {
  const options: RequestOptions = { signal, onPromptProgress: undefined };
  const engine = await load(["/a.gguf", new URL("https://h.example/b.gguf"), new Blob()], {
    signal,
    device,
    contextLength: 8192,
    onProgress: undefined,
    wasmURL,
    threadsWasmURL,
    gpu: { disable: undefined },
    remote: undefined,
  });
  await engine.completions.create({ prompt: ["a", "b"], temperature, stream: undefined, stop: undefined }, options);
  await load("owner/repo", {
    contextLength: undefined,
    remote: { model: "org/name", token: undefined, retry: { attempts: undefined } },
  });
  await models.remove("b.gguf", { signal });
  const files: readonly File[] = [];
  await load([files, [new URL("https://h.example/m-00001-of-00002.gguf"), "/m-00002-of-00002.gguf"], "owner/repo"], {
    contextLength: "max",
  });
  const { contextNote, contextLength } = await inspect(files, { contextLength: { max: Infinity } });
  await models.pull(new URL("https://h.example/b.gguf"));
  await models.verify(["/a.gguf", new URL("https://h.example/b.gguf")], { signal });
  // @ts-expect-error: files are not kept
  await models.pull(new Blob());
  // @ts-expect-error: no option of this call
  await models.list({ device: "cpu" });
  // @ts-expect-error: no number
  await load("owner/repo", { contextLength: "most" });
}

export function client(engine: Engine): OpenAI {
  return new OpenAI({ fetch: engine.fetch, apiKey: "-", baseURL: "http://local/v1", dangerouslyAllowBrowser: true });
}

export type Both = Stream<OpenAI.Completion>;
