/** What someone who installed the package would write without TypeScript; each bundler's entry calls it. */
import { CandlewickError, load } from "candlewick";

export async function tell(options = {}) {
  const out = document.querySelector("pre");
  try {
    const engine = await load("/stories260K.gguf", options);
    const stream = await engine.completions.create({ prompt: "", temperature: 0, max_tokens: 40, stream: true });
    for await (const chunk of stream) out.textContent += chunk.choices[0]?.text ?? "";
    out.dataset.wasm = engine.info.wasm;
    out.dataset.threads = String(engine.info.threads);
    await engine.unload();
    document.title = "done";
  } catch (error) {
    document.title =
      error instanceof CandlewickError ? `${error.code}: ${error.message}` : `untyped: ${error?.stack ?? error}`;
  }
}
