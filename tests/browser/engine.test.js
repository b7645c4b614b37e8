import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { blank, launch, only, openPage, serve, story, storyteller } from "./support.js";

let browser, server, session, page;

before(async () => {
  browser = await launch();
  server = await serve({ routes: { "/": blank, "/no-ranges.gguf": storyteller } });
});
after(async () => {
  await browser?.close();
  await server?.close();
});
beforeEach(async () => {
  session = await openPage(browser, server.url);
  page = session.page;
  await page.waitForFunction(() => document.title === "ready");
});
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

describe("loading", () => {
  test("needs no special headers", async () => {
    assert.equal(await page.evaluate(() => crossOriginIsolated), false);
  });

  for (const [name, source] of [
    ["a relative URL", () => "./www/models/stories260K.gguf"],
    ["a path", () => "/www/models/stories260K.gguf"],
    ["an absolute URL", () => location.origin + "/www/models/stories260K.gguf"],
    ["a URL object", () => new URL("/www/models/stories260K.gguf", location.href)],
    ["a server without ranges", () => "no-ranges.gguf"],
    ["a Blob", async () => (await fetch(story)).blob()],
    ["a File", async () => new File([await (await fetch(story)).blob()], "my.gguf")],
    ["a blob: URL", async () => URL.createObjectURL(await (await fetch(story)).blob())],
    ["an ArrayBuffer", async () => (await fetch(story)).arrayBuffer()],
    ["a Uint8Array", async () => new Uint8Array(await (await fetch(story)).arrayBuffer())],
    [
      "a part of a larger buffer",
      async () => {
        const bytes = new Uint8Array(await (await fetch(story)).arrayBuffer());
        const larger = new Uint8Array(bytes.length + 300);
        larger.set(bytes, 100);
        return larger.subarray(100, 100 + bytes.length);
      },
    ],
  ]) {
    test(`from ${name}`, async () => {
      const handle = await page.evaluateHandle(source);
      const info = await page.evaluate(async (source) => (await load(source)).info, handle);
      assert.equal(info.architecture, "llama");
      assert.equal(info.layers, 5);
      assert.equal(info.fileSize, storyteller.length);
    });
  }

  test("where streams fill no buffers of their readers", async () => {
    const info = await page.evaluate(async (source) => {
      const worker = `const { getReader } = ReadableStream.prototype;
        ReadableStream.prototype.getReader = function (options) {
          if (options?.mode) throw new TypeError("no such readers here");
          return getReader.call(this);
        };
        import("${location.origin}/pkg/dist/worker.js").then(() => calls.forEach(([type, init]) => dispatchEvent(new MessageEvent(type, init))));
        const calls = [];
        addEventListener("message", ({ data, ports }) => calls.push(["message", { data, ports }]));`;
      const workerURL = URL.createObjectURL(new Blob([worker], { type: "text/javascript" }));
      return (await load(source, { workerURL })).info;
    }, "/www/models/stories260K.gguf");
    assert.deepEqual([info.layers, info.fileSize], [5, storyteller.length]);
  });

  test("leaves the caller's buffer alone, which may change meanwhile", async () => {
    const [size, layers] = await page.evaluate(async () => {
      const buffer = await (await fetch(story)).arrayBuffer();
      const loading = load(buffer);
      new Uint8Array(buffer).fill(0);
      return [buffer.byteLength, (await loading).info.layers];
    });
    assert.deepEqual([size, layers], [storyteller.length, 5]);
  });

  test("of files that are one model takes them in any order", async () => {
    const seen = await page.evaluate(async () => {
      const names = [1, 2].map((index) => `llama-split-0000${index}-of-00002.gguf`);
      const bytes = await Promise.all(
        names.map(async (name) => (await fetch(`/tests/fixtures/models/${name}`)).arrayBuffer()),
      );
      const [one, two] = names.map((name, index) => new File([bytes[index]], name));
      const size = one.size + two.size;
      const whole = [
        [[one, two]],
        [[two, one]],
        // Without names, their headers say which is which.
        [[new Blob([two]), new Blob([one])]],
        [[new File([two], "b (1).gguf"), bytes[0]]],
        [new Uint8Array([1, 2, 3]), [two, one]],
        Object.freeze([Object.freeze([URL.createObjectURL(two), URL.createObjectURL(one)])]),
      ];
      const sizes = [];
      for (const source of whole) {
        const reports = [];
        const engine = await load(source, { device: "cpu", onProgress: (report) => reports.push(report) });
        const steady = reports
          .filter(({ total }) => total > 3)
          .every(({ loaded }, index, all) => loaded >= (all[index - 1]?.loaded ?? 0));
        sizes.push([engine.info.fileSize === size, steady]);
        await engine.unload();
      }
      const inspected = await inspect([two, one], { device: "cpu" });
      const failures = [];
      for (const source of [
        one,
        [[two]],
        [[one, one]],
        [[one, new File([two], "other-00002-of-00002.gguf")]],
        [[new Blob([one])]],
        [[new Blob([one]), new Blob([one])]],
        [[]],
        [[new Blob([await (await fetch(story)).blob()]), new Blob([one])]],
      ]) {
        failures.push(await failure(load(source, { device: "cpu" })));
      }
      return { sizes, inspected: [inspected.fileSize === size, inspected.file], failures };
    });
    assert.deepEqual(seen.sizes, Array(6).fill([true, true]));
    assert.deepEqual(seen.inspected, [true, "llama-split-00001-of-00002.gguf"]);
    const expected = [
      ["model_not_found", /llama-split-00002-of-00002\.gguf is missing/],
      ["model_not_found", /llama-split-00001-of-00002\.gguf is missing/],
      ["invalid_argument", /given twice/],
      ["invalid_argument", /different models/],
      ["unsupported_model", /one part of a split model/],
      ["invalid_argument", /each of them once/],
      ["invalid_argument", /empty list/],
      ["invalid_argument", /whole model/],
    ];
    for (const [index, [code, words]] of expected.entries()) {
      assert.equal(seen.failures[index].code, code, `${index}: ${seen.failures[index].message}`);
      assert.ok(seen.failures[index].typed);
      assert.match(seen.failures[index].message, words);
    }
  });

  test("with a context as long as it may be", async () => {
    const seen = await page.evaluate(async () => {
      const contexts = [];
      for (const contextLength of ["max", { max: Infinity }, { max: 100 }, { max: 1e12 }, 200]) {
        const engine = await load(story, { device: "cpu", contextLength });
        const looked = await inspect(story, { device: "cpu", contextLength });
        contexts.push([engine.info.contextLength, engine.info.contextNote, looked.contextLength, looked.contextNote]);
        await engine.unload();
      }
      return contexts;
    });
    // A number that the Worker cannot have is no limit, and so no note.
    const note = seen[3][1];
    assert.deepEqual(seen, [
      [512, undefined, 512, undefined],
      [512, undefined, 512, undefined],
      [100, undefined, 100, undefined],
      [512, note, 512, note],
      [200, undefined, 200, undefined],
    ]);
    const limited = await page.evaluate(
      async () => (await inspect(story, { device: "cpu", contextLength: { max: 100_000 } })).contextNote,
    );
    assert.equal(limited, "The context is 512 tokens instead of 100000: the model was trained for no more.");
  });

  test("reports progress up to the end", async () => {
    const reports = await page.evaluate(async () => {
      const reports = [];
      await load(story, { onProgress: (progress) => reports.push(progress) });
      return reports;
    });
    const last = reports.at(-1);
    assert.equal(last.stage, "ready");
    assert.equal(last.progress, 1);
    assert.equal(last.loaded, last.total);
    assert.ok(
      reports.every(({ total }) => total === storyteller.length),
      JSON.stringify(reports),
    );
    for (const [earlier, later] of reports.map((report, i) => [report, reports[i + 1] ?? report])) {
      assert.ok(earlier.progress >= 0 && earlier.progress <= later.progress && later.progress <= 1, "progress grows");
    }
  });

  test("two engines do not disturb each other", async () => {
    const texts = await page.evaluate(async () => {
      const engines = await Promise.all([load(story), load(story)]);
      const answers = await Promise.all(
        engines.map((engine) => engine.completions.create({ ...greedy, max_tokens: 20 })),
      );
      return answers.map((answer) => answer.choices[0].text);
    });
    assert.equal(texts[0], texts[1]);
    assert.ok(story.startsWith(texts[0]));
  });
});

