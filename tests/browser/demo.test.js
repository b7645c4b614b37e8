import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import {
  accessibilityViolations,
  conversationalist,
  launch,
  openPage,
  read,
  serve,
  story as published,
} from "./support.js";

const story = published.trimStart();

let browser, server, session, page, requests;

before(async () => {
  browser = await launch();
  server = await serve();
});
after(async () => {
  await browser?.close();
  await server?.close();
});
beforeEach(() => open());
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

async function open(options) {
  await session?.close();
  session = await openPage(browser, "about:blank", options);
  page = session.page;
  requests = [];
  page.on("request", (request) => requests.push(request.url()));
  await page.goto(`${server.url}/www/dist/index.html`);
  await written();
}

/** Waits until the model has written something and put down its pen. */
const written = () =>
  page.waitForFunction(() => !document.body.classList.contains("writing") && document.querySelector("#readout dd"));
const paper = () =>
  page
    .locator("#paper .passage")
    .last()
    .evaluate((passage) => passage.textContent);
const write = async (text) => {
  await page.fill("#input", text);
  await page.press("#input", "Enter");
  await written();
};
const set = (name, value) => page.locator(`[name=${name}]`).fill(String(value));
const greedy = async () => {
  await set("temperature", 0);
  await set("repeat_penalty", 1);
  await set("max_tokens", 400);
};
/** Presses a button as soon as it appears, quicker than a person could. */
const pressAtOnce = (selector) =>
  page.evaluate((selector) => {
    const press = () => {
      const button = document.querySelector(selector);
      if (!button || button.hidden) return false;
      button.click();
      return true;
    };
    new MutationObserver((_, observer) => press() && observer.disconnect()).observe(document.body, {
      subtree: true,
      childList: true,
      attributes: true,
    });
  }, selector);
/** Drops a file on the page. */
const drop = async (name, bytes) => {
  const data = await page.evaluateHandle(
    ([name, base64]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
      return data;
    },
    [name, Buffer.from(bytes).toString("base64")],
  );
  await page.dispatchEvent("body", "dragover", { dataTransfer: data });
  assert.ok(await page.isVisible("#drop"), "the page says where to let go");
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
  assert.ok(!(await page.isVisible("#drop")));
};

describe("the storyteller", () => {
  test("a story is there without any help, and nothing came from elsewhere", async () => {
    const text = await paper();
    assert.match(text, /^Once upon a time/);
    assert.ok(text.length > 100, text);
    assert.deepEqual(
      requests.filter((url) => !url.startsWith(server.url) && !url.startsWith("blob:")),
      [],
    );
    const [speed, first, tokens] = await page.locator("#readout dd").allTextContents();
    assert.ok(parseFloat(speed.replace(",", "")) > 0, speed);
    assert.match(first, /\d (ms|s)$/);
    assert.ok(parseInt(tokens) > 20, tokens);
  });

  test("at temperature 0 it writes the published story", async () => {
    await greedy();
    await write("");
    assert.equal(await paper(), story);
  });

  test("goes on from a given beginning, and from a suggestion", async () => {
    await write("Tom had a red hat");
    assert.match(await paper(), /^Tom had a red hat.{20}/s);
    await page.click("#chips button:nth-child(2)");
    await written();
    assert.match(await paper(), /^Lily found a big box.{20}/s);
  });

  for (const [how, stop] of [
    ["the button", () => pressAtOnce("#stop")],
    [
      "Escape",
      () =>
        page.evaluate(() => {
          new MutationObserver((_, observer) => {
            if (!document.querySelector(".fresh")) return;
            observer.disconnect();
            dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
          }).observe(document.body, { subtree: true, childList: true });
        }),
    ],
  ]) {
    test(`stops by ${how}, and continues to the same end`, async () => {
      await greedy();
      await stop();
      await write("Once upon a time");
      const begun = await paper();
      assert.ok(begun.length < story.length, "stopped before the end");
      assert.ok(story.startsWith(begun));
      await page.click("#actions button:has-text('Continue')");
      await written();
      assert.ok((await paper()).length > begun.length);
    });
  }

  test("the longest answer is kept to", async () => {
    await set("max_tokens", 7);
    await write("Once");
    assert.equal((await page.locator("#readout dd").allTextContents())[2], "7");
  });

  test("the same seed tells the same story", async () => {
    await set("seed", 11);
    await set("max_tokens", 60);
    await write("Once");
    const first = await paper();
    await write("Once");
    assert.equal(await paper(), first);
  });

  test("settings are explained, and can be reset", async () => {
    await set("temperature", 0.3);
    assert.equal(await page.textContent(".setting:has([name=temperature]) output"), "0.30");
    const hint = await page.getAttribute("[name=temperature]", "aria-describedby");
    assert.ok((await page.textContent(`#${hint}`)).length > 20);
    await page.click("text=Reset settings");
    assert.equal(await page.inputValue("[name=temperature]"), "0.7");
    await set("top_k", -3);
    assert.equal(await page.getAttribute("[name=top_k]", "aria-invalid"), "true");
  });

  test("says what it is", async () => {
    const facts = Object.fromEntries(
      await page
        .locator("#about-model dl div")
        .evaluateAll((rows) => rows.map((row) => [row.children[0].textContent, row.children[1].textContent])),
    );
    assert.equal(facts.Architecture, "llama");
    assert.match(facts.Weights, /1\.05 MB/);
    assert.match(facts["Runs on"], /CPU|GPU/);
    assert.ok(facts.Why.length > 5);
  });
});

