// A long run of random faults ends as a simple model of the policy says: `schedule.rs` for the places that JavaScript
// starts the provider in.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const outcomes = JSON.parse(readFileSync(new URL("outcomes.json", import.meta.url)));
// There an answer that is cut takes along what was not read yet, so that it may have been cut before its first text.
delete outcomes["cut-middle"];
const all = Object.keys(outcomes);
const passing = all.filter((name) => outcomes[name] === "loading" || outcomes[name].again);

const TEXT = "Süße Grüße: 你好 🌍, it works.";
const LIMIT = 5;

/** The policy, in a few lines: the outcome of the request and the attempts it takes. */
function predict(script) {
  let failed = 0;
  for (const [index, name] of script.entries()) {
    const outcome = outcomes[name];
    if (outcome === "loading") continue;
    if (!outcome.again) return [outcome, index + 1];
    if (++failed === LIMIT) return [{ fatal: outcome.again }, index + 1];
  }
  return ["fine", script.length + 1];
}

/** Mulberry32: numbers from 0 to below `below`, the same for the same seed. */
function random(seed) {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** What one request is made with: as `connect()` takes it. */
export const options = (baseURL) => ({
  baseURL,
  model: "org/large",
  token: "hf_secretsecretsecret",
  retry: { base: 1, cap: 1, loading: 1 },
});

/**
 * Has at least `attempts` requests meet faults, `beside` at a time. `ask` gets that many base addresses, always the same
 * ones; it makes one streamed request to each, and gives for each {text, code, retries, attempts}: what came, the error's
 * code if it ended in one, how many retries were told of, and how many attempts the answer says it took.
 */
export async function meetFaults(double, ask, { beside = 1, attempts: wanted = 600, seed = 5 } = {}) {
  const pick = random(seed);
  const met = new Set();
  const names = Array.from({ length: beside }, (_, index) => `schedule-${index}`);
  for (let made = 0; made < wanted;) {
    const scripts = names.map(() =>
      // Most draws can be tried again, so that requests get far.
      Array.from({ length: pick(8) }, () => (pick(3) > 0 ? passing[pick(passing.length)] : all[pick(all.length)])),
    );
    const found = await ask(names.map((name, index) => double.define(name, { script: [...scripts[index]] })));
    for (const [index, script] of scripts.entries()) {
      const [outcome, attempts] = predict(script);
      const { text, code, retries, attempts: told } = found[index];
      const what = script.join(", ");
      assert.equal(double.log(names[index]).length, attempts, what);
      assert.equal(retries, attempts - 1, what);
      if (outcome === "fine") assert.deepEqual([code, text, told], [undefined, TEXT, attempts], what);
      else if (outcome.fatal) assert.deepEqual([code, text], [outcome.fatal, ""], what);
      else {
        assert.equal(code, outcome.middle, what);
        assert.ok(text !== "" && text !== TEXT && TEXT.startsWith(text), `${what}: ${text}`);
      }
      made += attempts;
      script.slice(0, attempts).forEach((fault) => met.add(fault));
    }
  }
  assert.deepEqual(
    all.filter((fault) => !met.has(fault)),
    [],
    "faults that were not met",
  );
}
