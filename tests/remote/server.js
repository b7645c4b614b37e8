// Plays Hugging Face's router and any other server with OpenAI's interface, with every way to fail that we know of.
// Rust's tests start it as a process, the browser's tests import it.
//
//   node tests/remote/server.js      prints {"url": URL}; ends with its standard input
//
// Many tests share it, each in a world of its own: `PUT /_/NAME` with a world (below) makes one, whose base address is
// URL/NAME/v1; `GET /_/NAME` gives the log of its requests.
//
// A world: {
//   script: ["fault" | {…}],   what the first requests meet, in order (`faults` below, or an answer of the same shape);
//                              those after them are answered
//   token,                     that requests must bring
//   models,                    what /v1/models lists
//   embeddings,                "tokens": one vector a token, as feature extraction does without pooling
//   bad,                       documents with this text cannot be embedded
//   image,                     "url" or "base64": how images come, unless as bytes
//   encoding,                  "gzip", "deflate" or "br": everything comes compressed, as proxies do it
// }
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";
import { brotliCompressSync, constants, deflateSync, gzipSync } from "node:zlib";

const json = (status, body, headers = {}) => ({
  status,
  body: JSON.stringify(body),
  headers: { "Content-Type": "application/json", ...headers },
});
const text = (status, body, type = "text/plain", headers = {}) => ({
  status,
  body,
  headers: { "Content-Type": type, ...headers },
});
const openai = (status, message, code, headers) =>
  json(status, { error: { message, type: code, code, param: null } }, headers);

/** Answers by name. Those with `stream` are streams of events: `events` before or instead of the real ones. */
export const faults = {
  none: {},
  400: openai(400, "temperature must be at most 2", "invalid_request_error"),
  "400-context": openai(400, "This model's maximum context length is 4096 tokens", "context_length_exceeded"),
  401: json(401, { error: "Invalid username or password." }),
  402: json(402, { error: "You have exceeded your monthly included credits." }),
  403: json(403, { message: "This token may not do that." }),
  404: text(404, "Not Found"),
  408: text(408, ""),
  410: json(410, { error: "https://api-inference.huggingface.co is no longer supported." }),
  422: json(422, { detail: [{ loc: ["body", "messages"], msg: "field required", type: "missing" }] }),
  425: text(425, "too early"),
  429: openai(429, "slow down", "rate_limit_exceeded"),
  "429-after": json(429, { error: "slow down" }, { "Retry-After": "0" }),
  "429-long": json(429, { error: "come back tomorrow" }, { "Retry-After": "86400" }),
  "429-second": json(429, { error: "slow down" }, { "Retry-After": "1" }),
  "429-limit": json(429, { error: "slow down" }, { RateLimit: '"api";r=0;t=0' }),
  500: json(500, { error: ["something", "broke"] }),
  502: text(502, "<html><head><title>502 Bad Gateway</title></head></html>", "text/html"),
  503: json(503, { detail: "overloaded" }),
  504: text(504, ""),
  loading: json(503, { error: "Model a/b is currently loading", estimated_time: 0.001 }),
  reset: { reset: true },
  cut: { cut: true },
  "error-200": openai(200, "upstream is down", "server_error"),
  "error-200-auth": openai(200, "Incorrect API key provided", "invalid_api_key"),
  nonsense: text(200, "<html>sign in to the hotel's network</html>", "text/html"),
  "error-first": { events: ['{"error":{"message":"no capacity","type":"server_error"}}'] },
  "error-first-fatal": { events: ['{"error":{"message":"unknown field","type":"invalid_request_error","code":400}}'] },
  "error-middle": { after: 2, events: ['{"error":{"message":"worker died","type":"server_error"}}'] },
  "cut-first": { after: 0, cut: true },
  "cut-role": { after: 1, cut: true },
  "cut-middle": { after: 3, cut: true },
  "end-role": { after: 1 },
  "end-middle": { after: 3 },
  garbage: { events: ['{"id":"x","choices":[{"index":0,"del'] },
  "garbage-middle": { after: 2, events: ["not json"] },
  shapeless: { events: ['{"id":"x","choices":"none"}'] },
  "failed-middle": { after: 2, events: ['{"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}'] },
  empty: { after: 0, done: true },
  "no-done": { done: false },
  slow: { pieces: 3 },
  windows: { newline: "\r\n" },
  comments: { comments: true },
  whole: { whole: true },
};