describe("models of one's own", () => {
  test("a dropped file is opened", async () => {
    await drop("mine.gguf", conversationalist());
    await page.waitForSelector(".system");
  });

  test("dropped text is for the text box", async () => {
    const taken = await page.evaluate(() => {
      const dataTransfer = new DataTransfer();
      dataTransfer.setData("text/plain", "Once");
      return !document
        .querySelector("#input")
        .dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    });
    assert.ok(!taken);
  });

  test("a chosen file is opened", async () => {
    await page.setInputFiles("#file", { name: "mine.gguf", mimeType: "", buffer: conversationalist() });
    await page.waitForSelector(".system");
  });

  test("several files are one model", async () => {
    const names = [2, 1].map((index) => `llama-split-0000${index}-of-00002.gguf`);
    const files = names.map((name) => ({ name, mimeType: "", buffer: read(`tests/fixtures/models/${name}`) }));
    await page.setInputFiles("#file", files[0]);
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.match(await alert.textContent(), /llama-split-00001-of-00002\.gguf is missing/);
    await page.setInputFiles("#file", files);
    await alert.waitFor({ state: "detached" });
    await page.waitForFunction(() => /llama-split is open/.test(document.querySelector("#announcer").textContent));
  });

  test("what is no model is explained, and the model before stays", async () => {
    await drop("letter.gguf", Buffer.from("Dear Lily"));
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.match(await alert.textContent(), /letter\.gguf/);
    await write("Once");
    assert.match(await paper(), /^Once.{20}/s);
    assert.equal(await alert.count(), 0, "the next thing done clears the message");
  });

  test("opening can be cancelled", async () => {
    await pressAtOnce("#notices .loading button");
    await drop("mine.gguf", conversationalist());
    await page.waitForSelector("#notices .loading", { state: "detached" });
    assert.equal(await page.locator("[role=alert]").count(), 0);
    await write("Once");
    assert.match(await paper(), /^Once.{20}/s);
  });
});

