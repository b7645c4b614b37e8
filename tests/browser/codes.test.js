/** The codes of errors are the same in Rust and in TypeScript. No browser is needed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { read } from "./support.js";

test("both languages have the same codes", () => {
  const rust = [
    ...read("src/error.rs")
      .toString()
      .matchAll(/Code::\w+ => "(\w+)"/g),
  ].map(([, code]) => code);
  const union = /type ErrorCode =([^;]+);/.exec(read("pkg/src/errors.ts").toString())[1];
  const typescript = [...union.matchAll(/"(\w+)"/g)].map(([, code]) => code);
  assert.ok(rust.length > 10);
  assert.deepEqual(typescript.toSorted(), rust.toSorted());
});