const answerText = "Süße Grüße: 你好 🌍, it works.";

/** The chunks of an answer, as the router sends them. */
function chunks(body, completion) {
  const common = {
    id: "chatcmpl-1",
    object: completion ? "text_completion" : "chat.completion.chunk",
    created: 1700000000,
    model: body.model,
    system_fingerprint: "fp",
  };
  const said = body.continue_final_message ? " and goes on." : typeof body.say === "string" ? body.say : answerText;
  const part = (content, finish_reason = null) => ({
    ...common,
    choices: [
      {
        index: 0,
        logprobs: null,
        finish_reason,
        ...(completion ? { text: content } : { delta: content === "" ? {} : { content } }),
      },
    ],
  });
  const role = { ...common, choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] };
  const words = said.split(/(?<= )/);
  if (body.tools) {
    const call = (tool_call) => ({
      ...common,
      choices: [{ index: 0, delta: { tool_calls: [{ index: 0, ...tool_call }] }, finish_reason: null }],
    });
    return [
      role,
      call({ id: "call_1", type: "function", function: { name: body.tools[0].function.name, arguments: "" } }),
      ...['{"city":', ' "Bern"}'].map((args) => call({ function: { arguments: args } })),
      { ...common, choices: [{ index: 0, delta: {}, finish_reason: "tool_calls" }] },
    ];
  }
  return [
    ...(completion ? [] : [role]),
    ...words.map((word) => part(word)),
    part("", body.max_tokens === 1 ? "length" : "stop"),
  ];
}

const usage = (body) => {
  const prompt_tokens = Math.ceil(JSON.stringify(body.messages ?? body.prompt).length / 4);
  return { prompt_tokens, completion_tokens: 7, total_tokens: prompt_tokens + 7, prompt_tokens_details: null };
};

/** The same as one piece. */
function whole(body, completion) {
  const parts = chunks(body, completion);
  const content = parts.map(({ choices: [choice] }) => choice.text ?? choice.delta?.content ?? "").join("");
  const calls = body.tools && [
    { id: "call_1", type: "function", function: { name: body.tools[0].function.name, arguments: '{"city": "Bern"}' } },
  ];
  const message = { role: "assistant", content: calls ? null : content, ...(calls ? { tool_calls: calls } : {}) };
  return {
    ...parts[0],
    object: completion ? "text_completion" : "chat.completion",
    choices: [
      {
        index: 0,
        logprobs: null,
        finish_reason: parts.at(-1).choices[0].finish_reason,
        ...(completion ? { text: content } : { message }),
      },
    ],
    usage: usage(body),
  };
}

/** A vector that depends on the text. */
const vector = (document) =>
  Array.from({ length: 4 }, (_, i) => ((document.charCodeAt(i % document.length) || 0) % 17) / 17);

const png = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg==",
  "base64",
);

const listed = [
  {
    id: "org/large",
    object: "model",
    architecture: { input_modalities: ["text", "image"], output_modalities: ["text"] },
    providers: [
      {
        provider: "fast",
        status: "live",
        context_length: 131072,
        pricing: { input: 2, output: 6 },
        supports_tools: true,
        supports_structured_output: true,
      },
      {
        provider: "cheap",
        status: "live",
        context_length: 32768,
        pricing: { input: 1, output: 3 },
        supports_tools: false,
        supports_structured_output: false,
      },
      { provider: "gone", status: "staging" },
    ],
  },
  { id: "org/small", object: "model", providers: [{ provider: "cheap", status: "live", context_length: 4096 }] },
];

