/** A look at models before they are fetched, in a real Chromium, over a Hub that counts what is asked of it. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { writeRandomModel } from "../bench/random-model.js";
import { start } from "../hub/server.js";
import { blank, launch, openPage, repository, serve, softwareGPU, storyteller } from "./support.js";

const COMMIT = "0123456789012345678901234567890123456789";
const TOKEN = "hf_secretsecretsecret";
/** Bytes that follow the model in the file. */
const PADDING = 48 << 20;

let browser, hub, server, page, close, folder, thin;
/** A promise for each request for `/whole.gguf`: its client hung up. */
const hungUp = [];

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "candlewick-inspect-"));
  thin = join(folder, "thin.gguf");
  writeRandomModel(thin, "thirty-thin", "Q8_0");
  hub = await start();
  const files = { "thin-Q8_0.gguf": { file: thin } };
  const story = { "story.gguf": { file: join(repository, "www/models/stories260K.gguf") } };
  const world = {
    repos: {
      "owner/repo": { commit: COMMIT, files },
      "owner/story": { commit: COMMIT, files: story },
      "owner/private": { commit: COMMIT, files, token: TOKEN },
    },
  };
  await fetch(`${hub.hub}/_/inspect`, { method: "PUT", body: JSON.stringify(world) });
  server = await serve({
    routes: {
      "/": blank,
      "/whole.gguf": (_, response) => whole(response),
      // A device with as much memory as the query says. The package's Worker comes last.
      "/memory-worker.js": (request, response) =>
        script(response, `import "/memory.js${query(request)}"; import "/pkg/dist/worker.js";`),
      "/memory.js": (request, response) => {
        const gigabytes = Number(new URLSearchParams(query(request)).get("gigabytes"));
        script(response, `Object.defineProperty(navigator, "deviceMemory", { value: ${gigabytes} });`);
      },
    },
  });
  browser = await launch(softwareGPU);
  ({ page, close } = await openPage(browser, server.url));
  await page.waitForFunction(() => document.title === "ready");
});
after(async () => {
  await close?.();
  await browser?.close();
  await server?.close();
  hub?.close();
  rmSync(folder, { recursive: true });
});

const query = (request) => new URL(request.url, "http://localhost").search;
const script = (response, text) => response.setHeader("content-type", "text/javascript").end(text);

/** Knows nothing of ranges: sends the model, announces much more, and waits with that until the client hangs up. */
function whole(response) {
  hungUp.push(new Promise((resolve) => response.once("close", resolve)));
  response.setHeader("content-length", storyteller.length + PADDING);
  response.setHeader("content-type", "application/octet-stream");
  response.write(storyteller);
  // The header is read in pieces of up to 2 MB.
  response.write(Buffer.alloc(4 << 20));
}

const options = (more) => ({ hubURL: `${hub.hub}/inspect`, device: "cpu", ...more });
const look = (source, more) => page.evaluate(([source, options]) => inspect(source, options), [source, options(more)]);
const failure = (source, more) =>
  page.evaluate(([source, options]) => failure(inspect(source, options)), [source, options(more)]);
const log = async () => (await (await fetch(`${hub.hub}/_/inspect`)).json()).log;

/** Bytes that were asked of the CDN. */
async function asked() {
  const ranges = (await log()).filter(({ at }) => at === "cdn").map(({ line }) => /bytes=(\d+)-(\d+)/.exec(line));
  return ranges.reduce((sum, [, first, last]) => sum + Number(last) + 1 - Number(first), 0);
}

