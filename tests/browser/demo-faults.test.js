/** The demo page where something is in its way: what other versions and other tabs have stored, hosts that fail, addresses that are not secure. */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { launch, openPage, publishedHeaders, serve } from "./support.js";

/** What a hosted model answers, by its name. */
const HOSTED = {
  "org/fine": (say, response) => [say("Because."), response.end("data: [DONE]\n\n")],
  "org/slow": (say) => say("It began"),
  "org/cut": (say, response) => [say("It began"), setTimeout(() => response.destroy(), 300)],
  "org/nested": (say, response) => [say(`${">".repeat(5000)} deep`), response.end("data: [DONE]\n\n")],
};

let browser, server, session, page;

before(async () => {
  browser = await launch();
  server = await serve({ headers: publishedHeaders(), routes: { "/v1/chat/completions": host, "/v1/models": host } });
});
after(async () => {
  await browser?.close();
  await server?.close();
});
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

async function host(request, response) {
  if (request.method === "GET") return response.end('{"object":"list","data":[]}');
  const { model } = JSON.parse((await request.toArray()).join(""));
  response.writeHead(200, { "content-type": "text/event-stream" });
  const say = (content) => {
    const choices = [{ index: 0, delta: { content }, finish_reason: null }];
    response.write(
      `data: ${JSON.stringify({ id: "1", object: "chat.completion.chunk", created: 1, model, choices })}\n\n`,
    );
  };
  HOSTED[model](say, response);
}

const address = () => `${server.url}/www/dist/index.html?device=cpu`;
const idle = (on = page) => on.waitForFunction(() => !document.body.classList.contains("writing"));
const written = (on = page) =>
  on.waitForFunction(() => !document.body.classList.contains("writing") && document.querySelector("#readout dd"));

/** `script` is there before the page's own. */
async function open(script) {
  session = await openPage(browser, "about:blank");
  page = session.page;
  page.setDefaultTimeout(20_000);
  if (script) await page.addInitScript(script);
  await page.goto(address());
  await written();
}

async function use(model, on = page) {
  await on.evaluate(() => (document.querySelector("#hosted").open = true));
  await on.check("#when-always");
  await on.fill("#hosted-address", "/v1");
  await on.fill("#hosted-models", model);
  await on.click("#hosted button[type=submit]");
  await on.waitForFunction(
    (model) => document.querySelector("#model-name").textContent === model && document.querySelector(".system"),
    model,
  );
}
async function ask(text, on = page) {
  await on.fill("#input", text);
  await on.press("#input", "Enter");
}
async function say(text, on = page) {
  await ask(text, on);
  await on.waitForFunction((text) => document.querySelector("#paper").textContent.includes(text), text);
  await idle(on);
}
const turns = (on = page) => on.locator(".turn .passage").allTextContents();
const conversations = (on = page) => on.locator(".conversation").count();

/** Calls the store of conversations: `put` with what is to be there by its key, or `getAll`. */
const store = (method, ...args) =>
  page.evaluate(
    ([method, ...args]) =>
      new Promise((resolve, reject) => {
        const opening = indexedDB.open("candlewick-demo");
        opening.onsuccess = () => {
          const request = opening.result
            .transaction("conversations", "readwrite")
            .objectStore("conversations")
            [method](...args);
          request.onsuccess = () => resolve(request.result);
          request.onerror = () => reject(request.error);
        };
      }),
    [method, ...args],
  );

test("at an address that is not secure, without room for conversations, the page works and says what does not", async () => {
  await open(() => {
    delete Crypto.prototype.randomUUID;
    delete Navigator.prototype.clipboard;
    IDBObjectStore.prototype.put = () => {
      throw new DOMException("full", "QuotaExceededError");
    };
  });
  assert.match(await page.textContent("#paper .passage"), /^Once upon a time/);
  await page.click("#sample .code-head button");
  await page.waitForSelector("#sample button:has-text('Not allowed')");
  await use("org/nested");
  await say("Quote");
  assert.match((await turns())[1], /^>{5000} deep$/, "quotes within quotes by the thousand are text");
  await say("And again");
  assert.equal(await page.locator(".notice:has-text('Conversations are not kept')").count(), 1);
  assert.equal(await conversations(), 1);
});

test("what is stored and is nothing of the kind is left alone", async () => {
  await open();
  const messages = [{ role: "user", content: "Hello" }];
  const bad = [
    null,
    7,
    {},
    { id: "d", system: "", messages, changed: 1 },
    { id: "e", system: "", messages: [null, null], changed: 1 },
  ];
  for (const [at, record] of bad.entries()) await store("put", record, "abcde"[at]);
  await page.evaluate(() => {
    localStorage.setItem("candlewick-demo:model", '{"source":7}');
    localStorage.setItem("candlewick-demo:settings", '{"temperature":{}}');
    localStorage.setItem("candlewick-demo:device", '{"device":{}}');
  });
  await page.reload();
  await written();
  assert.match(await page.textContent("#paper .passage"), /^Once upon a time/);
  assert.equal(await conversations(), 0);
});

test("what was written stays where the rest does not come, and where the visit ends; deleted, it does not come back", async () => {
  await open();
  await use("org/cut");
  await ask("Tell me");
  await page.waitForSelector("[role=alert]");
  assert.deepEqual(await turns(), ["Tell me", "It began"]);
  assert.equal(await page.inputValue("#input"), "");

  await page.click("#actions button:has-text('New conversation')");
  await use("org/slow");
  await ask("Slowly");
  await page.waitForFunction(() => document.querySelectorAll(".conversation").length === 2);
  await page.reload();
  await idle();
  await use("org/slow");
  assert.deepEqual(await turns(), ["Slowly", "It began"]);

  await page.click(".mine .edit");
  await ask("And then?");
  await page.waitForSelector("#stop:not([hidden])");
  await page.click(".mine button:has-text('Send')");
  assert.match(await page.textContent(".mine form .hint"), /still writing/);
  await page.click("#conversations li:has([aria-current]) button:has-text('Delete')");
  await idle();
  assert.equal(await conversations(), 1);
  await page.reload();
  await idle();
  assert.equal(await conversations(), 1);
});

test("two tabs do not write over each other's conversation, and none brings back what the other has deleted", async () => {
  await open();
  await use("org/fine");
  await say("Once");
  const other = await page.context().newPage();
  await other.goto(address());
  await written(other);
  await use("org/fine", other);
  await say("From the other", other);
  await say("From this one");
  assert.equal(await conversations(), 2);
  const kept = (await store("getAll")).map(({ messages }) => messages.map(({ content }) => content));
  const expected = (from) => ["Once", "Because.", from, "Because."];
  assert.deepEqual(kept.toSorted(), [expected("From the other"), expected("From this one")]);

  await other.reload();
  await idle(other);
  await use("org/fine", other);
  const copy = await page.getAttribute("[aria-current]", "id");
  await other.click(`li:has(#${copy}) button:has-text('Delete')`);
  await other.waitForFunction((copy) => !document.getElementById(copy), copy);
  await say("Again");
  assert.equal((await store("getAll")).length, 1);
});