/** Hugging Face's own inference: {inputs, parameters} → what each task answers. */
function task(world, path, body, request) {
  const list = Array.isArray(body.inputs) ? body.inputs : [body.inputs];
  if (path.endsWith("/pipeline/feature-extraction")) {
    if (world.bad !== undefined && list.some((document) => document.includes(world.bad)))
      return json(400, { error: "an input is too long" });
    return json(
      200,
      list.map((document) =>
        world.embeddings === "tokens" ? [vector(document), vector(document + "x")] : vector(document),
      ),
    );
  }
  const model = path.split("/").at(-1);
  if (typeof body.inputs !== "string") return json(422, { error: ["inputs must be a text"] });
  if (model.startsWith("image")) {
    if (world.image === "base64") return json(200, { images: [png.toString("base64")] });
    if (world.image === "url")
      return json(200, { data: [{ url: `http://${request.headers.host}/${world.name}/file.png?Signature=secret` }] });
    return { status: 200, body: png, headers: { "Content-Type": "image/png" } };
  }
  if (model.startsWith("sentiment"))
    return json(200, [
      [
        { label: "POSITIVE", score: 0.9 },
        { label: "NEGATIVE", score: 0.1 },
      ],
    ]);
  if (model.startsWith("summary")) return json(200, [{ summary_text: body.inputs.slice(0, 5) }]);
  if (model.startsWith("translate")) return json(200, [{ translation_text: body.inputs.toUpperCase() }]);
  return json(200, [{ generated_text: body.inputs + " and so on" }]);
}

function answer(world, path, body, request) {
  if (world.token !== undefined && request.headers.authorization !== `Bearer ${world.token}`) {
    // Some servers repeat what they were given.
    return json(401, { error: `Invalid credentials: ${request.headers.authorization}` });
  }
  switch (path) {
    case "v1/models":
      return json(200, { object: "list", data: world.models ?? listed });
    case "v1/chat/completions":
    case "v1/completions": {
      if (body.model === "org/none") return openai(404, "The model `org/none` does not exist", "model_not_found");
      const completion = path === "v1/completions";
      return body.stream
        ? { stream: chunks(body, completion), usage: body.stream_options?.include_usage && usage(body) }
        : json(200, whole(body, completion));
    }
    case "v1/embeddings":
      return json(200, {
        data: body.input.map((document, index) => ({ index, embedding: vector(document) })).reverse(),
        usage: { prompt_tokens: 3, total_tokens: 3 },
      });
    case "file.png":
      return { status: request.headers.authorization ? 400 : 200, body: png, headers: { "Content-Type": "image/png" } };
    default:
      return path.startsWith("hf-inference/models/")
        ? task(world, path, body, request)
        : json(404, { error: "Not Found" });
  }
}

/** A body as a proxy compresses it. */
function compress(body, encoding) {
  const pack = {
    gzip: gzipSync,
    "x-gzip": gzipSync,
    deflate: deflateSync,
    br: (bytes) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } }),
  }[encoding];
  return pack ? pack(body) : body;
}

/** 100 MB that are small while they are compressed. */
const bombs = {
  json: () => ({ status: 200, body: Buffer.alloc(100 << 20, " ") }),
  error: () => ({ status: 400, body: Buffer.alloc(100 << 20, " ") }),
  events: () => ({ status: 200, body: Buffer.alloc(100 << 20, `data: {"choices":[],"x":"${"x".repeat(4000)}"}\n\n`) }),
};

