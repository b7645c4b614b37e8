import { finite, hubParams, locateFiles, place, type ModelFiles } from "./load.js";
import { checkNames } from "./options.js";
import { ask } from "./shared.js";
import type { InspectOptions, Inspection } from "./types.js";

/**
 * What a model is, what it needs, whether it fits here and how fast it would be, before it is fetched: its header is
 * read (some megabytes at most), and the devices are measured for a moment. A list is one model in several files.
 */
export async function inspect(source: ModelFiles, options: InspectOptions = {}): Promise<Inspection> {
  checkNames(options, "inspect()");
  const { device, threads, gpu } = options;
  const params = { device, contextLength: finite(options.contextLength), threads, gpu, hub: hubParams(options) };
  // With threads, where a load would have them: speed is measured.
  return ask(
    { method: "inspect", source: locateFiles(source), options: params },
    place(options, device !== "gpu"),
    options,
  );
}
