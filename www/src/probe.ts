import { inspect, type DeviceEstimate } from "candlewick";
import { quantizationOf, type Proposal, type Quantization } from "./catalogue.js";
import { bytes } from "./format.js";
import { recall, remember } from "./memory.js";
import { oneLayer } from "./one-layer.js";
import { switches } from "./switches.js";

/** What this device can do for a model that nobody has asked anyone about yet. */
export interface Device {
  name: "CPU" | "GPU";
  /** Bytes of weights that it reads in a second, at most. */
  bytesPerSecond: Record<Quantization, number>;
  /** Bytes that a page can count on, as far as the browser says. */
  memory?: number;
}

/** A measurement counts for a day: browsers and drivers are updated, and it may have met a busy moment. */
const LASTS = 24 * 3600_000;
/** So often it is made; the best counts, as whatever else the device does only slows it down. */
const ROUNDS = 3;
/** Beside the weights: the context's keys and values, activations, and what the browser itself wants. */
const BESIDE_WEIGHTS = 300e6;
/** Where the browser does not say how much memory there is. */
const USUAL_MEMORY = 3e9;

/**
 * Measures the device with matrices of the kind that models on the Hub have, without asking anybody: what is inspected
 * is a model of one layer, made up here. The storyteller, whose weights are small and not quantized, would mislead.
 */
export async function measure(): Promise<Device | undefined> {
  const { device, gpu } = switches();
  const asked = JSON.stringify([device, gpu?.disable, crossOriginIsolated]);
  const known = recall("device");
  if (known && known.asked === asked && Date.now() - known.time < LASTS) return known.device;
  const { devices, device: best } = await inspect(oneLayer("Q8_0"), { device, gpu });
  const found = devices.find((estimate) => estimate.device === best);
  if (!best || !found) return undefined;
  const measured: Device = {
    name: best === "gpu" ? "GPU" : "CPU",
    bytesPerSecond: { Q8_0: bytesPerSecond(found), Q4_K: 0 },
    ...(found.available !== undefined && { memory: found.available }),
  };
  for (let round = 0; round < ROUNDS; round++) {
    for (const type of ["Q4_K", "Q8_0"] as const) {
      const again = (await inspect(oneLayer(type), { device: best, gpu })).devices[0]!;
      measured.bytesPerSecond[type] = Math.max(measured.bytesPerSecond[type], bytesPerSecond(again));
    }
  }
  remember("device", { device: measured, asked, time: Date.now() });
  return measured;
}

const bytesPerSecond = ({ weights, predictedPerSecond = 0 }: DeviceEstimate) => weights * predictedPerSecond;

/** Tokens a second, at most about: each token reads all weights. */
export const speedOf = (proposal: Proposal, device: Device) =>
  device.bytesPerSecond[quantizationOf(proposal)] / proposal.size;

export function fits(size: number, { memory = USUAL_MEMORY }: Device): boolean {
  return size + BESIDE_WEIGHTS <= 0.8 * memory;
}

/** What the estimate is from. */
export const basis = (proposal: Proposal, { name, bytesPerSecond }: Device) =>
  `reckoned from a short measurement: the ${name} here reads up to ${bytes(bytesPerSecond[quantizationOf(proposal)])} of such weights a second`;
