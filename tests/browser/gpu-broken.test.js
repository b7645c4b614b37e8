/** A GPU that is broken: nothing of it breaks the page. SwiftShader is the GPU here. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { auto, beginning, begins, inOneBrowser, worker } from "./gpu-faults.js";

const own = inOneBrowser();

/** Loads the storyteller and has it begin its story: what became of it. Each fault has a cache of its own. */
const tell = (fault, options) =>
  own.page.evaluate(
    async ([workerURL, options, beginning]) => {
      try {
        const engine = await load(story, { ...options, workerURL });
        const { text } = (await engine.completions.create(beginning)).choices[0];
        return { text, device: engine.info.device, reason: engine.info.deviceReason, gpu: engine.info.gpu };
      } catch ({ code, message }) {
        return { code, message };
      }
    },
    [worker(fault), { ...options, gpu: { cache: fault, ...options.gpu } }, beginning],
  );

describe("a broken GPU", () => {
  for (const [fault, reason] of [
    ["no adapter", /no WebGPU adapter/],
    ["no WebGPU", /no WebGPU adapter/],
    ["a device request that fails", /cannot be opened.*out of order/],
    ["out of memory", /out of memory/],
    ["a driver that miscompiles everything", /failed the self-test/],
  ]) {
    test(`${fault}: the CPU takes over, or the error says what to do`, async () => {
      for (const options of [auto, { device: "gpu", fallback: true }]) {
        const result = await tell(fault, options);
        begins(result.text ?? result.message);
        assert.equal(result.device, "cpu");
        assert.match(result.reason, reason);
      }
      const error = await tell(fault, { device: "gpu" });
      assert.equal(error.code, "resource_exhausted", error.message);
      assert.match(error.message, reason);
      assert.match(error.message, /"cpu"/);
    });
  }

  test("an adapter without features runs the safest kernels", async () => {
    const { text, gpu, message } = await tell("an adapter without features", { device: "gpu" });
    begins(text ?? message);
    assert.ok(gpu.variants.includes("shared memory"), `${gpu.variants}`);
  });

  for (const fault of ["a driver that miscompiles subgroups", "a driver that refuses subgroups"]) {
    test(`${fault}: the self-test does without them, and remembers`, async () => {
      for (const cached of [false, true]) {
        const { text, gpu, message } = await tell(fault, { device: "gpu" });
        begins(text ?? message);
        assert.deepEqual(
          [gpu.selfTest.cached, gpu.selfTest.off.map(({ variant }) => variant)],
          [cached, ["subgroups"]],
        );
        assert.ok(gpu.variants.includes("shared memory"), `${gpu.variants}`);
      }
    });
  }

  test("what cannot be switched off is refused, what can is", async () => {
    const error = await tell("none", { device: "gpu", gpu: { disable: ["wings"] } });
    assert.equal(error.code, "invalid_argument");
    assert.match(error.message, /wings/);
    const { text, gpu, message } = await tell("none", { device: "gpu", gpu: { disable: ["subgroups", "f16"] } });
    begins(text ?? message);
    assert.ok(
      ["shared memory", "kv f32"].every((name) => gpu.variants.includes(name)),
      `${gpu.variants}`,
    );
  });
});

test('"auto" takes the GPU where it is faster, and says so', async () => {
  const { text, device, reason, message } = await tell("none", auto);
  begins(text ?? message);
  assert.equal(device, "gpu");
  assert.match(reason, /ms a token on the GPU.*ms on the CPU/);
  const measured = await tell("none", { ...auto, gpu: { software: true, faster: false } });
  begins(measured.text ?? measured.message);
  assert.equal(measured.device, "cpu");
});

test("compiling and loading are stages of the progress", async () => {
  const stages = await own.page.evaluate(async () => {
    const stages = [];
    await load(story, {
      device: "gpu",
      gpu: { cache: "none" },
      force: true,
      onProgress: ({ stage }) => stages.at(-1) !== stage && stages.push(stage),
    });
    return stages;
  });
  // The weights go to the device as they come, once it is ready for them.
  assert.deepEqual(stages, ["download", "compile", "download", "ready"]);
});

test("without a place to keep results, the self-test runs each time", async () => {
  // What an earlier test has found is kept under that name, for those who can read it.
  const kept = await tell("none", { device: "gpu" });
  const blind = await tell("no cache", { device: "gpu", gpu: { cache: "none" } });
  begins(blind.text ?? blind.message);
  assert.deepEqual([kept.gpu.selfTest.cached, blind.gpu.selfTest.cached], [true, false]);
});
