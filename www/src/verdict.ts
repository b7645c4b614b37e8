import type { DeviceEstimate, Inspection, Verdict } from "candlewick";
import { pairs } from "./dom.js";
import { bytes, compact, count, rate } from "./format.js";

export const VERDICTS: Record<Verdict, string> = {
  fits: "Fits",
  tight: "Tight",
  "does not fit": "Does not fit",
  unknown: "Not sure",
};

/** What an inspection has found, for a `<dl>`. */
export function facts(inspection: Inspection): HTMLElement[] {
  const {
    name,
    architecture,
    parameters,
    quantization,
    fileSize,
    contextLength,
    chatTemplate,
    unsupported,
    devices,
    cached,
  } = inspection;
  return pairs([
    ["Model", `${name}, ${compact(parameters)} parameters, ${architecture ?? "unknown kind"}, ${quantization}`],
    ["Fetch", toFetch(fileSize, cached)],
    ...(unsupported === null ? [] : [["Cannot run", unsupported] as [string, string]]),
    ...devices.map((estimate): [string, string] => [estimate.device.toUpperCase(), onDevice(estimate)]),
    ...(contextLength === null ? [] : [["Context", `${count(contextLength)} tokens`] as [string, string]]),
    ["Use", chatTemplate === null ? "Continues text" : "Converses"],
  ]);
}

function toFetch(size: number, cached: Inspection["cached"]): string {
  if (cached?.complete) return `Nothing: all ${bytes(size)} are kept here`;
  if (cached?.stored) return `${bytes(size - cached.stored)}; ${bytes(cached.stored)} of it are here`;
  return bytes(size);
}

/** `Fits: needs 1.2 of 6 GB, at most about 30 tokens/s`. */
function onDevice({ verdict, total, available, reason, predictedPerSecond }: DeviceEstimate): string {
  const needs = `needs ${bytes(total)}${available === undefined ? "" : ` of about ${bytes(available)}`} of memory`;
  const speed = predictedPerSecond === undefined ? "" : `, at most about ${rate(predictedPerSecond)} tokens/s`;
  return `${VERDICTS[verdict]}: ${needs}${speed}${reason === undefined ? "" : `. ${reason}`}`;
}

/** The same in a sentence, for those who hear the page. */
export function sentence({ name, verdict, fileSize, predictedPerSecond }: Inspection): string {
  const speed = predictedPerSecond === null ? "" : `, at most about ${rate(predictedPerSecond)} tokens a second`;
  return `${name}: ${VERDICTS[verdict].toLowerCase()}, ${bytes(fileSize)}${speed}.`;
}
