import type { Capabilities, EngineInfo, RemoteInfo } from "candlewick";
import { byId, pairs } from "./dom.js";
import { bytes, compact, count } from "./format.js";
import type { AnyEngine } from "./mode.js";

type Row = [term: string, value: string];

const list = byId("about-model", HTMLDetailsElement).querySelector("dl")!;

/** Fills the panel about the model. */
export function describeModel(engine: AnyEngine): void {
  const { info } = engine;
  byId("model-name", HTMLElement).textContent = info.name;
  const rows = pairs(info.device === "remote" ? hostedRows(info) : localRows(info));
  list.replaceChildren(...rows);
  if (info.device !== "remote") return;
  // Its host knows the rest, if it tells.
  const add = (can: Capabilities) => rows[0]?.isConnected && list.append(...pairs(abilities(can)));
  engine.capabilities().then(add, () => {});
}

function hostedRows({ name, provider, deviceReason }: RemoteInfo): Row[] {
  return [
    ["Name", name],
    ["Runs on", `A hosted model, at ${provider}`],
    ["Why", deviceReason],
  ];
}

function abilities({ tools, vision, json, context }: Capabilities): Row[] {
  const known = Object.entries({ "calls tools": tools, "sees pictures": vision, "answers in JSON": json });
  const can = known.filter(([, can]) => can).map(([name]) => name);
  return [
    ...(context == null ? [] : [["Context", `${count(context)} tokens`] as Row]),
    ...(can.length === 0 ? [] : [["It also", can.join(", ")] as Row]),
  ];
}

function localRows(info: EngineInfo): Row[] {
  const { memory } = info;
  return [
    ["Name", info.name],
    ["Architecture", info.architecture],
    ["Parameters", compact(info.parameters)],
    ["Weights", `${info.quantization}, ${bytes(info.fileSize)}`],
    ["Context", `${count(info.contextLength)} tokens (trained for ${count(info.trainedContextLength)})`],
    ...(info.contextNote === undefined ? [] : [["Not more", info.contextNote] as Row]),
    ["Shape", `${info.layers} layers, ${count(info.embeddingLength)} wide, ${info.heads} heads over ${info.kvHeads}`],
    ["Vocabulary", `${count(info.vocabularySize)} pieces`],
    ["Chat", chat(info.chatTemplate)],
    ["Runs on", place(info)],
    ["Why", info.deviceReason],
    ...selfTest(info),
    ["Memory", `${bytes(memory.weights)} weights, ${bytes(memory.kvCache)} context`],
  ];
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

function selfTest({ gpu, recoveries }: EngineInfo): Row[] {
  if (!gpu?.selfTest) return [];
  const { cached, off, milliseconds } = gpu.selfTest;
  const without = off.map(({ variant, reason }) => ` Without ${variant}: ${reason}.`).join("");
  const passed = `${gpu.pipelines} kernels ready after ${count(Math.round(milliseconds))} ms, tested ${cached ? "on an earlier visit" : "now"}.${without}`;
  return [["Self-test", passed], ...(recoveries ? [["Lost and back", `${recoveries} times`] as Row] : [])];
}
