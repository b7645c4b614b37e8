/** An encoder that runs in the Worker itself: transformers' vectors from WebAssembly in workerd. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { edge, repository, start } from "./support.js";

const fixture = (path) => join(repository, "tests/fixtures", path);
const golden = JSON.parse(readFileSync(fixture("goldens/bert.json"), "utf8"));
const NAME = "tiny-bert.F32";
const TOLERANCE = 5e-6;

function assertClose(found, expected) {
  assert.equal(found.length, expected.length);
  const furthest = Math.max(...found.map((number, at) => Math.abs(number - expected[at])));
  assert.ok(furthest <= TOLERANCE, `${furthest}`);
}

let folder, double, worker;
before(async () => {
  folder = mkdtempSync(join(tmpdir(), "candlewick-edge-"));
  mkdirSync(join(folder, "models"));
  copyFileSync(fixture("models/bert-f32.gguf"), join(folder, `models/${NAME}.gguf`));
  copyFileSync(fixture("models/llama.gguf"), join(folder, "models/no-encoder.gguf"));
  double = await start();
  worker = await edge(
    { EMBEDDING_MODEL: NAME, UPSTREAM_URL: double.define("edge-encoder"), CACHE_SECONDS: "0" },
    { files: folder },
  );
});
after(async () => {
  await worker?.close();
  double?.close();
  rmSync(folder, { recursive: true, force: true });
});

const ask = (body, by = worker) => by.ask("/v1/embeddings", { model: NAME, ...body });

describe("an encoder at the edge", () => {
  test("gives transformers' vectors, also to many at once", async () => {
    const cases = golden.cases.slice(0, -1);
    const answers = await Promise.all(cases.map(async ({ text }) => (await ask({ input: text })).json()));
    answers.forEach(({ data, model, usage }, at) => {
      assert.equal(model, NAME);
      assertClose(data[0].embedding, cases[at].mean);
      assert.equal(usage.prompt_tokens, cases[at].ids.length);
    });
    const all = await (await ask({ input: cases.map(({ text }) => text), encoding_format: "base64" })).json();
    all.data.forEach(({ embedding }, at) => {
      const bytes = Buffer.from(embedding, "base64");
      assertClose([...new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)], cases[at].mean);
    });
    assert.deepEqual(double.log("edge-encoder"), [], "nobody else was asked");
  });

  test("says what it cannot do, and goes on", async () => {
    for (const [body, code] of [
      [{ input: golden.cases.at(-1).text }, "context_length_exceeded"],
      [{ input: [] }, "invalid_argument"],
      [{ input: "war", dimensions: 65 }, "invalid_argument"],
    ]) {
      const response = await ask(body);
      assert.equal(response.status, 400);
      assert.equal((await response.json()).error.code, code);
    }
    const cut = await (await ask({ input: golden.cases.at(-1).text, truncate: true })).json();
    assertClose(cut.data[0].embedding, golden.cases.at(-1).mean);
  });

  test("is on the list, and other models are still the upstream's", async () => {
    const { data } = await (await worker.ask("/v1/models")).json();
    assert.ok(data.some(({ id }) => id === NAME));
    const other = await (await ask({ model: "org/large", input: ["one", "two"] })).json();
    assert.equal(other.data.length, 2);
    assert.equal(double.log("edge-encoder").at(-1).path, "v1/embeddings");
  });

  test("a file that is missing, or no encoder, is named", async () => {
    for (const [name, part] of [
      ["not-there", /models\/not-there\.gguf/],
      ["no-encoder", /encoder/],
    ]) {
      const wrong = await edge({ EMBEDDING_MODEL: name, CACHE_SECONDS: "0" }, { files: folder });
      const response = await ask({ model: name, input: "war" }, wrong);
      assert.equal(response.status, 500);
      assert.match((await response.json()).error.message, part);
      await wrong.close();
    }
  });

  test("may lie in a bucket", async () => {
    const bucket = await edge({ EMBEDDING_MODEL: "in-a-bucket.gguf", CACHE_SECONDS: "0" }, { r2Buckets: ["MODELS"] });
    const files = await bucket.bucket("MODELS");
    await files.put("in-a-bucket.gguf", new Uint8Array(readFileSync(fixture("models/bert-f32.gguf"))).buffer);
    const [{ text, mean }] = golden.cases;
    const found = await (await ask({ model: "in-a-bucket", input: text }, bucket)).json();
    assertClose(found.data[0].embedding, mean);
    await bucket.close();
  });
});
