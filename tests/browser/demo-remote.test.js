/** The demo page and hosted models: the double of the router is tests/remote/server.js. */
import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { start } from "../remote/server.js";
import { accessibilityViolations, conversationalist, launch, openPage, publishedHeaders, serve } from "./support.js";

const TOKEN = "hf_secretsecretsecret";
const TEXT = "Süße Grüße: 你好 🌍, it works.";

let browser, server, double, session, page, requests;

before(async () => {
  browser = await launch();
  server = await serve({ headers: publishedHeaders() });
  double = await start();
});
after(async () => {
  await browser?.close();
  await server?.close();
  double?.close();
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
  // Everything that the page and its Worker send.
  page.context().on("request", (request) => requests.push(request.url()));
  await page.goto(`${server.url}/www/dist/index.html?device=cpu`);
  await written();
  await page.locator("[name=max_tokens]").fill("20");
}

const written = () =>
  page.waitForFunction(() => !document.body.classList.contains("writing") && document.querySelector("#readout dd"));
const note = () => page.locator("#paper .origin").last().textContent();
const name = () => page.textContent("#model-name");
/** Requests for answers, as the double has seen them. */
const answers = (world) => double.log(world).filter(({ path }) => path.endsWith("completions"));

/** Does what makes the page open a model, and waits until it has. */
async function opens(what) {
  await page.evaluate(() => (document.querySelector("#announcer").textContent = ""));
  await what();
  await page.waitForFunction(() => document.querySelector("#announcer").textContent.endsWith("is open."));
}

/** Sets the panel, and waits until the model was loaded with it. */
async function use({ when, models = "org/large", address, token = "", budget = "" }) {
  await page.evaluate(() => (document.querySelector("#hosted").open = true));
  await page.check(`#when-${when}`);
  await page.fill("#hosted-address", address);
  await page.fill("#hosted-models", models);
  await page.fill("#hosted-token", token);
  await page.fill("#hosted-budget", budget);
  await opens(() => page.click("#hosted button[type=submit]"));
  // Of a hosted model its host is asked what it can do.
  if (when === "always") await page.waitForSelector("#about-model dt:text-is('Context')");
}

async function say(text) {
  await page.fill("#input", text);
  await page.press("#input", "Enter");
  await page.waitForFunction(() => document.querySelector("#paper .origin:not([hidden])"));
  await written();
}

/** Opens a file from the reader's disk; without a name, a model that converses. */
const openFile = (name = "talker.gguf", buffer = conversationalist()) =>
  opens(() => page.setInputFiles("#file", { name, mimeType: "", buffer }));

describe("hosted models", () => {
  test("are not asked unless they were chosen, and then the page says so", async () => {
    assert.match(await note(), /^On this device · CPU$/);
    assert.match(await page.textContent("#tagline"), /What you type stays here/);
    const address = double.define("chosen", { token: TOKEN });
    await page.evaluate(() => (document.querySelector("#hosted").open = true));
    await page.check("#when-always");
    await page.click("#hosted button[type=submit]");
    assert.equal(await page.evaluate(() => document.activeElement.id), "hosted-models", "a model must be named");
    await page.fill("#hosted-models", "org/large");
    await page.fill("#hosted-address", "nonsense");
    await page.click("#hosted button[type=submit]");
    assert.equal(await page.evaluate(() => document.activeElement.id), "hosted-address");
    assert.match(await page.textContent("#hosted [role=status]"), /nothing you type leaves this device/);
    assert.deepEqual(
      requests.filter((url) => !url.startsWith(server.url) && !url.startsWith("blob:")),
      [],
    );

    await use({ when: "always", address, token: TOKEN });
    const host = new URL(double.url).host;
    assert.match(await page.textContent("#tagline"), new RegExp(`What you type goes to ${host}`));
    assert.equal(await name(), "org/large");
    await say("Hi");
    assert.equal(await page.locator("#paper .passage").last().textContent(), TEXT);
    assert.equal(await note(), `Hosted · org/large at ${host}/fast · ${await price()} · why: when is "always"`);
    assert.match(await page.textContent("#hosted dl"), /org\/largeAsked once: \d+ tokens, \$0\.0/);
    const kept = await page.evaluate(() =>
      JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]),
    );
    assert.ok(![kept, ...requests].some((text) => text.includes(TOKEN)));
    const { authorization, body } = answers("chosen").at(-1);
    assert.equal(authorization, `Bearer ${TOKEN}`);
    assert.ok(!JSON.stringify(body).includes(TOKEN));

    await use({ when: "never", address });
    assert.match(await page.textContent("#tagline"), /What you type stays here/);
    await page.press("#input", "Enter");
    await page.waitForFunction(() =>
      /^On this device/.test(document.querySelector("#paper .origin:not([hidden])")?.textContent),
    );
    assert.equal(answers("chosen").length, 1);
  });

  /** What the page says an answer has cost. */
  const price = async () => /\$[\d.]+/.exec(await note())?.[0];

  test("that fail are asked again while the page says so, and the wait can be stopped", async () => {
    const address = double.define("again", { script: ["none", "429-after", "500", { after: 1, hang: true }] });
    await use({ when: "always", address });
    await page.fill("#input", "Hi");
    await page.press("#input", "Enter");
    await page.waitForSelector("#paper .origin:has-text('Attempt 2 failed (provider_error')");
    while (answers("again").length < 3) await new Promise(setImmediate);
    await page.click("#stop");
    await written();
    await page.waitForFunction(() => document.querySelector("#input").value === "Hi");
    assert.equal(await page.locator(".turn").count(), 0, "nothing was answered, so nothing was said");
    await page.press("#input", "Enter");
    await page.waitForSelector("#paper .passage:has-text('it works')");
    await written();
    assert.deepEqual(answers("again").at(-1).body.messages, [{ role: "user", content: "Hi" }]);
    assert.equal(answers("again").length, 4);
  });

  test("an answer stays where another one is stopped before its first word", async () => {
    // The list of models comes first.
    const address = double.define("kept", { script: ["none", "none", { after: 1, hang: true }] });
    await use({ when: "always", address });
    await say("Hello");
    await page.click("#actions button:has-text('Regenerate')");
    while (answers("kept").length < 2) await new Promise(setImmediate);
    await page.click("#stop");
    await page.waitForSelector("#send:not([hidden])");
    assert.deepEqual(await page.locator(".turn .passage").allTextContents(), ["Hello", TEXT]);
    await say("And then?");
    assert.deepEqual(
      answers("kept")
        .at(-1)
        .body.messages.map(({ role }) => role),
      ["user", "assistant", "user"],
    );
  });

  test("that needed several attempts say how many", async () => {
    const address = double.define("several", { script: ["none", "429-after", "loading"] });
    await use({ when: "always", address });
    await say("Hi");
    assert.match(await note(), /^Hosted · org\/large at \S+ · 3 attempts/);
  });

  test("that refuse are explained, and the words are not lost", async () => {
    const address = double.define("refused", { token: TOKEN });
    await page.evaluate(() => (document.querySelector("#hosted").open = true));
    await page.check("#when-always");
    await page.fill("#hosted-address", address);
    await page.fill("#hosted-models", "org/large");
    await page.fill("#hosted-token", "hf_wrong");
    await page.click("#hosted button[type=submit]");
    await page.waitForFunction(() => document.querySelector("#model-name").textContent === "org/large");
    await page.fill("#input", "Hi");
    await page.press("#input", "Enter");
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.match(await alert.textContent(), /No permission.*401.*Check the token/);
    assert.ok(!(await page.textContent("body")).includes("hf_wrong"));
    assert.equal(await page.inputValue("#input"), "Hi");
  });

  test("stand in where this device cannot answer, with the reason", async () => {
    const address = double.define("needed");
    await use({ when: "needed", address });
    await openFile();
    await say("Hello");
    assert.match(await note(), /^On this device · CPU · why: it runs on this device$/);
    assert.deepEqual(answers("needed"), []);
    await page.fill("#input", "long ".repeat(2000));
    await page.press("#input", "Enter");
    await page.waitForSelector("#paper .origin:has-text('Hosted')");
    await written();
    assert.match(await note(), /^Hosted · org\/large at .* · why: .*\[context_length_exceeded\]/);
    assert.equal(await page.locator(".turn h3").last().textContent(), "org/large");

    // Opening a model here means that it shall answer.
    await use({ when: "always", address });
    await openFile();
    assert.ok(await page.isChecked("#when-needed"));
    assert.match(await page.textContent("#tagline"), /running in this tab\. Where it cannot answer/);

    await openFile("letter.gguf", Buffer.from("Dear Lily"));
    assert.equal(await name(), "org/large");
    assert.match(await page.textContent("#about-model"), /letter\.gguf.*\[corrupt_model\]/);
    await say("Hello");
    assert.match(await note(), /letter\.gguf.*\[corrupt_model\]/);
  });

  test("stop at a budget", async () => {
    const address = double.define("budget");
    await use({ when: "always", address, budget: "0.00000001" });
    await page.fill("#input", "Hi");
    await page.press("#input", "Enter");
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.match(await alert.textContent(), /budget/i);
    assert.deepEqual(answers("budget"), []);
  });
});