describe("conversation", () => {
  const turns = () =>
    page.locator(".turn").evaluateAll((turns) => turns.map((turn) => turn.querySelector(".passage").textContent));

  beforeEach(async () => {
    await drop("mine.gguf", conversationalist());
    await page.waitForSelector(".system");
    await set("max_tokens", 20);
    await set("temperature", 0);
  });

  test("goes to and fro", async () => {
    await write("Hello");
    await write("And then?");
    const all = await turns();
    assert.equal(all.length, 4);
    assert.deepEqual([all[0], all[2]], ["Hello", "And then?"]);
    assert.ok(all[1].length > 0 && all[3].length > 0);
    assert.equal(await page.inputValue("#input"), "");
  });

  test("an answer can be had again, and a new conversation begun", async () => {
    await write("Hello");
    const before = await turns();
    await page.click("#actions button:has-text('Regenerate')");
    await written();
    assert.deepEqual(await turns(), before, "temperature 0");
    await page.click("#actions button:has-text('New conversation')");
    assert.deepEqual(await turns(), []);
  });

  test("the system prompt has an effect", async () => {
    await write("Hello");
    const [, without] = await turns();
    await page.click("#actions button:has-text('New conversation')");
    await page.click(".system summary");
    await page.fill("#system", "Once upon a time there was a big dog named Max.");
    await write("Hello");
    assert.notEqual((await turns())[1], without);
  });

  test("what comes back is text, never markup", async () => {
    await write("<img src=x onerror=alert(1)><b>bold</b>");
    assert.equal((await turns())[0], "<img src=x onerror=alert(1)><b>bold</b>");
    assert.equal(await page.locator("#paper img, #paper b").count(), 0);
  });

  test("too long a conversation is explained, and the words are not lost", async () => {
    const long = "Once upon a time ".repeat(500);
    await page.fill("#input", long);
    await page.press("#input", "Enter");
    await page.waitForSelector("[role=alert]");
    assert.match(await page.textContent("[role=alert]"), /too long/i);
    assert.equal(await page.inputValue("#input"), long);
    assert.deepEqual(await turns(), []);
  });
});

describe("for everyone", () => {
  for (const colorScheme of ["light", "dark"]) {
    for (const [size, viewport] of [
      ["desktop", { width: 1280, height: 900 }],
      ["phone", { width: 360, height: 740 }],
    ]) {
      test(`no accessibility violations: ${colorScheme}, ${size}`, async () => {
        await open({ colorScheme, viewport });
        await audit("story");
        await drop("letter.gguf", Buffer.from("Dear Lily"));
        await page.waitForSelector("[role=alert]");
        await audit("error");
        await drop("mine.gguf", conversationalist());
        await page.waitForSelector(".system");
        await write("Hello");
        await audit("conversation");
        const overflow = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        assert.equal(overflow, 0, "nothing sticks out at the side");
      });
    }
  }

  async function audit(state) {
    assert.deepEqual(await accessibilityViolations(page), [], state);
  }

  test("the keyboard reaches everything, the text box first", async () => {
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the text box");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "input");
    const order = [];
    // A story that is there already has a button of its own, "Continue": one stop more.
    for (let i = 0; i < 30 && order.at(-1) !== "Reset settings"; i++) {
      await page.keyboard.press("Tab");
      order.push(await page.evaluate(() => document.activeElement.name || document.activeElement.textContent.trim()));
    }
    for (const stop of ["Write", "Settings", "temperature", "seed", "Reset settings"]) {
      assert.ok(order.includes(stop), `${stop} in ${order.join(", ")}`);
    }
  });

  test("the focus goes on where a button goes away", async () => {
    const focused = () => page.evaluate(() => document.activeElement.id);
    await drop("letter.gguf", Buffer.from("Dear Lily"));
    await page.press("[role=alert] button:has-text('Dismiss')", "Enter");
    assert.equal(await focused(), "open");
    await drop("mine.gguf", conversationalist());
    await page.waitForSelector(".system");
    await set("max_tokens", 20);
    await write("Hello");
    await page.press("#actions button:has-text('Regenerate')", "Enter");
    await written();
    assert.equal(await focused(), "send");
    await page.press("#actions button:has-text('New conversation')", "Enter");
    await page.waitForFunction(() => document.activeElement.id === "send");
  });

  test("a finished text is announced once", async () => {
    await write("Tom had a red hat");
    assert.equal(`Tom had a red hat${await page.textContent("#announcer")}`, await paper());
    assert.equal(await page.getAttribute("#paper .passage", "aria-busy"), null);
  });
});
