/** The demo page as a first visit: the model on offer, Markdown, conversations that last, and encoders. */
import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { start } from "../hub/server.js";
import {
  accessibilityViolations,
  conversationalist,
  launch,
  openPage,
  publishedHeaders,
  read,
  serve,
} from "./support.js";

const COMMIT = "0123456789012345678901234567890123456789";
const talker = conversationalist();

/** What a hosted model answers, in pieces of a few characters: all of Markdown that models write, and what a hostile one might. */
const MARKDOWN = `# Candles

A candle burns because **wax** turns to *vapour*; see [the web](https://example.org/?a=wax&amp;b=1) &amp; \`wick\`, or [later][end].

1. Light it

2. Wait
   - not too long

\`\`\`js
const flame = "<b>hot</b>";
\`\`\`

| Wax | Melts at |
| --- | ---: |
| Bees | 63 °C |

<img src="https://evil.example/pixel.png" onerror="document.title='owned'"><script>document.title = "owned"</script>

![a picture](https://evil.example/picture.png) [run](javascript:alert(1)) [data](data:text/html,hello) <iframe src="https://evil.example"></iframe>

[*tricky*](JaVaScRiPt:alert(1)) [hidden](javascript&colon;alert(1)) <https://example.org/auto> \\<b>

[end]: https://example.org/end`;

let browser,
  server,
  hub,
  session,
  page,
  sample,
  worlds = 0;

before(async () => {
  browser = await launch();
  const host = (request, response) =>
    request.method === "GET" ? response.end('{"object":"list","data":[]}') : answer(response);
  server = await serve({
    headers: publishedHeaders(),
    routes: {
      "/v1/chat/completions": host,
      "/v1/models": host,
      "/sample.html": '<!doctype html><script type="module" src="/sample.js"></script>',
      "/sample.js": (_, response) => response.writeHead(200, { "content-type": "text/javascript" }).end(sample),
      "/talker.gguf": talker,
    },
  });
  hub = await start();
});
after(async () => {
  await browser?.close();
  await server?.close();
  hub?.close();
});
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

function answer(response) {
  const chunk = (delta, finish_reason = null) => {
    const body = {
      id: "1",
      object: "chat.completion.chunk",
      created: 1,
      model: "org/writer",
      choices: [{ index: 0, delta, finish_reason }],
    };
    response.write(`data: ${JSON.stringify(body)}\n\n`);
  };
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const content of MARKDOWN.match(/[^]{1,7}/g)) chunk({ content });
  chunk({}, "stop");
  response.end("data: [DONE]\n\n");
}

/** The page, with a Hub of its own that has all models that the page proposes: a small one under each of their names. */
async function open(options) {
  const name = `visit-${++worlds}`;
  const control = `${hub.hub}/_/${name}`;
  const proposed = [
    ...read("www/src/catalogue.ts")
      .toString()
      .matchAll(/model: "([^":]+):([^"]+)"/g),
  ];
  assert.ok(proposed.length > 3);
  const repos = Object.fromEntries(
    proposed.map(([, repo, type]) => [
      repo,
      { commit: COMMIT, files: { [`model-${type}.gguf`]: { base64: talker.toString("base64") } } },
    ]),
  );
  await fetch(control, { method: "PUT", body: JSON.stringify({ repos, seed: name }) });
  session = await openPage(browser, "about:blank", options);
  page = session.page;
  page.setDefaultTimeout(20_000);
  await page.goto(`${server.url}/www/dist/index.html?device=cpu&hub=${hub.hub}/${name}`);
  await written();
  return { log: async () => (await (await fetch(control)).json()).log };
}

const written = () =>
  page.waitForFunction(() => !document.body.classList.contains("writing") && document.querySelector("#readout dd"));
const measured = () =>
  page.waitForFunction(() => document.querySelector(".offer .detail").textContent.includes("tokens a second"));