describe("completions", () => {
  test("stream the published story, token by token", async () => {
    const chunks = await page.evaluate(async () => {
      const engine = await load(story);
      return collect(await engine.completions.create({ ...greedy, stream: true }));
    });
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), story);
    assert.ok(chunks.length > 100, `${chunks.length} chunks`);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
    assert.ok(chunks.every((chunk) => chunk.object === "text_completion" && chunk.choices.length === 1));
  });

  test("give the whole story at once", async () => {
    const answer = await page.evaluate(async () => {
      const engine = await load(story);
      return engine.completions.create(greedy);
    });
    assert.equal(answer.choices[0].text, story);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.equal(answer.object, "text_completion");
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    assert.ok(answer.timings.predicted_per_second > 0);
  });

  test("include_usage appends one chunk without choices", async () => {
    const chunks = await page.evaluate(async () => {
      const engine = await load(story);
      return collect(
        await engine.completions.create({
          ...greedy,
          max_tokens: 5,
          stream: true,
          stream_options: { include_usage: true },
        }),
      );
    });
    assert.deepEqual(
      chunks.filter((chunk) => chunk.choices.length === 0),
      [chunks.at(-1)],
    );
    assert.equal(chunks.at(-1).usage.completion_tokens, 5);
    assert.equal(chunks.at(-2).choices[0].finish_reason, "length");
  });

  test("the same seed gives the same text, another seed another", async () => {
    const texts = await page.evaluate(async () => {
      const engine = await load(story);
      const ask = async (seed) =>
        (await engine.completions.create({ prompt: "Once", temperature: 1, seed, max_tokens: 40 })).choices[0].text;
      return [await ask(7), await ask(7), await ask(8)];
    });
    assert.equal(texts[0], texts[1]);
    assert.notEqual(texts[0], texts[2]);
  });

  test("toReadableStream() gives a JSON object a line", async () => {
    const body = await page.evaluate(async () => {
      const engine = await load(story);
      const stream = await engine.completions.create({ ...greedy, max_tokens: 8, stream: true });
      return new Response(stream.toReadableStream()).text();
    });
    const chunks = body
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    assert.ok(story.startsWith(chunks.map((chunk) => chunk.choices[0].text).join("")));
  });

  test("a stream is read once", async () => {
    const error = await page.evaluate(async () => {
      const engine = await load(story);
      const stream = await engine.completions.create({ ...greedy, max_tokens: 3, stream: true });
      await collect(stream);
      return failure(collect(stream));
    });
    assert.equal(error.code, "invalid_argument");
  });

  test("the reading of the prompt is reported beside the stream, not in it", async () => {
    const { reports, chunks } = await page.evaluate(async () => {
      const engine = await load(story);
      const reports = [];
      const chunks = await collect(
        await engine.completions.create(
          { ...greedy, prompt: "Once upon a time there was a dog. ".repeat(8), max_tokens: 3, stream: true },
          { onPromptProgress: (progress) => reports.push(progress) },
        ),
      );
      return { reports, chunks };
    });
    assert.ok(reports.length > 0);
    assert.equal(reports.at(-1).processed, reports.at(-1).total);
    assert.ok(chunks.every((chunk) => !("prompt_progress" in chunk)));
  });
});

