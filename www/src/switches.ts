import type { Device, GPUFeature, LoadOptions } from "candlewick";

/**
 * What the page's address asks for: `?device=gpu`, and `&gpu-disable=subgroups,f16` for what the GPU is to do without.
 * The engine refuses what it does not know.
 */
export function switches(): LoadOptions {
  const query = new URLSearchParams(location.search);
  const device = (query.get("device") ?? "auto") as Device;
  const disable = query.getAll("gpu-disable").flatMap((names) => names.split(",").filter(Boolean)) as GPUFeature[];
  return { device, gpu: { disable } };
}
