import type { LoadOptions } from "candlewick";
import { byId, pairs } from "./dom.js";
import { count, rate } from "./format.js";
import type { AnyEngine } from "./mode.js";

/** For developers: `?profile` in the address has the model run on the GPU and its kernels measured. */
const profiling = new URLSearchParams(location.search).has("profile");

/** What that asks of the engine. */
export const kernelProfile: Pick<LoadOptions, "device" | "profile"> = profiling ? { device: "gpu", profile: true } : {};

/** Shows what each kernel has cost since the last time. */
export async function showKernels(engine: AnyEngine | undefined): Promise<void> {
  if (!profiling || !engine) return;
  const times = await engine.profile();
  const total = times.reduce((sum, { nanoseconds }) => sum + nanoseconds, 0);
  const panel = byId("kernels", HTMLDetailsElement);
  panel.hidden = false;
  panel
    .querySelector("dl")!
    .replaceChildren(
      ...pairs(
        times.map(({ kernel, calls, nanoseconds }) => [
          `${rate((100 * nanoseconds) / (total || 1))} %`,
          `${kernel}: ${rate(nanoseconds / calls / 1000)} µs × ${count(calls)}`,
        ]),
      ),
    );
}
