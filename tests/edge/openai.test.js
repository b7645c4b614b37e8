/** OpenAI's own client, as it is, against the Worker. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { edge, KEY, start, story, TEXT, TOKEN } from "./support.js";

const messages = [{ role: "user", content: "Hi" }];
let double, worker, client;
const define = (world) => double.define("edge", { token: TOKEN, ...world });

before(async () => {
  double = await start();
  worker = await edge({ UPSTREAM_URL: define() });
  client = new OpenAI({ baseURL: `${worker.url}/v1`, apiKey: KEY, maxRetries: 0 });
});
after(async () => {
  await worker?.close();
  double?.close();
});

test("chat", async () => {
  define();
  const answer = await client.chat.completions.create({ model: "org/large", messages });
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.equal(answer.usage.completion_tokens, 7);
});

test("a stream, with its usage", async () => {
  define();
  const stream = await client.chat.completions.create({
    model: "org/large",
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  let [text, usage] = ["", undefined];
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.deepEqual([text, usage.completion_tokens], [TEXT, 7]);
});

test("tools", async () => {
  define();
  const tools = [
    {
      type: "function",
      function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
    },
  ];
  const runner = client.chat.completions.stream({ model: "org/large", messages, tools });
  const { choices } = await runner.finalChatCompletion();
  assert.deepEqual(choices[0].message.tool_calls[0].function, { name: "weather", arguments: '{"city": "Bern"}' });
});

test("embeddings, which it asks for in base64 unless told otherwise", async () => {
  define();
  const ask = (more) => client.embeddings.create({ model: "org/embed", input: ["one", "two"], ...more });
  const [base64, float] = [await ask(), await ask({ encoding_format: "float" })];
  assert.equal(base64.data.length, 2);
  assert.equal(base64.data[0].embedding.length, 4);
  float.data.forEach(({ embedding }, index) =>
    assert.deepEqual(Array.from(base64.data[index].embedding), Array.from(Float32Array.from(embedding))),
  );
  assert.notDeepEqual(float.data[0].embedding, float.data[1].embedding);
});

test("models", async () => {
  define();
  const ids = [];
  for await (const { id } of client.models.list()) ids.push(id);
  assert.deepEqual(ids, ["org/large", "org/small", "stories260K"]);
});

test("the model at the edge", async () => {
  const answer = await client.completions.create({ model: "stories260K", prompt: "", temperature: 0, max_tokens: 400 });
  assert.equal(answer.choices[0].text, story);
});

test("errors are the client's own", async () => {
  for (const [fault, type, code] of [
    ["400", OpenAI.BadRequestError, "invalid_argument"],
    ["401", OpenAI.AuthenticationError, "unauthorized"],
    ["403", OpenAI.PermissionDeniedError, "unauthorized"],
    ["404", OpenAI.NotFoundError, "model_not_found"],
    ["422", OpenAI.UnprocessableEntityError, "invalid_argument"],
    ["429", OpenAI.RateLimitError, "rate_limited"],
    ["503", OpenAI.InternalServerError, "provider_error"],
  ]) {
    define({ script: [fault] });
    await assert.rejects(
      client.chat.completions.create({ model: "org/large", messages }),
      (error) => error instanceof type && error.code === code && error.message.length > 5,
    );
  }
  const stranger = new OpenAI({ baseURL: `${worker.url}/v1`, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("its own attempts again", async () => {
  define({ script: ["429-after", "reset"] });
  const patient = new OpenAI({ baseURL: `${worker.url}/v1`, apiKey: KEY, maxRetries: 2 });
  const answer = await patient.chat.completions.create({ model: "org/large", messages });
  assert.equal(answer.choices[0].message.content, TEXT);
  assert.equal(double.log("edge").length, 3);
});

test("an error in the middle of a stream", async () => {
  define({ script: ["error-middle"] });
  const stream = await client.chat.completions.create({ model: "org/large", messages, stream: true });
  await assert.rejects(async () => {
    for await (const _ of stream);
  }, OpenAI.APIError);
});

test("an abort ends the upstream's transfer", async () => {
  define({ script: [{ after: 3, endless: true }] });
  const stream = await client.chat.completions.create({ model: "org/large", messages, stream: true });
  for await (const _ of stream) break;
  const [entry] = double.log("edge");
  while (!entry.gone) await new Promise(setImmediate);
});
