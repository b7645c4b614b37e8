interface Adapter {
  features: { has(feature: string): boolean };
  requestDevice(descriptor?: { requiredFeatures?: Iterable<string> }): Promise<unknown>;
}

/**
 * From now on asks for subgroups with every WebGPU device. wgpu cannot (gfx-rs/wgpu#10146): it knows the feature, but drops
 * it on the web. The engine looks at the device's own list of features afterwards.
 */
export function requestSubgroups(): void {
  const { GPUAdapter } = globalThis as { GPUAdapter?: { prototype: Adapter } };
  if (!GPUAdapter) return;
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = function (descriptor = {}) {
    const wanted = new Set(descriptor.requiredFeatures);
    if (this.features.has("subgroups")) wanted.add("subgroups");
    return requestDevice.call(this, { ...descriptor, requiredFeatures: [...wanted] });
  };
}
