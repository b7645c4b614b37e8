import type { EngineInfo } from "candlewick";
import { byId, pairs } from "./dom.js";
import { bytes, compact, count } from "./format.js";

/** Fills the panel about the model. */
export function describeModel(info: EngineInfo): void {
  const { memory } = info;
  byId("model-name", HTMLElement).textContent = info.name;
  byId("about-model", HTMLDetailsElement)
    .querySelector("dl")!
    .replaceChildren(
      ...pairs([
        ["Name", info.name],
        ["Architecture", info.architecture],
        ["Parameters", compact(info.parameters)],
        ["Weights", `${info.quantization}, ${bytes(info.fileSize)}`],
        ["Context", `${count(info.contextLength)} tokens (trained for ${count(info.trainedContextLength)})`],
        ["Shape", `${info.layers} layers, ${count(info.embeddingLength)} wide, ${info.heads} heads over ${info.kvHeads}`],
        ["Vocabulary", `${count(info.vocabularySize)} pieces`],
        ["Chat", chat(info.chatTemplate)],
        ["Runs on", place(info)],
        ["Why", info.deviceReason],
        ...selfTest(info),
        ["Memory", `${bytes(memory.weights)} weights, ${bytes(memory.kvCache)} context`],
      ]),
    );
}

function place({ gpu, threads = 1, wasm, wasmReason }: EngineInfo): string {
  if (gpu) return `GPU (${gpu.adapter}: ${gpu.variants.join(", ")})`;
  const alone = wasm === "candlewick.wasm" ? ` (${wasmReason})` : "";
  return `CPU, ${threads} ${threads === 1 ? "thread" : "threads"}${alone}`;
}

function chat(template: string | undefined): string {
  if (template === undefined) return "No, it continues text";
  return template === "model" ? "Yes, with its own template" : `Yes, as ${template.replace("named:", "")}`;
}

function selfTest({ gpu, recoveries }: EngineInfo): [string, string][] {
  if (!gpu?.selfTest) return [];
  const { cached, off, milliseconds } = gpu.selfTest;
  const without = off.map(({ variant, reason }) => ` Without ${variant}: ${reason}.`).join("");
  const passed = `${gpu.pipelines} kernels ready after ${count(Math.round(milliseconds))} ms, tested ${cached ? "on an earlier visit" : "now"}.${without}`;
  return [["Self-test", passed], ...(recoveries ? [["Lost and back", `${recoveries} times`] as [string, string]] : [])];
}
