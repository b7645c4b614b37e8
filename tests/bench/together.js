// What an engine gains by doing several things at once, and by not doing them twice, in Chromium:
//   node tests/bench/together.js target/bench/smollm2-135m-Q4_0.gguf --threads 1 --joining 2000 [--encoder all-MiniLM-L6-v2-Q8_0.gguf]
// Answers at once with and without a prompt that joins, ten turns of a conversation, two conversations in turn, a beginning
// that is read back after a reload, and short texts together against one by one.
import { parseArgs } from "node:util";
import { relative, resolve } from "node:path";
import { blank, launch, openPage, repository, serve } from "../browser/support.js";
import { prompt } from "./random-model.js";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "1" },
    together: { type: "string", default: "1,2,4,8,16" },
    predict: { type: "string", default: "32" },
    /** Tokens of the prompt that joins, and of the beginning that is read back. */
    joining: { type: "string", default: "2000" },
    rounds: { type: "string", default: "3" },
    encoder: { type: "string" },
  },
});
const [threads, predict, joining, rounds] = [options.threads, options.predict, options.joining, options.rounds].map(
  Number,
);
const url = (path) => `/${relative(repository, resolve(path))}`;
const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

const headers = { "cross-origin-opener-policy": "same-origin", "cross-origin-embedder-policy": "require-corp" };
const server = await serve({ routes: { "/": blank }, ...(threads > 1 && { headers }) });
const browser = await launch();
const { page, close } = await openPage(browser, `${server.url}/`);
page.setDefaultTimeout(0);
const ready = () => page.waitForFunction(() => document.title === "ready");
await ready();

const open = (contextLength) =>
  page.evaluate(
    async ({ model, contextLength, threads }) => {
      window.engine = await load(model, { contextLength, threads, device: "cpu" });
      window.complete = (prompt, max_tokens, more) =>
        engine.completions.create({ prompt, max_tokens, temperature: 0, ignore_eos: true, ...more });
      await complete([5, 6, 7], 4); // warms up
    },
    { model: url(positionals[0]), contextLength, threads },
  );
await open(4096);

let turn = 0;
/** Tokens per second of `count` answers, and the longest wait between two tokens of one of them, in milliseconds. */
const together = (count, joins) =>
  page.evaluate(
    async ({ prompts, joins, predict }) => {
      let [tokens, longest, first, last] = [0, 0, Infinity, 0];
      const read = async (prompt) => {
        let before;
        for await (const _ of await complete(prompt, predict, { stream: true })) {
          const now = performance.now();
          first = Math.min(first, now);
          last = now;
          if (before !== undefined) longest = Math.max(longest, now - before);
          before = now;
          tokens++;
        }
      };
      const joined = async () => {
        await new Promise((go) => setTimeout(go, 200));
        await complete(joins, 1);
      };
      await Promise.all([...prompts.map(read), ...(joins ? [joined()] : [])]);
      return { speed: tokens / ((last - first) / 1000), longest };
    },
    {
      prompts: Array.from({ length: count }, (_, index) => prompt(32, 1000 + turn++).tokens),
      joins,
      predict,
    },
  );

console.log(`${threads} threads; tokens per second of all answers, longest wait`);
for (const count of options.together.split(",").map(Number)) {
  const found = { alone: [], joined: [] };
  for (let round = 0; round < rounds; round++) {
    found.alone.push(await together(count));
    found.joined.push(await together(count, prompt(joining, round + count * 10).tokens));
  }
  const line = Object.entries(found).map(([name, all]) => {
    const [speed, longest] = [median(all.map(({ speed }) => speed)), median(all.map(({ longest }) => longest))];
    return `${name === "joined" ? `with a prompt of ${joining} joining ` : ""}${speed.toFixed(1)}, ${longest.toFixed(0)} ms`;
  });
  console.log(`  ${String(count).padStart(2)} answers: ${line.join("; ")}`);
}