const turns = () => page.locator(".turn .passage").allTextContents();
const set = (name, value) => page.locator(`[name=${name}]`).fill(String(value));
const say = async (text) => {
  await page.fill("#input", text);
  await page.press("#input", "Enter");
  await written();
};
const openFile = async (buffer, ready, name = "mine.gguf") => {
  await page.setInputFiles("#file", { name, mimeType: "", buffer });
  await page.waitForSelector(ready);
};
const converse = async () => {
  await openFile(talker, ".system");
  await set("max_tokens", 12);
  await set("temperature", 0);
};
/** Has the hosted model write its Markdown. */
async function askHosted() {
  await page.click("#hosted summary");
  await page.check("#when-always");
  await page.fill("#hosted-address", "/v1");
  await page.fill("#hosted-models", "org/writer");
  await page.click("#hosted button[type=submit]");
  await page.waitForSelector(".system");
  await say("Why does a candle burn?");
}

describe("a visitor of ten seconds", () => {
  test("is one click away from the first words of a model of some ability", async () => {
    const { log } = await open();
    await measured();
    assert.match(
      await page.textContent(".offer .detail"),
      /\d MB to download, once · up to about [\d,.]+ tokens a second/,
    );
    assert.match(
      await page.textContent(".offer .hint"),
      /From 127\.0\.0\.1:\d+.*short measurement: the CPU here reads up to [\d.]+ [MG]B of such weights a second/,
    );
    assert.deepEqual(await log(), [], "nobody was asked");
    await page.click("#offer-go");
    await page.waitForFunction(() => document.querySelector(".turn:not(.mine) .passage")?.textContent.length > 3);
    assert.match((await turns())[0], /^Hello!/);
    assert.ok(!(await page.isVisible(".offer")), "it has been taken up");
    await page.keyboard.press("Escape");
    await written();
    await page.click("#open");
    await page.check("#model-0");
    await page.click("#picker .primary");
    await page.waitForFunction(() => document.querySelector("#offer-go").textContent === "Open and chat");
    assert.match(await page.textContent(".offer .detail"), /already in this browser/);
  });

  test("finds the package and a sample of ten lines, which runs", async () => {
    await open();
    const links = await page.locator(".links a:visible").evaluateAll((links) => links.map(({ href }) => href));
    assert.ok(
      links.some((href) => href.endsWith("#sample")) && links.includes("https://www.npmjs.com/package/candlewick"),
      links.join(),
    );
    const { repository } = JSON.parse(read("pkg/package.json"));
    assert.equal(
      await page.isVisible("#code-link"),
      repository !== undefined,
      "the code is linked where its address is known",
    );
    const code = await page.textContent("#sample pre");
    assert.ok(code.split("\n").length <= 11);
    sample = code.replace('"candlewick"', '"/pkg/dist/index.js"').replace(/load\("[^"]+"/, 'load("/talker.gguf"');
    await page.goto(`${server.url}/sample.html`);
    await page.waitForFunction(() => document.body.innerText.length > 20);
  });

  test("selects with arrow keys and asks nobody, with a click the Hub", async () => {
    const { log } = await open();
    await page.click("#open");
    for (let i = 0; i < 3; i++) await page.keyboard.press("ArrowDown");
    await page.waitForTimeout(200);
    assert.deepEqual(await log(), []);
    await page.click("#picker button:has-text('See whether it fits')");
    await page.waitForSelector(".verdict dl");
    assert.ok((await log()).length > 0);
  });
});

describe("an answer", () => {
  test("in Markdown is elements; nothing in it loads, runs or leads astray, and pieces come to what the whole does", async () => {
    await open({ permissions: ["clipboard-read", "clipboard-write"] });
    const requests = [];
    page.context().on("request", (request) => requests.push(request.url()));
    await askHosted();
    const prose = page.locator(".turn .prose");
    const count = (selector) => prose.locator(selector).count();
    for (const selector of ["h4", "strong", "em", "ol > li > ul > li", "pre code", "td.right", "p > code"])
      assert.ok((await count(selector)) > 0, selector);
    assert.equal(await count("ol"), 1, "one list");
    assert.equal(await count("img, script, iframe, b, [onerror]"), 0);
    const links = await prose
      .locator("a")
      .evaluateAll((links) => links.map(({ href, rel }) => [href, rel.includes("noopener")]));
    assert.deepEqual(
      links,
      [
        "https://example.org/?a=wax&b=1",
        "https://example.org/end",
        "https://evil.example/picture.png",
        "https://example.org/auto",
      ].map((href) => [href, true]),
    );
    const text = await prose.textContent();
    for (const piece of ["the web & wick", '<img src="https://evil', "run", "<iframe", "\\<b>".slice(1)])
      assert.ok(text.includes(piece), piece);
    assert.deepEqual(
      requests.filter((url) => url.includes("evil")),
      [],
    );
    assert.doesNotMatch(await page.title(), /owned/);
    await page.click(".code button");
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), 'const flame = "<b>hot</b>";');
    await page.click(".turn:not(.mine) > .ways button:has-text('Copy')");
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), MARKDOWN);

    const streamed = await prose.innerHTML();
    await page.reload();
    await written();
    await openFile(talker, ".system");
    assert.equal((await prose.innerHTML()).replaceAll("Copied", "Copy"), streamed.replaceAll("Copied", "Copy"));
  });
});

