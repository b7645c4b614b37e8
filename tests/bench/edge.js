// Time to the first byte of a stream, through the Worker in workerd and without it, in turns: node tests/bench/edge.js [ROUNDS]
import { edge, gate, reading, start, TOKEN } from "../edge/support.js";

const rounds = Number(process.argv[2] ?? 300);
const body = { model: "org/large", messages: [{ role: "user", content: "Hi" }], stream: true };
const double = await start();
const direct = double.define("edge", { token: TOKEN });
const worker = await edge({ UPSTREAM_URL: direct });

/** Milliseconds to the first event; the upstream holds the others back until it was measured. */
async function once(ask) {
  const { opened, open } = gate();
  double.define("edge", { token: TOKEN, script: [{ hold: opened }] });
  const began = performance.now();
  const text = reading(await ask());
  await text.until("\n\n");
  const taken = performance.now() - began;
  open();
  await text.end();
  return taken;
}

const ways = {
  upstream: () =>
    fetch(`${direct}/chat/completions`, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { Authorization: `Bearer ${TOKEN}` },
    }),
  worker: () => worker.ask("/v1/chat/completions", body),
};
const times = { upstream: [], worker: [] };
for (let round = -20; round < rounds; round++) {
  for (const [name, ask] of Object.entries(ways)) {
    const taken = await once(ask);
    if (round >= 0) times[name].push(taken);
  }
}
const added = times.worker.map((time, round) => time - times.upstream[round]);
const rank = (list, part) => list.toSorted((a, b) => a - b)[Math.floor(part * (list.length - 1))].toFixed(2);
for (const [name, list] of Object.entries({ ...times, added })) {
  console.log(
    `${name.padEnd(9)} median ${rank(list, 0.5)} ms, 95 % ${rank(list, 0.95)} ms, highest ${rank(list, 1)} ms`,
  );
}
await worker.close();
double.close();
