/** The Worker's own model under many requests at once: so many engines and no more, in order, within an isolate's memory. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { edge, reading, story } from "./support.js";

const body = { model: "stories260K", prompt: "", temperature: 0, max_tokens: 400 };
let worker;
before(async () => {
  worker = await edge();
});
after(() => worker?.close());

/** Asks again where the connection broke: the server in front of workerd resets some that come all at once. */
async function ask(more, init) {
  for (let left = 40; ; left--) {
    try {
      return await worker.ask("/v1/completions", { ...body, ...more }, init);
    } catch (error) {
      if (!(error instanceof TypeError) || left === 0) throw error;
      await new Promise((wake) => setTimeout(wake, 250));
    }
  }
}

/** Bytes that the workerd which this process has started holds. */
function memory() {
  const status = (pid) => readFileSync(`/proc/${pid}/status`, "utf8");
  const mine = readdirSync("/proc").filter((pid) => {
    try {
      return (
        /^\d+$/.test(pid) && new RegExp(`^Name:\\s+workerd\\n[^]*^PPid:\\s+${process.pid}$`, "m").test(status(pid))
      );
    } catch {
      return false;
    }
  });
  assert.ok(mine.length > 0, "no workerd");
  return Math.max(...mine.map((pid) => 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(status(pid))[1])));
}

/** What became of a request: the story, or how it was refused. */
async function outcome(response) {
  const answer = await response.json();
  if (response.status === 200) return answer.choices[0].text === story ? "told" : "another story";
  const { code, type } = answer.error;
  return `${response.status} ${code} ${type} ${response.headers.get("retry-after")}`;
}

test(
  "hundreds at once: each is told the story or when to come again",
  { skip: process.platform !== "linux" },
  async () => {
    await (await ask()).text();
    const one = memory();
    const all = await Promise.all(Array.from({ length: 300 }, async () => outcome(await ask())));
    const told = all.filter((each) => each === "told").length;
    assert.ok(told >= 8, `${told}`);
    assert.deepEqual(
      [...new Set(all)].filter((each) => each !== "told" && each !== "503 resource_exhausted server_error 5"),
      [],
    );
    const grown = (memory() - one) / 1e6;
    assert.ok(grown < 128, `${grown} MB more`);
    assert.equal(await outcome(await ask()), "told", "and goes on");
  },
);

test("those whose clients do not read, or leave, do not keep the others out", async () => {
  const { signal, abort } = ((controller) => ({ signal: controller.signal, abort: () => controller.abort() }))(
    new AbortController(),
  );
  const streams = await Promise.all(Array.from({ length: 60 }, () => ask({ stream: true, n: 16 }, { signal })));
  const begun = streams.filter(({ status }) => status === 200);
  const refused = streams.filter(({ status }) => status === 503);
  assert.equal(begun.length + refused.length, streams.length);
  assert.ok(begun.length >= 8 && refused.length > 0, `${begun.length} of ${streams.length} have begun`);
  await reading(begun[0]).until("\n\n");
  abort();
  for (let left = 20; left > 0; left--) {
    if ((await outcome(await ask())) === "told") return;
    await new Promise((wake) => setTimeout(wake, 500));
  }
  assert.fail("nobody was told a story after they had gone");
});

test("no request is larger than the model could read", async () => {
  const response = await ask({ prompt: "x".repeat(70_000) });
  const { error } = await response.json();
  assert.deepEqual([response.status, error.code], [413, "invalid_argument"]);
});