/** Milliseconds until the first token of each turn of conversations that take turns. */
const turns = (conversations, reuse) =>
  page.evaluate(
    async ({ texts, conversations, reuse }) => {
      const said = Array.from({ length: conversations }, (_, index) => [9 + index]);
      let waited = 0;
      for (const [turn, text] of texts.entries()) {
        const mine = said[turn % conversations];
        mine.push(...text);
        // Without reuse another beginning makes all of it new.
        if (!reuse) mine[0] = 20 + turn;
        const answer = await complete(mine, 16, { return_tokens: true });
        waited += answer.timings.time_to_first_token_ms;
        mine.push(...answer.choices[0].tokens);
      }
      return waited;
    },
    { texts: Array.from({ length: 10 }, (_, turn) => prompt(100, 700 + turn).tokens), conversations, reuse },
  );
for (const [name, conversations] of [
  ["ten turns of 100 tokens each", 1],
  ["the same in two conversations in turn", 2],
]) {
  const [without, reused] = [await turns(conversations, false), await turns(conversations, true)];
  console.log(
    `${name}: ${without.toFixed(0)} ms until first tokens in all, ${reused.toFixed(0)} ms with reuse (${(reused / without).toFixed(2)})`,
  );
}

const state = await page.evaluate(
  async ({ tokens }) => {
    const start = performance.now();
    const first = await complete(tokens, 8, { return_tokens: true });
    return { text: first.choices[0].tokens, computed: performance.now() - start };
  },
  { tokens: prompt(joining, 4711).tokens },
);
console.log(`a prompt of ${joining} tokens and 8 of an answer: ${state.computed.toFixed(0)} ms`);

const restored = await page
  .evaluate(
    async ({ tokens }) => {
      const content = await engine.detokenize(tokens);
      const start = performance.now();
      const count = await engine.pin("bench", { messages: [{ role: "system", content }] }, { persist: true });
      return { count, computed: performance.now() - start };
    },
    { tokens: prompt(joining, 4712).tokens },
  )
  .catch((error) => ({ error: error.message }));
if (restored.error) console.log(`no beginning was pinned: ${restored.error}`);
else {
  const content = await page.evaluate(({ tokens }) => engine.detokenize(tokens), {
    tokens: prompt(joining, 4712).tokens,
  });
  await page.reload();
  await ready();
  await open(4096);
  const read = await page.evaluate(async (content) => {
    const start = performance.now();
    const count = await engine.pin("bench", { messages: [{ role: "system", content }] }, { persist: true });
    return { count, read: performance.now() - start };
  }, content);
  const ratio = (read.read / restored.computed).toFixed(3);
  console.log(
    `a beginning of ${restored.count} tokens: ${restored.computed.toFixed(0)} ms to compute and keep, ${read.read.toFixed(0)} ms to read back after a reload (${ratio})`,
  );
}

if (options.encoder) {
  const ratio = await page.evaluate(
    async ({ model, threads, rounds }) => {
      const encoder = await load(model, { threads, device: "cpu" });
      const words = "the a little cat dog sat on near under mat tree house and then it ran away from".split(" ");
      const text = (index) =>
        Array.from({ length: 8 }, (_, at) => words[(index * 7 + at * 5 + at * index) % words.length]).join(" ");
      const texts = Array.from({ length: 64 }, (_, index) => text(index));
      await encoder.embed(texts);
      const times = { together: [], one: [] };
      for (let round = 0; round < rounds; round++) {
        let start = performance.now();
        await encoder.embed(texts);
        times.together.push(performance.now() - start);
        start = performance.now();
        for (const text of texts) await encoder.embed([text]);
        times.one.push(performance.now() - start);
      }
      return times;
    },
    { model: url(options.encoder), threads, rounds },
  );
  const [one, all] = [median(ratio.one), median(ratio.together)];
  console.log(
    `64 texts of 8 words: ${(64e3 / one).toFixed(0)} a second one by one, ${(64e3 / all).toFixed(0)} together (${(one / all).toFixed(2)})`,
  );
}
await close();
await browser.close();
await server.close();
