/** A Worker with candlewick's own client of hosted models in it: tests ask it to ask. It is no part of what is deployed. */
import { Engine, initSync, Stopper } from "./candlewick.js";
import wasm from "./candlewick_bg.wasm";

const { memory } = initSync({ module: wasm });

export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/memory")
      return Response.json(await tell(new Uint8Array(await request.arrayBuffer())));
    return Response.json(await Promise.all((await request.json()).map(ask)));
  },
};

/** One streamed request: what came, how it ended, and after how many attempts. */
async function ask({ model, ...config }) {
  let [text, retries, attempts, code] = ["", 0, 0];
  try {
    const hosted = [{ model, config }];
    const engine = await Engine.load(
      new Stopper(),
      [],
      { device: "cpu", hub: {}, remote: { policy: { when: "always" }, hosted } },
      () => {},
    );
    const answer = engine.chat({ messages: [{ role: "user", content: "Hi" }], stream: true });
    for (let chunk; (chunk = await answer.next());) {
      if (chunk.retry) retries++;
      text += chunk.choices[0]?.delta?.content ?? "";
      attempts = chunk.candlewick?.attempts ?? attempts;
    }
  } catch (error) {
    code = error.code ?? String(error);
  }
  return { text, retries, attempts, code };
}

/** The whole context of a model, and the bytes of memory that WebAssembly has then. */
async function tell(bytes) {
  const engine = await Engine.load(new Stopper(), [bytes], { device: "cpu", threads: 1 }, () => {});
  const answer = engine.complete({ prompt: "", temperature: 0, max_tokens: 511, ignore_eos: true });
  while (await answer.next());
  const { usage } = await answer.result();
  return { tokens: usage.total_tokens, bytes: memory.buffer.byteLength };
}