describe("a conversation", () => {
  test("can be put differently: what follows is answered anew, or stays where that fails", async () => {
    await open();
    await converse();
    await say("Hello");
    await say("And then?");
    const before = await turns();
    await page.click(".mine >> nth=0 >> .edit");
    await page.fill(".mine textarea", "Once upon a time ".repeat(400));
    await page.press(".mine textarea", "Enter");
    await page.waitForSelector("[role=alert]");
    assert.match(
      await page.evaluate(() => document.activeElement.value),
      /^Once upon a time /,
      "the words are not lost",
    );
    await page.keyboard.press("Escape");
    assert.deepEqual(await turns(), before);
    await page.click(".mine >> nth=0 >> .edit");
    assert.equal(await page.evaluate(() => document.activeElement.value), "Hello");
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Edit", "the focus goes back");
    await page.click(".mine >> nth=0 >> .edit");
    await page.fill(".mine textarea", "Lily found a box");
    await page.click(".mine button:has-text('Send')");
    await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2);
    await written();
    assert.equal(await page.evaluate(() => document.activeElement.id), "send", "the focus goes on");
    const [asked, answered] = await turns();
    assert.equal(asked, "Lily found a box");
    assert.ok(answered.length > 0 && answered !== before[1]);
  });

  test("survives a reload with model and settings, and can be left, found again and deleted", async () => {
    const { log } = await open();
    await measured();
    await page.click("#offer-go");
    await page.waitForSelector(".turn");
    await page.keyboard.press("Escape");
    await written();
    await set("max_tokens", 12);
    await set("temperature", 0.35);
    await page.click(".system summary");
    await page.fill("#system", "Be brief.");
    await say("Remember me");
    const before = await turns();
    const asked = (await log()).length;
    await page.reload();
    await page.waitForSelector(".turn");
    assert.deepEqual(await turns(), before);
    assert.equal(await page.inputValue("#system"), "Be brief.");
    assert.equal(await page.inputValue("[name=temperature]"), "0.35");
    assert.equal((await log()).length, asked, "the Hub is not asked for what is here");

    await page.click("#conversations button:has-text('New conversation')");
    assert.deepEqual(await turns(), []);
    await say("Another one");
    assert.equal(await page.locator(".conversation").count(), 2);
    await page.click(".conversation:not([aria-current])");
    await page.waitForFunction((count) => document.querySelectorAll(".turn").length === count, before.length);
    assert.deepEqual(await turns(), before);
    await page.click("#conversations li:has([aria-current]) button:has-text('Delete')");
    assert.equal(await page.locator(".conversation").count(), 1);
    await page.reload();
    await page.waitForSelector(".system");
    assert.deepEqual(await page.locator(".conversation").allTextContents(), ["Another one"]);
  });

  test("that outgrows the context loses its middle and says so, or is refused", async () => {
    await open();
    await converse();
    const long = "Once upon a time there was a little girl. ".repeat(8);
    let asked = 0;
    for (; asked < 8 && (await page.locator(".remark:visible").count()) === 0; asked++) await say(`${long}${asked}`);
    assert.ok(asked > 2 && asked < 8, `${asked}`);
    assert.match(
      await page.locator(".remark:visible").textContent(),
      /longer than the context of 512 tokens: 2 messages in its middle were left out/,
    );
    assert.equal((await turns()).length, 2 * asked, "the page shows all");
    await page.selectOption("[name=overflow]", "error");
    await page.fill("#input", long);
    await page.press("#input", "Enter");
    await page.waitForSelector("[role=alert]");
    assert.match(await page.textContent("[role=alert]"), /Too long/);
    assert.equal(await page.inputValue("#input"), long, "the words are not lost");
  });

  test("goes on with another length of context", async () => {
    await open();
    await converse();
    await say("Hello");
    await page.evaluate(() => (document.querySelector("#announcer").textContent = ""));
    await page.selectOption("[name=context]", "2048");
    await page.waitForFunction(() => document.querySelector("#announcer").textContent.endsWith("is open."));
    assert.equal((await turns())[0], "Hello");
    const facts = await page.textContent("#about-model");
    assert.match(facts, /512 tokens/);
    assert.match(facts, /Not more/, "why it is less");
  });
});

