/**
 * The storyteller's engines: each serves one request at a time, for a request that waits for what another one does would
 * hang: every request's promises are its own in a Worker. There are only so many, because an isolate has 128 MB; requests
 * beyond them wait in the order in which they came, woken by timers of their own.
 */
import { waitUntil } from "cloudflare:workers";
import type { Answer, Engine } from "../../../pkg/wasm/candlewick.js";
import { Refusal } from "./errors";
import { checkAlive, hasCrashed } from "./local";

/** Engines, of 2.6 MB each. */
const MOST_ENGINES = 8;
/** Requests that wait for one. */
const MOST_WAITING = 32;

// Milliseconds.
/** How long a request waits. */
const PATIENCE = 10_000;
const BETWEEN_LOOKS = 10;
/** Who has not looked for so long has been given up by its client, which ends a request without a word. */
const GONE = 1_000;
/** Who has not gone on for so long gives way to those who wait. */
const SLOW = 15_000;
/** Who has been in the middle of a step for so long was ended there by the runtime, and its engine is lost. */
const LOST = 120_000;
/** An engine for which there was no use for so long is freed. One stays. */
const IDLE = 20_000;

/** An engine in use. */
export class Lease {
  engine: Engine | undefined;
  /** Freed with the lease. */
  answer: Answer | undefined;
  /** The engine is in the middle of a step, and cannot be taken away. */
  working = false;
  /** When its request was last heard of. */
  #seen = Date.now();

  get slow(): boolean {
    return !this.working && Date.now() - this.#seen > SLOW;
  }

  get lost(): boolean {
    return this.working && Date.now() - this.#seen > LOST;
  }

  /** Its request goes on. Fails where the engine was given to another one. */
  touch(): void {
    this.#seen = Date.now();
    if (!busy.has(this)) throw busyRefusal();
  }

  /** Gives the engine back. Doing so again changes nothing. */
  release(): void {
    if (!busy.delete(this) || hasCrashed() || !this.engine) return;
    this.answer?.free();
    idle.push({ engine: this.engine, since: Date.now() });
    shrink();
    if (idle.length > 1) shrinkLater();
  }
}

const busy = new Set<Lease>();
const idle: { engine: Engine; since: number }[] = [];
let waiting: { seen: number }[] = [];
/** When somebody will look for engines without use. */
let looks = 0;

/** An engine, when it is this request's turn; `open` makes one more. */
export async function take(open: () => Promise<Engine>): Promise<Lease> {
  waiting = waiting.filter(({ seen }) => Date.now() - seen <= GONE);
  if (waiting.length >= MOST_WAITING) throw busyRefusal();
  const place = { seen: Date.now() };
  const end = Date.now() + PATIENCE;
  waiting.push(place);
  try {
    for (;;) {
      checkAlive();
      place.seen = Date.now();
      waiting = waiting.filter((other) => other === place || Date.now() - other.seen <= GONE);
      if (waiting.indexOf(place) < MOST_ENGINES - busy.size) break;
      for (const lease of busy) {
        if (lease.slow) lease.release();
        else if (lease.lost) busy.delete(lease);
      }
      if (waiting.indexOf(place) < MOST_ENGINES - busy.size) break;
      if (Date.now() >= end) throw busyRefusal();
      await scheduler.wait(BETWEEN_LOOKS);
    }
  } finally {
    waiting = waiting.filter((other) => other !== place);
  }
  const lease = new Lease();
  busy.add(lease);
  try {
    const engine = idle.pop()?.engine ?? (await open());
    if (!busy.has(lease)) engine.free();
    lease.touch();
    lease.engine = engine;
    return lease;
  } catch (error) {
    busy.delete(lease);
    throw error;
  }
}

function shrink(): void {
  while (idle.length > 1 && Date.now() - idle[0]!.since >= IDLE) idle.shift()!.engine.free();
}

/** A Worker has no timers between requests, but the last one may look after its answer. */
function shrinkLater(): void {
  if (Date.now() < looks) return;
  looks = Date.now() + IDLE;
  waitUntil(scheduler.wait(IDLE).then(() => hasCrashed() || shrink()));
}

function busyRefusal(): Refusal {
  return new Refusal(503, "resource_exhausted", "The model is busy with other requests. Try again in a moment.", {
    "Retry-After": "5",
  });
}