/** Writes an answer, with what goes wrong with it. */
async function send(response, answer, fault, encoding) {
  if (fault.reset) return response.socket.resetAndDestroy();
  if (encoding) response.setHeader("Content-Encoding", encoding);
  const { status, headers = {}, body: given } = fault.bomb ? bombs[fault.bomb]() : fault;
  if (status) return response.writeHead(status, headers).end(compress(given, encoding));
  if (!answer.stream) {
    if (fault.hang) return undefined; // Until the client goes.
    if (fault.cut) return response.socket.destroy();
    response.writeHead(answer.status, answer.headers);
    const body = compress(Buffer.from(answer.body), encoding);
    if (!(fault.pieces || fault.after !== undefined)) return response.end(body);
    response.write(body.subarray(0, fault.pieces ?? 2));
    return fault.pieces ? response.end(body.subarray(fault.pieces)) : response.socket.destroySoon();
  }
  if (fault.cut && fault.after === undefined) return response.socket.destroy();
  const newline = fault.newline ?? "\n";
  const event = (data) => `${fault.comments ? `: keep-alive${newline}` : ""}data: ${data}${newline}${newline}`;
  const parts = answer.stream
    .slice(0, fault.after ?? (fault.events ? 0 : undefined))
    .map((part) => JSON.stringify(part));
  const complete = fault.after === undefined && !fault.events;
  const plain = Buffer.from(
    [
      ...parts,
      ...(fault.events ?? []),
      ...(complete && answer.usage ? [JSON.stringify({ ...answer.stream[0], choices: [], usage: answer.usage })] : []),
      ...((fault.done ?? complete) ? ["[DONE]"] : []),
    ]
      .map(event)
      .join(""),
  );
  const body = compress(plain, encoding);
  response.writeHead(200, {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "x-inference-provider": "fast",
  });
  response.flushHeaders();
  const size = fault.pieces ?? body.length;
  const first = fault.hold ? Buffer.byteLength(event(parts[0])) : size;
  for (let at = 0, end = first; at < body.length; at = end, end += size) {
    await new Promise((written) => response.write(body.subarray(at, end), written));
    if (fault.hang) return undefined; // Until the client goes.
    await fault.hold; // A promise: what comes after the first event waits for it.
  }
  const more = event(JSON.stringify(fault.endless === true ? {} : (fault.endless ?? null)));
  while (fault.endless && !response.destroyed) await new Promise((written) => response.write(more, written));
  return fault.cut ? response.socket?.destroySoon() : response.end();
}

async function handle(worlds, request, response) {
  const url = new URL(request.url, "http://double");
  const [, name, ...rest] = decodeURIComponent(url.pathname).split("/");
  let raw = "";
  for await (const piece of request) raw += piece;
  if (name === "_") {
    if (request.method === "PUT") worlds.set(rest[0], { name: rest[0], script: [], log: [], ...JSON.parse(raw) });
    const world = worlds.get(rest[0]);
    return response.writeHead(world ? 200 : 404).end(JSON.stringify(world ? { log: world.log } : {}));
  }
  response.setHeader("Access-Control-Allow-Origin", "*");
  response.setHeader("Access-Control-Allow-Headers", "*, authorization");
  response.setHeader("Access-Control-Expose-Headers", "Retry-After, RateLimit, x-inference-provider");
  // Clients send again by themselves where a kept connection breaks: that would be one more than they count.
  response.setHeader("Connection", "close");
  if (request.method === "OPTIONS") return response.writeHead(204).end();
  const world = worlds.get(name);
  if (!world) return response.writeHead(404).end();
  const path = rest.join("/");
  const body = raw === "" ? {} : JSON.parse(raw);
  const met = world.script.shift() ?? "none";
  const fault = typeof met === "string" ? faults[met] : met;
  const entry = {
    path,
    query: url.search,
    authorization: request.headers.authorization,
    billTo: request.headers["x-hf-bill-to"],
    encodings: request.headers["accept-encoding"],
    body,
    fault: met,
    gone: false,
    cut: () => response.socket?.destroySoon(),
  };
  world.log.push(entry);
  response.on("close", () => (entry.gone = !response.writableFinished));
  if (fault === undefined) return response.writeHead(500).end(`no such fault: ${met}`);
  const given = answer(world, path, fault.whole ? { ...body, stream: false } : body, request);
  return send(response, given, fault, world.encoding);
}

/** Starts it: its address, and how to end it. `define` makes a world, `log` tells what was asked of it. */
export async function start() {
  const worlds = new Map();
  const server = createServer((request, response) =>
    handle(worlds, request, response).catch((error) => response.destroy(error)),
  );
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  return {
    url,
    define: (name, world = {}) => {
      worlds.set(name, { name, script: [], log: [], ...world });
      return `${url}/${name}/v1`;
    },
    log: (name) => worlds.get(name).log,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { url } = await start();
  console.log(JSON.stringify({ url }));
  process.stdin.on("end", () => process.exit()).resume();
}