describe("comparison", () => {
  const actions = () => page.locator("#actions button").allTextContents();

  test("one prompt over all models, side by side", async () => {
    await openFile();
    assert.ok(!(await actions()).some((label) => label.startsWith("Compare")), "there is nothing to compare with");
    const address = double.define("compare");
    await use({ when: "needed", address, models: "org/large\norg/none" });
    await say("Hello");
    await page.click("#actions button:has-text('Compare')");
    await page.fill("#input", "Tell me of a dog");
    await page.press("#input", "Enter");
    await page.waitForSelector(".compared");
    const cards = await page
      .locator(".answer")
      .evaluateAll((cards) => cards.map((card) => [card.querySelector("h3").textContent, card.textContent]));
    assert.equal(cards.length, 3);
    assert.match(
      cards[0][1],
      /On this device · CPU.*Time[\d.]+ m?s, first token after [\d.]+ m?s.*Tokens20, .*Ended bythe longest answer allowed/s,
    );
    assert.equal(cards[1][0], "org/large");
    assert.ok(cards[1][1].includes(TEXT));
    assert.match(cards[1][1], /Hosted · org\/large.*Tokens7, .*Ended bybeing done/s);
    assert.match(cards[2][1], /org\/none.*does not exist.*Ended byfailure \(model_not_found\)/s);
    assert.match(await page.textContent("#announcer"), /org\/large was done after .* org\/none failed\./);
    await page.click("#actions button:has-text('Back')");
    assert.equal(await page.locator(".turn").count(), 2, "the conversation is still there");
  });

  test("can be stopped", async () => {
    await openFile();
    const address = double.define("stopped", { script: [{ after: 1, hang: true }] });
    await use({ when: "needed", address });
    await page.click("#actions button:has-text('Compare')");
    await page.fill("#input", "Hi");
    await page.press("#input", "Enter");
    await page.click("#stop");
    await page.waitForSelector("#send:not([hidden])");
    assert.equal(await page.locator(".compared").count(), 0);
    assert.equal(await page.locator("[role=alert]").count(), 0);
  });
});

describe("for everyone", () => {
  for (const [colorScheme, viewport] of [
    ["light", { width: 360, height: 740 }],
    ["dark", { width: 1280, height: 900 }],
  ]) {
    test(`no accessibility violations: ${colorScheme}, ${viewport.width} px`, async () => {
      await open({ colorScheme, viewport });
      await openFile();
      await use({ when: "needed", address: double.define(`audit-${colorScheme}`), models: "org/large\norg/none" });
      await say("Hello");
      assert.deepEqual(await accessibilityViolations(page), [], "hosted");
      await page.click("#actions button:has-text('Compare')");
      await page.fill("#input", "Hi");
      await page.press("#input", "Enter");
      await page.waitForSelector(".compared");
      assert.deepEqual(await accessibilityViolations(page), [], "comparison");
      assert.equal(
        await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
        0,
        "nothing sticks out",
      );
    });
  }
});