test("an encoder ranks texts by their meaning", async () => {
  await open();
  await openFile(read("tests/fixtures/models/bert-f32.gguf"), "#texts", "bert.gguf");
  await page.fill("#texts", "the war\nlight of a candle\n\nof the");
  await page.fill("#input", "light of a candle");
  await page.press("#input", "Enter");
  await page.waitForSelector(".ranking li");
  const rows = await page
    .locator(".ranking li")
    .evaluateAll((rows) =>
      rows.map((row) => [row.querySelector("p").textContent, row.querySelector(".detail").textContent]),
    );
  assert.equal(rows.length, 3);
  assert.deepEqual(rows[0], ["light of a candle", "1.00"]);
  assert.ok(rows[1][1] >= rows[2][1] && rows[1][1] < 1);
});

describe("for everyone", () => {
  test("what fingers press is of their size", async () => {
    await open({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
    await measured();
    await askHosted();
    const small = await page.evaluate(() =>
      [...document.querySelectorAll("button, summary, select, .links a, input:not([type=radio])")]
        .filter((element) => element.checkVisibility() && element.getBoundingClientRect().height < 44)
        .map((element) => `${element.outerHTML.slice(0, 80)} ${element.getBoundingClientRect().height}`),
    );
    assert.deepEqual(small, []);
  });

  for (const [colorScheme, viewport] of [
    ["light", { width: 360, height: 740 }],
    ["dark", { width: 1280, height: 900 }],
  ]) {
    test(`no accessibility violations: ${colorScheme}, ${viewport.width} px`, async () => {
      await open({ colorScheme, viewport });
      const audit = async (state) => {
        assert.deepEqual(await accessibilityViolations(page), [], state);
        assert.equal(
          await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
          0,
          `${state}: nothing sticks out`,
        );
      };
      await measured();
      await audit("offer");
      await askHosted();
      await audit("Markdown");
      await page.click(".edit");
      await audit("editing");
      await page.check("#when-never");
      await page.click("#hosted button[type=submit]");
      await page.waitForSelector(".offer:not([hidden])");
      await openFile(read("tests/fixtures/models/bert-f32.gguf"), "#texts");
      await page.click("#chips button");
      await page.waitForSelector(".ranking li");
      await audit("encoder");
    });
  }
});
