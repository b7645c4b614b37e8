/** A GPU that goes away in the middle of an answer: it goes on. SwiftShader is the GPU here. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { auto, eachInItsBrowser, worker } from "./gpu-faults.js";
import { story } from "./support.js";

const own = eachInItsBrowser();

/** Tells the story and calls `lose` after some tokens: text, reports of the recovery, and where it ended. */
async function interrupted(options, lose, { times = 1, signal } = {}) {
  await own.page.evaluate(() => {
    window.tokens = 0;
    window.reports = [];
    window.fault = new BroadcastChannel("fault");
  });
  const answer = own.page.evaluate(
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
    const before = await own.page.evaluate(() => window.tokens);
    await Promise.race([answer, own.page.waitForFunction((before) => window.tokens > before + 5, before, { polling: 5 })]);
    await lose();
  }
  return answer;
}

const destroy = () => own.page.evaluate(() => window.fault.postMessage("destroy"));

async function killGPUProcess() {
  const devtools = await own.browser.newBrowserCDPSession();
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
    const again = await own.page.evaluate(async () => {
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
    const after = await own.page.evaluate(async () => (await engine.completions.create(greedy)).choices[0].text);
    assert.equal(after, story, "the next request tries again");
  });

  test("an abort while the model comes back leaves the engine ready", async () => {
    const { code } = await interrupted({ device: "gpu" }, destroy, { signal: "abort" });
    assert.equal(code, "aborted");
    const after = await own.page.evaluate(async () => (await engine.completions.create(greedy)).choices[0].text);
    assert.equal(after, story);
  });
});