describe("a look at a model", () => {
  test("of the Hub reads its header only, keeps nothing, and knows what is kept", async () => {
    const size = readFileSync(thin).length;
    const seen = await look("owner/repo");
    const { devices, cached, ...facts } = seen;
    assert.deepEqual(
      { ...facts, predictedPerSecond: 0 },
      {
        name: "random thirty-thin",
        architecture: "llama",
        parameters: facts.parameters,
        quantization: "Q8_0",
        file: "thin-Q8_0.gguf",
        fileSize: size,
        tensors: facts.tensors,
        contextLength: 4096,
        trainedContextLength: 8192,
        embeddingLength: 64,
        layers: 30,
        vocabularySize: 32000,
        chatTemplate: "model",
        warnings: [],
        unsupported: null,
        verdict: "fits",
        device: "cpu",
        predictedPerSecond: 0,
      },
    );
    assert.deepEqual(cached, {
      model: "owner/repo/thin-Q8_0.gguf",
      commit: COMMIT,
      size,
      stored: 0,
      complete: false,
      lastUsed: 0,
    });
    assert.equal(devices.length, 1);
    const [cpu] = devices;
    assert.equal(cpu.total, cpu.weights + cpu.kvCache + cpu.working);
    assert.ok(cpu.predictedPerSecond > 0 && cpu.predictedPerSecond === facts.predictedPerSecond);
    // 2 × 30 layers × 2 heads × 16 numbers of 4 bytes.
    assert.equal(cpu.kvCache, 4096 * 2 * 30 * 2 * 16 * 4);
    assert.equal((await look("owner/repo", { contextLength: 1000 })).devices[0].kvCache, 1000 * 2 * 30 * 2 * 16 * 4);
    const bytes = await asked();
    assert.ok(bytes <= 2 * (2 << 20) && bytes < size, `${bytes} of ${size} bytes were fetched for two looks`);
    assert.deepEqual(await page.evaluate(() => models.list()), []);

    await page.evaluate(async (options) => (await load("owner/story", options)).unload(), options());
    const before = (await log()).length;
    const { cached: kept } = await look("owner/story");
    assert.ok(kept.complete && kept.stored === storyteller.length);
    assert.equal((await log()).length, before, "nobody was asked");
  });

  test("of an address stops where the header ends, also where the server sends everything", async () => {
    const url = `${server.url}/www/models/stories260K.gguf`;
    const seen = await look(url);
    assert.deepEqual(
      [seen.name, seen.file, seen.fileSize, seen.cached.stored],
      ["stories260K", "stories260K.gguf", storyteller.length, 0],
    );
    assert.equal((await look("./whole.gguf")).fileSize, storyteller.length + PADDING);
    assert.ok(hungUp.length > 0);
    await Promise.all(hungUp);
  });

  test("of a file, a Blob and bytes", async () => {
    const seen = await page.evaluate(async () => {
      const bytes = await (await fetch(story)).arrayBuffer();
      const sources = [
        new File([bytes], "mine.gguf"),
        new Blob([bytes]),
        bytes,
        new Uint8Array(bytes),
        URL.createObjectURL(new Blob([bytes])),
      ];
      return Promise.all(sources.map((source) => inspect(source, { device: "cpu" })));
    });
    assert.equal(seen[0].file, "mine.gguf");
    for (const { name, fileSize, cached, verdict } of seen) {
      assert.deepEqual([name, fileSize, cached, verdict], ["stories260K", storyteller.length, undefined, "fits"]);
    }
  });

  test("says fits, tight or does not fit by the memory there is", async () => {
    const {
      devices: [{ total }],
    } = await look("owner/repo");
    // Three quarters of a device's memory may be had.
    const judged = async (memory) => {
      const gigabytes = (total * memory) / 0.75 / 2 ** 30;
      return (await look("owner/repo", { workerURL: `/memory-worker.js?gigabytes=${gigabytes}` })).devices[0];
    };
    assert.deepEqual([(await judged(1.3)).verdict, (await judged(1.1)).verdict], ["fits", "tight"]);
    const { verdict, available, predictedPerSecond } = await judged(0.9);
    assert.deepEqual([verdict, predictedPerSecond], ["does not fit", undefined]);
    assert.ok(Math.abs(available - 0.9 * total) < 10, `${available} of ${total}`);
  });

  test("measures the GPU too", async () => {
    const seen = await look("owner/repo", { device: "auto", gpu: { software: true } });
    assert.deepEqual(
      seen.devices.map(({ device }) => device),
      ["cpu", "gpu"],
    );
    const [cpu, gpu] = seen.devices;
    assert.ok(gpu.predictedPerSecond > 0 && gpu.total > 0);
    assert.equal(seen.device, cpu.predictedPerSecond >= gpu.predictedPerSecond ? "cpu" : "gpu");
    // Renderers in software are left alone unless they are asked for.
    assert.deepEqual(
      (await look("owner/repo", { device: "auto" })).devices.map(({ device }) => device),
      ["cpu"],
    );
  });

  test("ends in errors that a load would end in, and with its signal", async () => {
    assert.equal((await failure("owner/nothing")).code, "model_not_found");
    assert.equal((await failure("./nothing.gguf")).code, "model_not_found");
    assert.equal((await failure("owner/repo", { contextLength: 0 })).code, "invalid_argument");
    assert.equal((await failure("owner/repo", { contextLength: 9000 })).code, "invalid_argument");
    assert.equal((await failure("owner/repo", { device: "npu" })).code, "invalid_argument");
    assert.equal((await failure("./pkg/dist/index.js")).code, "corrupt_model");
    assert.equal((await failure("")).code, "invalid_argument");
    assert.equal((await failure("owner/private")).code, "model_not_found");
    assert.equal((await look("owner/private", { token: TOKEN })).name, "random thirty-thin");
    const aborted = await page.evaluate((options) => {
      const controller = new AbortController();
      const looking = failure(inspect("owner/repo", { ...options, signal: controller.signal }));
      controller.abort();
      return looking;
    }, options());
    assert.deepEqual([aborted.code, aborted.name, aborted.typed], ["aborted", "AbortError", true]);
  });
});
