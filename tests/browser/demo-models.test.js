/** The demo page and the Hub: choosing, fetching, pausing, and what is stored. The Hub is tests/hub/server.js. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
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
const MODEL = "owner/talker-GGUF:Q8_0";
const FILE = "talker-q8_0.gguf";
/** More than a page asks for in one range (32 MiB), so that there is something to pause. */
const talker = Buffer.concat([conversationalist(), Buffer.alloc(40 << 20)]);
const SECOND_RANGE = { match: `cdn/${FILE} bytes=33554432-`, times: 100, fault: "stall" };

let browser,
  server,
  hub,
  folder,
  files,
  session,
  page,
  worlds = 0;

before(async () => {
  browser = await launch();
  server = await serve({ headers: publishedHeaders() });
  hub = await start();
  folder = mkdtempSync(join(tmpdir(), "candlewick-"));
  const file = join(folder, FILE);
  writeFileSync(file, talker);
  files = { [FILE]: { file } };
});
after(async () => {
  await browser?.close();
  await server?.close();
  hub?.close();
  rmSync(folder, { recursive: true, force: true });
});
afterEach(async () => {
  const { errors } = session;
  await session.close();
  assert.deepEqual(errors, [], "uncaught errors in the page");
});

/** The page, with a Hub of its own that has one model. `change` gives that Hub other faults and forgets its log. */
async function open({ options, ...faults } = {}) {
  const name = `world-${++worlds}`;
  const control = `${hub.hub}/_/${name}`;
  const change = ({ repo = {}, ...faults } = {}) =>
    fetch(control, {
      method: "PUT",
      body: JSON.stringify({
        repos: { "owner/talker-GGUF": { commit: COMMIT, files, ...repo } },
        seed: name,
        ...faults,
      }),
    });
  await change(faults);
  session = await openPage(browser, `${server.url}/www/dist/index.html?device=cpu&hub=${hub.hub}/${name}`, options);
  page = session.page;
  await page.waitForFunction(
    () => !document.body.classList.contains("writing") && document.querySelector("#readout dd"),
  );
  return { change, log: async () => (await (await fetch(control)).json()).log };
}

/** Bytes that were asked for, range by range. */
const asked = (log) =>
  log
    .filter(({ at }) => at === "cdn")
    .map(({ line }) => /bytes=(\d+)-(\d+)/.exec(line))
    .reduce((sum, [, first, last]) => sum + Number(last) + 1 - Number(first), 0);

/** Names a model in the picker and opens it. */
async function pick(model = MODEL) {
  await page.click("#open");
  await page.fill("#other-model", model);
  await page.click("#picker .primary");
}
const card = (button) => page.click(`.loading button:has-text('${button}')`);
const opened = () => page.waitForSelector("#paper .system");
const storage = async () => {
  await page.evaluate(() => (document.querySelector("#storage").open = true));
  await page.waitForSelector(".stored .detail, .stored .hint");
};
const stored = (button) => page.waitForSelector(`.stored button:has-text('${button}')`);