describe("tokens", () => {
  test("tokenize and detokenize are inverse", async () => {
    const { ids, text, wrong } = await page.evaluate(async () => {
      const engine = await load(story);
      const ids = await engine.tokenize("Lily loved the park.");
      return { ids, text: await engine.detokenize(ids), wrong: await failure(engine.detokenize(null)) };
    });
    assert.equal(wrong.code, "invalid_argument");
    assert.ok(Array.isArray(ids) && ids.length > 3 && ids.every(Number.isInteger));
    assert.equal(text.trimStart(), "Lily loved the park.");
  });

  test("special adds the beginning of the text", async () => {
    const [plain, special] = await page.evaluate(async () => {
      const engine = await load(story);
      return [await engine.tokenize("Lily"), await engine.tokenize("Lily", { special: true })];
    });
    assert.deepEqual(special, [1, ...plain]);
  });

  test("token ids are accepted as a prompt", async () => {
    const [fromText, fromIds] = await page.evaluate(async () => {
      const engine = await load(story);
      const ask = async (prompt) =>
        (await engine.completions.create({ ...greedy, prompt, max_tokens: 20 })).choices[0].text;
      return [await ask("Once upon"), await ask(await engine.tokenize("Once upon", { special: true }))];
    });
    assert.equal(fromText, fromIds);
  });

  test("work while an answer is being written", async () => {
    const ids = await page.evaluate(async () => {
      const engine = await load(story);
      for await (const _ of await engine.completions.create({ ...greedy, stream: true }))
        return engine.tokenize("Lily");
    });
    assert.ok(ids.length > 0);
  });
});

