/** The demo page without a network, and its service worker where there are newer versions. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { after, before, test } from "node:test";
import { launch, openPage, publishedHeaders, read, repository, serve } from "./support.js";

let browser, page;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());

const written = () =>
  page.waitForFunction(() => !document.body.classList.contains("writing") && document.querySelector("#readout dd"));
/** Waits for what the page has to be asked about with a promise, which `waitForFunction` takes for an answer. */
async function until(holds) {
  for (let tries = 0; !(await page.evaluate(holds)); tries++) {
    assert.ok(tries < 200, `still not: ${holds}`);
    await page.waitForTimeout(50);
  }
}

/** The cache of the version that comes next. */
const NEWER = "candlewick-page /www/dist/ newer";
const keptIn = (cache) =>
  page.evaluate(async (cache) => (await (await caches.open(cache)).keys()).map(({ url }) => url), cache);

for (const [where, headers] of [
  ["a server that isolates it", publishedHeaders],
  ["any server", () => ({})],
]) {
  test(`the page from ${where} opens without a network after one visit, and newer versions come when there is one`, async () => {
    const html = read("www/dist/index.html").toString();
    const worker = read("www/dist/service-worker.js").toString();
    let [served, servedWorker] = [html, worker];
    // The next version's files have other names, as they have after every change.
    const assets = readdirSync(`${repository}/www/dist/assets`).filter((name) => /\.(js|wasm)$/.test(name));
    const newName = (name) => name.replace(/.{8}(?=\.\w+$)/, "newer-00");
    const renamed = (text) => assets.reduce((text, name) => text.replaceAll(name, newName(name)), text);
    const newAsset = (name) => {
      const bytes = read(`www/dist/assets/${name}`);
      return name.endsWith(".js") ? renamed(bytes.toString()) : bytes;
    };
    const routes = {
      ...Object.fromEntries(assets.map((name) => [`/www/dist/assets/${newName(name)}`, newAsset(name)])),
      "/www/dist/index.html": (_, response) => response.writeHead(200, { "content-type": "text/html" }).end(served),
      "/www/dist/service-worker.js": (_, response) =>
        response.writeHead(200, { "content-type": "text/javascript" }).end(servedWorker),
    };
    const own = await serve({ headers: headers(), routes });
    const session = await openPage(browser, "about:blank");
    page = session.page;
    page.setDefaultTimeout(20_000);
    try {
      await page.goto(`${own.url}/www/dist/index.html?device=cpu`);
      await written();
      await page.waitForSelector("#offline:not([hidden])");
      served = renamed(html).replace("<title>", "<title>New: ");
      servedWorker = renamed(worker).replace(/VERSION = "\w+"/, 'VERSION = "newer"');
      await page.reload();
      await written();
      assert.match(await page.title(), /^New: /);
      assert.ok(await page.evaluate(() => crossOriginIsolated), "isolated by the service worker, if not by the server");
      await until(async () => (await navigator.serviceWorker.getRegistration()).waiting?.state === "installed");
      const wasm = (await keptIn(NEWER)).filter((url) => url.endsWith(".wasm")).length;
      assert.ok(wasm > 0, "what the old version wanted for visits without a network, the new one has");
      const address = page.url();
      // The new worker takes over when no page of the old one is left, a moment after the last one went.
      for (const moment of [100, 500, 2500]) {
        await page.goto("about:blank");
        await page.waitForTimeout(moment);
        await page.goto(address);
        if (await page.evaluate(async () => (await navigator.serviceWorker.getRegistration()).waiting === null)) break;
      }
      await until(
        async () =>
          (await caches.keys()).filter((name) => name.startsWith("candlewick-page")).join() ===
          "candlewick-page /www/dist/ newer",
      );
      await page.waitForSelector("#offline:not([hidden])");
    } finally {
      await own.close();
    }
    await page.reload();
    await written();
    assert.match(await page.title(), /^New: /);
    assert.match(await page.locator("#paper .passage").textContent(), /^Once upon a time.{20}/s);
    const kept = await keptIn(NEWER);
    assert.ok(kept.length > 5);
    assert.deepEqual(
      kept.filter((url) => !url.startsWith(own.url)),
      [],
      "it keeps the page, and no models",
    );
    await session.close();
    assert.deepEqual(session.errors, [], "uncaught errors in the page");
  });
}