describe("the picker", () => {
  test("proposes the models that have short names", async () => {
    await open();
    await page.click("#open");
    const proposed = await page
      .locator("#picker [name=model]")
      .evaluateAll((radios) => radios.slice(1).map(({ value }) => value));
    const [list] = read("src/hub/spec.rs").toString().split("];");
    const aliases = [...list.matchAll(/^ +\("[^"]+", "([^"]+)"\),$/gm)].map(([, model]) => model);
    assert.ok(aliases.length > 3);
    assert.deepEqual(proposed.sort(), aliases.sort());
    assert.equal(
      await page.evaluate(() => document.activeElement.value),
      await page.inputValue("#model-0"),
      "the focus is in the list",
    );
    await page.keyboard.press("Escape");
    assert.ok(!(await page.isVisible("#picker")));
  });

  test("says of a named model whether it fits, with numbers, and keeps nothing of it", async () => {
    const { log } = await open();
    await page.click("#open");
    assert.deepEqual(await log(), [], "opening the picker asks nobody");
    await page.fill("#other-model", MODEL);
    await page.press("#other-model", "Enter");
    await page.waitForSelector(".verdict dl");
    const facts = Object.fromEntries(
      await page
        .locator(".verdict dl div")
        .evaluateAll((rows) => rows.map((row) => [row.children[0].textContent, row.children[1].textContent])),
    );
    assert.equal(facts.Fetch, "43 MB");
    assert.match(
      facts.CPU,
      /^(Fits|Tight|Not sure): needs [\d.]+ MB( of about [\d.]+ .B)? of memory, at most about [\d,.]+ tokens\/s$/,
    );
    assert.equal(facts.Use, "Converses");
    assert.match(await page.textContent("#picker [role=status]"), /: (fits|tight|not sure), 43 MB, at most about/);
    assert.match(await page.textContent(".model:has(.verdict) .badge"), /Fits|Tight|Not sure/);
    assert.ok(asked(await log()) < talker.length, "the header is enough");
    await page.click("#picker button:has-text('Cancel')");
    await storage();
    assert.match(await page.textContent(".stored"), /Nothing yet/);
  });

  test("explains what is not there", async () => {
    await open();
    await page.click("#open");
    await page.fill("#other-model", "nobody/nothing");
    await page.click("#picker button:has-text('Look')");
    await page.waitForSelector(".verdict .alarm");
    assert.match(await page.textContent(".verdict .alarm"), /nobody\/nothing.*\[model_not_found\]/);
  });

  test("asks again when it is opened again, where the answer was not awaited", async () => {
    const { change } = await open({ script: [{ match: `cdn/${FILE}`, times: 100, fault: "stall" }] });
    await page.click("#open");
    await page.fill("#other-model", MODEL);
    await page.click("#picker button:has-text('Look')");
    await page.waitForSelector(".verdict:has-text('Asking about')");
    await page.click("#picker button:has-text('Cancel')");
    await change();
    await page.click("#open");
    await page.waitForSelector(".verdict dl");
    assert.equal(await page.getAttribute(".verdict", "aria-busy"), null);
  });

  test("of a mirror whose address is none, it says so", async () => {
    session = await openPage(browser, `${server.url}/www/dist/index.html?hub=http://[`);
    page = session.page;
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.match(await alert.textContent(), /hubURL: "http:\/\/\[" is not a valid URL/);
    await page.click("#open");
    assert.match(await page.textContent("#picker legend"), /http:\/\/\[/);
  });

  test("opens what is private with a token, which stays in memory", async () => {
    const token = "hf_secretsecretsecret";
    const { log } = await open({ repo: { token } });
    await pick();
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.match(await alert.textContent(), /No model there/);
    await page.click("#open");
    await page.click("#picker summary");
    await page.fill("#hub-token", token);
    await page.click("#picker .primary");
    await opened();
    for (const { at, line, query, authorization } of await log()) {
      assert.ok(!`${line}${query}`.includes(token));
      assert.ok(at === "hub" || authorization === undefined);
    }
    const kept = await page.evaluate(() =>
      JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]),
    );
    assert.ok(!kept.includes(token));
  });
});

describe("fetching", () => {
  test("pauses and goes on where it stopped, also in another visit", async () => {
    const { change, log } = await open({ script: [SECOND_RANGE] });
    await pick();
    const pause = page.locator(".loading button:has-text('Pause')");
    await page.waitForFunction(() =>
      /\d MB of 43 MB at \d.* a second/.test(
        document.querySelector(".loading .detail:not(:empty)")?.parentElement.textContent,
      ),
    );
    await page.waitForFunction(() => document.querySelector(".loading progress").value > 0.7);
    await pause.click();
    await page.waitForSelector(".loading:has-text('is paused')");
    assert.match(await page.textContent(".loading"), /is paused.*\d+(\.\d+)? MB of 43 MB fetched, and kept/);
    assert.equal(
      await page.evaluate(() => document.activeElement.textContent),
      "Resume",
      "the focus stays where it was",
    );
    await change({ script: [SECOND_RANGE] });
    await card("Resume");
    await pause.waitFor();
    // Two blocks of 4 MiB may have been on their way to the disk.
    assert.ok(asked(await log()) < talker.length - (16 << 20), "what is here is not asked for again");
    await page.keyboard.press("Escape");
    await page.waitForSelector(".loading button:has-text('Resume')");

    await page.reload();
    await storage();
    await stored("Resume");
    assert.match(await page.textContent(".stored li"), /of 43 MB fetched/);
    await change();
    await page.click(".stored button:has-text('Resume')");
    await opened();
    assert.ok(asked(await log()) < talker.length - (16 << 20));
    await stored("Verify");
    assert.match(await page.textContent(".stored li"), /owner · 43 MB · used just now/);
  });

  test("goes on where the settings ask for another context meanwhile", async () => {
    const { change } = await open({ script: [SECOND_RANGE] });
    await pick();
    await page.waitForFunction(() => document.querySelector(".loading progress")?.value > 0.5);
    await change();
    await page.selectOption("[name=context]", "2048");
    await opened();
  });

  test("that is cancelled leaves nothing", async () => {
    await open({ script: [SECOND_RANGE] });
    await storage();
    await pick();
    await page.waitForFunction(() => document.querySelector(".loading progress")?.value > 0.5);
    await card("Cancel");
    await page.waitForSelector(".loading", { state: "detached" });
    await page.waitForFunction(() => document.querySelector(".stored").textContent.includes("Nothing yet"));
    assert.equal(await page.locator("[role=alert]").count(), 0);
    assert.equal(await page.textContent("#model-name"), "stories260K", "the model before is still there");
  });

  test("that is cancelled leaves another repository's file of the same name", async () => {
    const file = join(folder, "other.gguf");
    writeFileSync(file, Buffer.concat([talker.subarray(0, -1), Buffer.of(1)]));
    const repos = {
      "owner/talker-GGUF": { commit: COMMIT, files },
      "other/talker-GGUF": { commit: COMMIT, files: { [FILE]: { file } } },
    };
    await open({ repos, script: [SECOND_RANGE] });
    const halfway = (owner) =>
      page.waitForFunction(
        (owner) =>
          [...document.querySelectorAll(".loading")].some(
            (card) => card.textContent.includes(owner) && card.querySelector("progress").value > 0.5,
          ),
        owner,
      );
    await pick("other/talker-GGUF:Q8_0");
    await halfway("other/");
    await card("Pause");
    await page.waitForSelector(".loading:has-text('is paused')");
    await pick();
    await halfway("owner/");
    await card("Cancel");
    await page.waitForSelector(".loading", { state: "detached" });
    await storage();
    assert.match(await page.textContent(".stored"), /other · .* of 43 MB fetched/);
    assert.doesNotMatch(await page.textContent(".stored"), /owner · /);
  });

  test("without room for it says so with numbers, and what can be done", async () => {
    await open();
    const client = await page.context().newCDPSession(page);
    await client.send("Storage.overrideQuotaForOrigin", { origin: server.url, quotaSize: 2_000_000 });
    await pick();
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.match(await alert.textContent(), /Not enough storage.*talker.* \d+\.\d MB .*fetched again each time/);
    await alert.locator("button:has-text('Show what is stored')").click();
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Storage");
    await pick();
    await alert.waitFor();
    await alert.locator("button:has-text('Open without keeping it')").click();
    await opened();
  });
});

