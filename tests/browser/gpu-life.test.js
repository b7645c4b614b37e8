/** A GPU that is broken, or goes away: nothing of it breaks the page. SwiftShader is the GPU here. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { blank, launch, openPage, serve, softwareGPU, story } from "./support.js";

/**
 * The package's Worker after a change to its WebGPU: `fault` is run in it first, and again for every message on the
 * channel "fault".
 */
const broken = (fault) => `
  const channel = new BroadcastChannel("fault");
  let device;
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (descriptor) {
    return (device = await requestDevice.call(this, descriptor));
  };
  channel.onmessage = ({ data }) => data === "destroy" && device.destroy();
  ${fault}
  await import("/pkg/dist/worker.js");
`;

const FAULTS = {
  none: "",
  "no adapter": `GPU.prototype.requestAdapter = async () => null;`,
  "no WebGPU": `delete WorkerNavigator.prototype.gpu;`,
  "an adapter without features": `
    Object.defineProperty(GPUAdapter.prototype, "features", { get: () => new Set() });`,
  "a device request that fails": `
    GPUAdapter.prototype.requestDevice = async () => { throw new DOMException("the driver is out of order", "OperationError"); };`,
  "out of memory": `
    const { createBuffer } = GPUDevice.prototype;
    GPUDevice.prototype.createBuffer = function (descriptor) {
      if (descriptor.label === "weights") {
        const error = new GPUOutOfMemoryError("no memory is left");
        this.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
      }
      return createBuffer.call(this, descriptor);
    };`,
  "a driver that miscompiles subgroups": `
    const { createShaderModule } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      return createShaderModule.call(this, { ...descriptor, code: descriptor.code.replaceAll("subgroupAdd(", "1.1 * subgroupAdd(") });
    };`,
  "a driver that refuses subgroups": `
    const { createShaderModule } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      return createShaderModule.call(this, { ...descriptor, code: descriptor.code.replaceAll("subgroupAdd(", "subgroupOdd(") });
    };`,
  "a driver that miscompiles everything": `
    const { createShaderModule } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      return createShaderModule.call(this, { ...descriptor, code: descriptor.code.replaceAll("inverseSqrt(", "2.0 * inverseSqrt(") });
    };`,
  "no cache": `delete globalThis.caches;`,
};

let server, browser, session, page;
before(async () => {
  const routes = { "/": blank };
  const entries = Object.entries(FAULTS);
  entries.forEach(([, fault], index) => {
    routes[`/fault-${index}.js`] = (_, response) =>
      response.writeHead(200, { "content-type": "text/javascript" }).end(broken(fault));
  });
  server = await serve({ routes });
});
after(() => server?.close());
beforeEach(async () => {
  browser = await launch(softwareGPU);
  session = await openPage(browser, server.url);
  page = session.page;
  page.setDefaultTimeout(120_000);
  await page.waitForFunction(() => document.title === "ready");
});
afterEach(async () => {
  const { errors } = session;
  await browser.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

const worker = (fault) => `/fault-${Object.keys(FAULTS).indexOf(fault)}.js`;

/** Loads the storyteller and has it tell its story: what became of it. */
const tell = (fault, options) =>
  page.evaluate(
    async ([workerURL, options]) => {
      try {
        const engine = await load(story, { ...options, workerURL });
        const { text } = (await engine.completions.create(greedy)).choices[0];
        return { text, device: engine.info.device, reason: engine.info.deviceReason, gpu: engine.info.gpu };
      } catch ({ code, message }) {
        return { code, message };
      }
    },
    [worker(fault), options],
  );

const auto = { device: "auto", gpu: { software: true, faster: true } };

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
        assert.equal(result.text, story, JSON.stringify(result));
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
    const { text, gpu } = await tell("an adapter without features", { device: "gpu" });
    assert.equal(text, story);
    assert.ok(gpu.variants.includes("shared memory"), `${gpu.variants}`);
  });

  for (const fault of ["a driver that miscompiles subgroups", "a driver that refuses subgroups"]) {
    test(`${fault}: the self-test does without them, and remembers`, async () => {
      for (const cached of [false, true]) {
        const { text, gpu, message } = await tell(fault, { device: "gpu", gpu: { cache: fault } });
        assert.equal(text, story, message);
        assert.deepEqual([gpu.selfTest.cached, gpu.selfTest.off.map(({ variant }) => variant)], [cached, ["subgroups"]]);
        assert.ok(gpu.variants.includes("shared memory"), `${gpu.variants}`);
      }
    });
  }

  test("without a place to keep results, the self-test runs every time", async () => {
    for (let round = 0; round < 2; round++) {
      const { text, gpu } = await tell("no cache", { device: "gpu" });
      assert.equal(text, story);
      assert.equal(gpu.selfTest.cached, false);
    }
  });

  test("what cannot be switched off is refused, what can is", async () => {
    const error = await tell("none", { device: "gpu", gpu: { disable: ["wings"] } });
    assert.equal(error.code, "invalid_argument");
    assert.match(error.message, /wings/);
    const { text, gpu } = await tell("none", { device: "gpu", gpu: { disable: ["subgroups", "f16"] } });
    assert.equal(text, story);
    assert.ok(["shared memory", "kv f32"].every((name) => gpu.variants.includes(name)), `${gpu.variants}`);
  });
});

