/** Outside a browser: importing the package is harmless, as server-side rendering needs it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CandlewickError, load } from "../../pkg/dist/index.js";

test("the package can be imported in Node", () => {
  assert.equal(typeof load, "function");
});

test("load() in Node says that it needs a browser", async () => {
  await assert.rejects(load("https://example.com/model.gguf"), (error) => {
    assert.ok(error instanceof CandlewickError);
    assert.equal(error.code, "invalid_argument");
    assert.match(error.message, /browser/);
    return true;
  });
});
