/** Workers with a GPU that is broken, for the tests of what comes of it. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach } from "node:test";
import { blank, launch, openPage, serve, softwareGPU, story } from "./support.js";

/**
 * What runs before the package's Worker: a change to its WebGPU, and a way to destroy its device from the page. It is an
 * import of its own, because messages to a Worker are lost until it listens.
 */
const broken = (fault) => `
  const channel = new BroadcastChannel("fault");
  let device;
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (descriptor) {
    return (device = await requestDevice.call(this, descriptor));
  };
  channel.onmessage = ({ data }) => {
    if (data === "destroyed") return; // Another Worker's.
    if (data === "destroy for good") GPU.prototype.requestAdapter = async () => null;
    device.destroy();
    channel.postMessage("destroyed");
  };
  ${fault}
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
  "no cache": `
    Object.defineProperty(globalThis, "caches", { get() { throw new DOMException("blocked", "SecurityError"); } });`,
};

const script = (text) => (_, response) => response.writeHead(200, { "content-type": "text/javascript" }).end(text);

/** The usual page, and a Worker for each fault. */
function serveFaults() {
  const routes = { "/": blank };
  Object.values(FAULTS).forEach((fault, index) => {
    routes[`/fault-${index}.js`] = script(broken(fault));
    routes[`/worker-${index}.js`] = script(`import "/fault-${index}.js"; import "/pkg/dist/worker.js";`);
  });
  return serve({ routes });
}

/**
 * A browser with SwiftShader as the GPU, and for each test a page in it. What self-tests found is kept from one test to
 * the next, as SwiftShader takes seconds for one: tests of these have caches of their own.
 */
export function inOneBrowser() {
  const own = {};
  let server, context, errors;
  before(async () => {
    server = await serveFaults();
    own.browser = await launch(softwareGPU);
    context = await own.browser.newContext();
  });
  after(async () => {
    await own.browser?.close();
    await server?.close();
  });
  beforeEach(async () => {
    ({ page: own.page, errors } = await openPage({ newContext: () => context }, server.url));
    await own.page.waitForFunction(() => document.title === "ready");
  });
  afterEach(async () => {
    await own.page.close();
    assert.deepEqual(errors, [], "uncaught errors in the page");
  });
  return own;
}

/** The beginning of the story is enough where each token takes SwiftShader long. */
export const beginning = { prompt: "", temperature: 0, max_tokens: 60 };

/** Whether `text` is the beginning of the story, as far as `beginning` goes. */
export const begins = (text) => assert.ok(story.startsWith(text) && text.length > 100, text);

/** The address of the Worker with a fault; "none" is one that can be told to destroy its device. */
export const worker = (fault) => `/worker-${Object.keys(FAULTS).indexOf(fault)}.js`;

/** For `device: "auto"`, which leaves renderers in software alone. */
export const auto = { device: "auto", gpu: { software: true, faster: true } };
