import type { Device, GPUFeature, HubOptions, LoadOptions } from "candlewick";

const query = new URLSearchParams(location.search);

/**
 * What the page's address asks for: `?device=gpu`, and `&gpu-disable=subgroups,f16` for what the GPU is to do without.
 * The engine refuses what it does not know.
 */
export function switches(): Pick<LoadOptions, "device" | "gpu"> {
  const device = (query.get("device") ?? "auto") as Device;
  const disable = query.getAll("gpu-disable").flatMap((names) => names.split(",").filter(Boolean)) as GPUFeature[];
  return { device, gpu: { disable } };
}

/** `?hub=https://…`: models come from this mirror of the Hub. */
export const hub: Pick<HubOptions, "hubURL"> = query.has("hub") ? { hubURL: query.get("hub")! } : {};

/** Whom the page asks for models. What is no address is shown as it is; the engine refuses it. */
export const hubHost = hostOf(hub.hubURL?.toString() ?? "https://huggingface.co");

function hostOf(address: string): string {
  return URL.canParse(address, document.baseURI) ? new URL(address, document.baseURI).host : address;
}
