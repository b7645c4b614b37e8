/** A GPU that goes away in the middle of an answer: it goes on. SwiftShader is the GPU here. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { start } from "../remote/server.js";
import { auto, beginning, begins, inOneBrowser, worker } from "./gpu-faults.js";

const own = inOneBrowser();

/** Tells the story and calls `lose` after some tokens: text, reports of the recovery, and where it ended. */
async function interrupted(options, lose, { times = 1, signal } = {}) {
  await own.page.evaluate(() => {
    window.tokens = 0;
    window.reports = [];
    window.fault = new BroadcastChannel("fault");
  });
  const answer = own.page.evaluate(
    async ([options, workerURL, abortAtRecovery, beginning]) => {
      const controller = new AbortController();
      const onProgress = (report) => {
        if (report.restarted === undefined || window.tokens === 0) return;
        window.reports.push(report);
        if (abortAtRecovery) controller.abort();
      };
      const engine = (window.engine = await load(story, { ...options, workerURL, onProgress }));
      let text = "";
      try {
        for await (const chunk of await engine.completions.create(
          { ...beginning, stream: true },
          { signal: controller.signal },
        )) {
          text += chunk.choices[0].text;
          window.tokens++;
        }
      } catch ({ code, message }) {
        return { text, code, message, info: engine.info, reports: window.reports };
      }
      return { text, info: engine.info, reports: window.reports };
    },
    [options, worker("none"), signal === "abort", beginning],
  );
  for (let round = 0; round < times; round++) {
    const before = await own.page.evaluate(() => window.tokens);
    // Back from the last loss, so that each hits a device of its own.
    const back = ([before, round]) =>
      window.tokens > before + 5 && window.reports.filter(({ stage }) => stage === "ready").length >= round;
    await Promise.race([answer, own.page.waitForFunction(back, [before, round], { polling: 5 })]);
    await lose();
  }
  return answer;
}

/** The next answer of the same engine. */
const next = () =>
  own.page.evaluate(async (beginning) => {
    const { text } = (await engine.completions.create(beginning)).choices[0];
    return { text, recoveries: engine.info.recoveries };
  }, beginning);

const destroy = () => own.page.evaluate(() => window.fault.postMessage("destroy"));

async function killGPUProcess() {
  const devtools = await own.browser.newBrowserCDPSession();
  const { processInfo } = await devtools.send("SystemInfo.getProcessInfo");
  const gpu = processInfo.find(({ type }) => type === "GPU");
  process.kill(gpu.id, "SIGKILL");
  await devtools.detach();
}

describe("a GPU that goes away in the middle of an answer", () => {
  for (const [how, lose] of [
    ["its device is destroyed", destroy],
    ["its process is killed", killGPUProcess],
  ]) {
    test(`${how}: the text is what it would have been`, async () => {
      const { text, info, reports, message } = await interrupted({ device: "gpu" }, lose);
      begins(text || message);
      assert.deepEqual([info.device, info.recoveries, info.wasm], ["gpu", 1, "candlewick.wasm"]);
      assert.equal(info.wasmReason, "the GPU was asked for");
      assert.match(info.deviceReason, /was lost and came back/);
      assert.equal(reports.at(-1).stage, "ready");
      assert.ok(
        reports.every(({ restarted }) => /lost/.test(restarted)),
        JSON.stringify(reports),
      );
    });
  }

  test("lost while idle: the next answer brings it back", async () => {
    const { text } = await interrupted({ device: "gpu" }, async () => {});
    begins(text);
    await destroy();
    const again = await next();
    begins(again.text);
    assert.equal(again.recoveries, 1);
  });

  // That the answer ends in device_lost where the CPU is not to go on, tests/gpu/life.rs has.
  test("lost again and again: the CPU goes on", async () => {
    const { text, info } = await interrupted(auto, destroy, { times: 4 });
    begins(text);
    assert.deepEqual([info.device, info.recoveries], ["cpu", 4]);
    assert.match(info.deviceReason, /lost/);
    begins((await next()).text);
  });

  test("gone for good before the first token: a hosted model answers, with the reason", async () => {
    const double = await start();
    try {
      const found = await own.page.evaluate(
        async ([workerURL, baseURL]) => {
          const remote = { baseURL, model: "org/large" };
          const engine = await load(story, { device: "gpu", workerURL, remote });
          const before = (await engine.completions.create({ ...greedy, max_tokens: 4 })).candlewick.ran;
          const fault = new BroadcastChannel("fault");
          await new Promise((destroyed) => {
            fault.onmessage = destroyed;
            fault.postMessage("destroy for good");
          });
          const answer = async () => {
            const chunks = await collect(await engine.completions.create({ ...greedy, stream: true }));
            return { text: text(chunks), ...chunks.find(({ candlewick }) => candlewick).candlewick };
          };
          return [before, await answer(), await answer()];
        },
        [worker("none"), double.define("lost")],
      );
      const [before, first, second] = found;
      assert.equal(before, "local");
      assert.deepEqual([first.text, first.ran], ["Süße Grüße: 你好 🌍, it works.", "remote"]);
      assert.match(first.reason, /stories260K\.gguf: the GPU was lost.*; no WebGPU adapter.*\[device_lost\]/);
      assert.deepEqual([second.text, second.ran, second.reason], [first.text, "remote", first.reason]);
      assert.equal(double.log("lost").length, 2);
    } finally {
      double.close();
    }
  });

  test("an abort while the model comes back leaves the engine ready", async () => {
    const { code } = await interrupted({ device: "gpu" }, destroy, { signal: "abort" });
    assert.equal(code, "aborted");
    begins((await next()).text);
  });
});