describe("several requests", () => {
  test("are answered together, each as if it were alone", async () => {
    const { early, first, many } = await page.evaluate(async () => {
      const engine = await load(story);
      const short = { ...greedy, max_tokens: 20 };
      const stream = await engine.completions.create({ ...short, stream: true });
      const early = await engine.completions.create(short);
      const first = text(await collect(stream));
      const several = Array.from({ length: 6 }, () => engine.completions.create(short));
      const many = (await Promise.all(several)).map((answer) => answer.choices[0].text);
      return { early: early.choices[0].text, first, many };
    });
    assert.ok(story.startsWith(first) && first.length > 20);
    assert.equal(early, first);
    assert.deepEqual(many, Array(6).fill(first));
  });

  test("are answered together, with several choices each", async () => {
    const { alone, choices } = await page.evaluate(async () => {
      const engine = await load(story);
      const drawn = { prompt: "Once upon a time", max_tokens: 16, temperature: 0.9 };
      const answers = [3, 4].map((seed) => engine.completions.create({ ...drawn, seed, n: 2 }));
      const choices = (await Promise.all(answers)).map((answer) => answer.choices.map((choice) => choice.text));
      const alone = [];
      for (const seed of [3, 4, 5]) {
        const again = await load(story);
        alone.push((await again.completions.create({ ...drawn, seed })).choices[0].text);
        await again.unload();
      }
      return { alone, choices };
    });
    assert.deepEqual(choices, [alone.slice(0, 2), alone.slice(1)]);
  });

  test("wait where there is no room beside the others", async () => {
    const { early, first, second } = await page.evaluate(async () => {
      const engine = await load(story);
      // Each may fill the whole context.
      const long = { ...greedy, max_tokens: 100_000 };
      const stream = await engine.completions.create({ ...long, stream: true });
      const waiting = engine.completions.create(long);
      const early = await Promise.race([waiting, sleep(300)]);
      return { early, first: text(await collect(stream)), second: (await waiting).choices[0].text };
    });
    assert.equal(early, undefined);
    assert.equal(first, story);
    assert.equal(second, story);
  });

  test("that wait can be aborted, and give their place on", async () => {
    const { error, third } = await page.evaluate(async () => {
      const engine = await load(story);
      const long = { ...greedy, max_tokens: 100_000 };
      const stream = await engine.completions.create({ ...long, stream: true });
      const controller = new AbortController();
      const second = failure(engine.completions.create(long, { signal: controller.signal }));
      const third = engine.completions.create(long);
      await sleep(50);
      controller.abort();
      const error = await second;
      await collect(stream);
      return { error, third: (await third).choices[0].text };
    });
    assert.equal(error.code, "aborted");
    assert.equal(third, story);
  });

  test("the worker stays only a few chunks ahead of a slow consumer", async () => {
    const { received, total } = await page.evaluate(async () => {
      let received = 0;
      const Channel = MessageChannel;
      window.MessageChannel = class extends Channel {
        constructor() {
          super();
          this.port1.addEventListener("message", ({ data }) => (received += "chunk" in data));
        }
      };
      const engine = await load(story);
      const chunks = (await engine.completions.create({ ...greedy, stream: true }))[Symbol.asyncIterator]();
      await chunks.next();
      while (received < 2) await sleep(10);
      await sleep(500);
      const ahead = received;
      let total = 1;
      while (!(await chunks.next()).done) total++;
      return { received: ahead, total };
    });
    assert.ok(received <= 17, `${received} chunks had arrived when one was taken`);
    assert.ok(total > 100);
  });
});