describe("what is stored", () => {
  let log;

  beforeEach(async () => {
    ({ log } = await open());
    await pick();
    await opened();
    await storage();
    await stored("Verify");
  });

  test("is verified, and opened again without the Hub", async () => {
    assert.match(
      await page.textContent(".stored"),
      /One model, 43 MB\. The browser allows this site [\d.]+ GB, of which [\d.]+ .B are used/,
    );
    await page.click(".stored button:has-text('Verify')");
    await page.waitForSelector(".stored :text('every byte is right')");
    const before = (await log()).length;
    await page.reload();
    await storage();
    await page.click(".stored button:has-text('Open')");
    await opened();
    await page.reload();
    await opened(); // The model of the last visit comes by itself.
    assert.equal((await log()).length, before, "nobody was asked");
  });

  test("is not opened by a name that may mean another file: nobody is asked unasked", async () => {
    await page.evaluate(() =>
      localStorage.setItem("candlewick-demo:model", '{"source":"owner/talker-GGUF","name":"talker"}'),
    );
    const before = (await log()).length;
    await page.reload();
    await page.waitForFunction(() => /^Once upon a time/.test(document.querySelector("#paper .passage")?.textContent));
    assert.equal((await log()).length, before);
  });

  test("is removed when that is confirmed", async () => {
    await page.click(".stored button:has-text('Remove')");
    assert.equal(
      await page.evaluate(() => document.activeElement.textContent),
      "Keep",
      "the safe answer has the focus",
    );
    await page.keyboard.press("Enter");
    await stored("Open");
    await page.click(".stored button:has-text('Remove')");
    await page.click(".stored .danger");
    await page.waitForSelector(".stored :text('Nothing yet')");
    assert.match(await page.textContent("#announcer"), /is removed: 43 MB are free/);
    assert.match(await page.textContent(".stored"), /0 models, 0 bytes/);
  });
});

describe("for everyone", () => {
  for (const [colorScheme, viewport] of [
    ["light", { width: 1280, height: 900 }],
    ["dark", { width: 360, height: 740 }],
  ]) {
    test(`no accessibility violations: ${colorScheme}, ${viewport.width} px`, async () => {
      const { change } = await open({ options: { colorScheme, viewport }, script: [SECOND_RANGE] });
      const audit = async (state) => {
        assert.deepEqual(await accessibilityViolations(page), [], state);
        assert.equal(
          await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth),
          0,
          `${state}: nothing sticks out`,
        );
      };
      await page.click("#open");
      await page.fill("#other-model", MODEL);
      await page.press("#other-model", "Enter");
      await page.waitForSelector(".verdict dl");
      await audit("picker");
      await page.click("#picker .primary");
      await page.locator(".loading button:has-text('Pause')").click();
      await audit("paused");
      await change();
      await card("Resume");
      await opened();
      await storage();
      await stored("Remove");
      await page.click(".stored button:has-text('Remove')");
      await audit("storage");
    });
  }
});
