import { hubParams, locate, place, type ModelSource } from "./load.js";
import { ask } from "./shared.js";
import type { InspectOptions, Inspection } from "./types.js";

/**
 * What a model is, what it needs, whether it fits here and how fast it would be, before it is fetched: its header is
 * read (some megabytes at most), and the devices are measured for a moment.
 */
export async function inspect(source: ModelSource, options: InspectOptions = {}): Promise<Inspection> {
  const { device, contextLength, threads, gpu } = options;
  const params = { device, contextLength, threads, gpu, hub: hubParams(options) };
  // With threads, where a load would have them: speed is measured.
  return ask({ method: "inspect", source: locate(source), options: params }, place(options, device !== "gpu"), options);
}