test("\"auto\" takes the GPU where it is faster, and says so", async () => {
  const { text, device, reason } = await tell("none", auto);
  assert.equal(text, story);
  assert.equal(device, "gpu");
  assert.match(reason, /ms a token on the GPU.*ms on the CPU/);
  const measured = await tell("none", { ...auto, gpu: { software: true, faster: false } });
  assert.deepEqual([measured.text, measured.device], [story, "cpu"]);
});

test("compiling and loading are stages of the progress", async () => {
  const stages = await page.evaluate(async () => {
    const stages = [];
    await load(story, { device: "gpu", onProgress: ({ stage }) => stages.at(-1) !== stage && stages.push(stage) });
    return stages;
  });
  assert.deepEqual(stages, ["load", "compile", "load", "ready"]);
});

/** Tells the story and calls `lose` after some tokens: text, reports of the recovery, and where it ended. */
async function interrupted(options, lose, { times = 1, signal } = {}) {
  await page.evaluate(() => {
    window.tokens = 0;
    window.reports = [];
    window.fault = new BroadcastChannel("fault");
  });
  const answer = page.evaluate(
    async ([options, workerURL, abortAtRecovery]) => {
      const controller = new AbortController();
      const onProgress = (report) => {
        if (report.restarted === undefined || window.tokens === 0) return;
        window.reports.push(report);
        if (abortAtRecovery) controller.abort();
      };
      const engine = (window.engine = await load(story, { ...options, workerURL, onProgress }));
      let text = "";
      try {
        for await (const chunk of await engine.completions.create({ ...greedy, stream: true }, { signal: controller.signal })) {
          text += chunk.choices[0].text;
          window.tokens++;
        }
      } catch ({ code, message }) {
        return { text, code, message, info: engine.info, reports: window.reports };
      }
      return { text, info: engine.info, reports: window.reports };
    },
    [options, worker("none"), signal === "abort"],
  );
  for (let round = 0; round < times; round++) {
    const before = await page.evaluate(() => window.tokens);
    await Promise.race([answer, page.waitForFunction((before) => window.tokens > before + 5, before, { polling: 5 })]);
    await lose();
  }
  return answer;
}

const destroy = () => page.evaluate(() => window.fault.postMessage("destroy"));

async function killGPUProcess() {
  const devtools = await browser.newBrowserCDPSession();
  const { processInfo } = await devtools.send("SystemInfo.getProcessInfo");
  const gpu = processInfo.find(({ type }) => type === "GPU");
  process.kill(gpu.id, "SIGKILL");
  await devtools.detach();
}

describe("a GPU that goes away in the middle of an answer", () => {
  for (const [how, lose] of [["its device is destroyed", destroy], ["its process is killed", killGPUProcess]]) {
    test(`${how}: the text is what it would have been`, async () => {
      const { text, info, reports, message } = await interrupted({ device: "gpu" }, lose);
      assert.equal(text, story, message);
      assert.deepEqual([info.device, info.recoveries], ["gpu", 1]);
      assert.match(info.deviceReason, /was lost and came back/);
      assert.equal(reports.at(-1).stage, "ready");
      assert.ok(reports.every(({ restarted }) => /lost/.test(restarted)), JSON.stringify(reports));
    });
  }

  test("lost while idle: the next answer brings it back", async () => {
    const { text } = await interrupted({ device: "gpu" }, async () => {});
    assert.equal(text, story);
    await destroy();
    const again = await page.evaluate(async () => {
      const { text } = (await engine.completions.create(greedy)).choices[0];
      return { text, recoveries: engine.info.recoveries };
    });
    assert.deepEqual(again, { text: story, recoveries: 1 });
  });

  test("lost again and again: the CPU goes on, or the answer ends in device_lost", async () => {
    const { text, info } = await interrupted(auto, destroy, { times: 4 });
    assert.equal(text, story);
    assert.deepEqual([info.device, info.recoveries], ["cpu", 4]);
    assert.match(info.deviceReason, /lost/);
    const error = await interrupted({ device: "gpu" }, destroy, { times: 4 });
    assert.equal(error.code, "device_lost", error.message);
    assert.ok(story.startsWith(error.text));
    const after = await page.evaluate(async () => (await engine.completions.create(greedy)).choices[0].text);
    assert.equal(after, story, "the next request tries again");
  });

  test("an abort while the model comes back leaves the engine ready", async () => {
    const { code } = await interrupted({ device: "gpu" }, destroy, { signal: "abort" });
    assert.equal(code, "aborted");
    const after = await page.evaluate(async () => (await engine.completions.create(greedy)).choices[0].text);
    assert.equal(after, story);
  });
});