describe("aborting", () => {
  test("in the middle of a stream, then generating again", async () => {
    const { taken, error, again } = await page.evaluate(async () => {
      const engine = await load(story);
      const controller = new AbortController();
      let taken = 0;
      const read = async () => {
        for await (const _ of await engine.completions.create(
          { ...greedy, stream: true },
          { signal: controller.signal },
        )) {
          if (++taken === 10) controller.abort();
        }
      };
      const error = await failure(read());
      return { taken, error, again: (await engine.completions.create(greedy)).choices[0].text };
    });
    assert.equal(taken, 10);
    assert.deepEqual([error.typed, error.code, error.name], [true, "aborted", "AbortError"]);
    assert.equal(again, story);
  });

  test("by leaving the loop", async () => {
    const again = await page.evaluate(async () => {
      const engine = await load(story);
      for (let round = 0; round < 5; round++) {
        for await (const _ of await engine.completions.create({ ...greedy, stream: true })) break;
      }
      return (await engine.completions.create(greedy)).choices[0].text;
    });
    assert.equal(again, story);
  });

  for (const [how, leave] of [
    ["by leaving before the first chunk", (stream) => stream[Symbol.asyncIterator]().return()],
    ["by cancelling a ReadableStream", (stream) => stream.toReadableStream().cancel()],
    [
      "by cancelling one that is being read",
      async (stream) => {
        const reader = stream.toReadableStream().getReader();
        await reader.read();
        const next = reader.read();
        await reader.cancel();
        await next;
      },
    ],
  ]) {
    test(how, async () => {
      const way = await page.evaluateHandle(`({ leave: ${leave} })`);
      const again = await page.evaluate(async ({ leave }) => {
        const engine = await load(story);
        await leave(await engine.completions.create({ ...greedy, stream: true }));
        // It would wait for ever for a stream that nobody reads.
        return (await engine.completions.create(greedy)).choices[0].text;
      }, way);
      assert.equal(again, story);
    });
  }

  test("by leaving while chunks are waited for", async () => {
    const { first, last, again } = await page.evaluate(async () => {
      const engine = await load(story);
      const chunks = (await engine.completions.create({ ...greedy, stream: true }))[Symbol.asyncIterator]();
      const waited = Array.from({ length: 100 }, () => chunks.next());
      const first = await waited[0];
      await chunks.return();
      return {
        first: first.done,
        last: (await waited.at(-1)).done,
        again: (await engine.completions.create(greedy)).choices[0].text,
      };
    });
    // Of a hundred it can have made no more than it may be ahead.
    assert.deepEqual([first, last], [false, true]);
    assert.equal(again, story);
  });

  test("a whole answer under way", async () => {
    const { error, again } = await page.evaluate(async () => {
      const engine = await load(story);
      const controller = new AbortController();
      const answer = failure(
        engine.completions.create(greedy, { signal: controller.signal, onPromptProgress: () => controller.abort() }),
      );
      return { error: await answer, again: (await engine.completions.create(greedy)).choices[0].text };
    });
    assert.equal(error.code, "aborted");
    assert.equal(again, story);
  });

  test("before anything starts", async () => {
    const codes = await page.evaluate(async () => {
      const signal = AbortSignal.abort();
      const engine = await load(story);
      const errors = [
        failure(load(story, { signal })),
        failure(engine.completions.create(greedy, { signal })),
        failure(engine.completions.create({ ...greedy, stream: true }, { signal })),
        failure(engine.tokenize("Lily", { signal })),
      ];
      return (await Promise.all(errors)).map((error) => error.code);
    });
    assert.deepEqual(codes, ["aborted", "aborted", "aborted", "aborted"]);
  });

  test("a signal that fires after the end does no harm", async () => {
    const again = await page.evaluate(async () => {
      const engine = await load(story);
      const controller = new AbortController();
      await collect(
        await engine.completions.create({ ...greedy, max_tokens: 3, stream: true }, { signal: controller.signal }),
      );
      controller.abort();
      return (await engine.completions.create(greedy)).choices[0].text;
    });
    assert.equal(again, story);
  });
});

describe("unloading", () => {
  test("ends what is under way and refuses what comes later", async () => {
    const { pending, streaming, later } = await page.evaluate(async () => {
      const engine = await load(story);
      const stream = await engine.completions.create({ ...greedy, stream: true });
      const pending = failure(engine.completions.create(greedy));
      const streaming = failure(collect(stream));
      await engine.unload();
      await engine.unload();
      const later = [failure(engine.completions.create(greedy)), failure(engine.tokenize("Lily"))];
      return { pending: await pending, streaming: await streaming, later: await Promise.all(later) };
    });
    assert.equal(pending.code, "aborted");
    assert.equal(streaming.code, "aborted");
    for (const error of later) {
      assert.equal(error.code, "invalid_argument");
      assert.match(error.message, /unloaded/);
    }
  });

  test("ends the Worker", only(["chromium"], "its driver does not tell of Workers"), async () => {
    await page.evaluate(async () => {
      window.engine = await load(story);
    });
    assert.equal(page.workers().length, 1);
    await Promise.all([page.workers()[0].waitForEvent("close"), page.evaluate(() => engine.unload())]);
    assert.equal(page.workers().length, 0);
  });

  test("a failed load leaves no Worker behind", only(["chromium"], "its driver does not tell of Workers"), async () => {
    await page.evaluate(() => failure(load("/nowhere.gguf")));
    // The test's own time limit ends the wait for one that stays.
    while (page.workers().length > 0) await page.waitForTimeout(20);
  });
});
