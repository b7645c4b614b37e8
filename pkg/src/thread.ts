/** An engine's Worker as the page has it: how it starts, what it is told and when, and how it ends. */
import { choose, NAMES, prepare, type Choice, type Place, type Setup } from "./compile.js";
import { Crew } from "./crew.js";
import { CandlewickError } from "./errors.js";
import type { HelperAnswer, Notice } from "./protocol.js";
import { explainFailedStart, seat, type Seat } from "./spawn.js";
import { watch } from "./watch.js";

/** Seconds in which the Worker's script, which has to be fetched, must run. */
const FETCHING = 60;
/** Seconds in which code that is there must start. */
const STARTING = 10;
const SLOW = `it did not start within ${STARTING} seconds`;

/** A call, as far as sending it goes. */
export interface Sending {
  /** It can be sent again, to another Worker: nothing of it is moved. */
  again: boolean;
  post(seat: Seat): void;
}

/** Whoever hears that all is over. */
export type OnEnd = (error: CandlewickError) => void;

export class Thread {
  readonly #place: Place;
  readonly #crew: Crew;
  readonly #ended = new AbortController();
  /** Where all of this is over: why requests that come now fail. */
  closed: CandlewickError | undefined;
  readonly open = new Set<OnEnd>();
  /** What has come before the Worker has started; nothing from then on. What can be sent again has been sent. */
  #waiting: Set<Sending> | undefined = new Set();
  /** Where calls go, once the Worker listens: what it was told before that may be lost. */
  #seat: Seat | undefined;
  #end = () => {};
  /** Which start counts. */
  #attempt: symbol | undefined;
  #unwatch = () => {};
  #restarted = false;

  constructor(place: Place) {
    this.#place = place;
    this.#crew = new Crew(place.workerURL);
    void this.#start(choose(place));
  }

  send(sending: Sending): void {
    this.#waiting?.add(sending);
    if (this.#seat && (!this.#waiting || sending.again)) sending.post(this.#seat);
  }

  /** Nobody wants its answer any more. */
  forget(sending: Sending): void {
    this.#waiting?.delete(sending);
  }

  /** The Worker has started, as it says, or as its answers show. */
  heard(): void {
    const [waiting, seat] = [this.#waiting, this.#seat];
    if (!waiting || !seat) return;
    this.#unwatch();
    this.#waiting = undefined;
    for (const sending of waiting) if (!sending.again) sending.post(seat);
  }

  /** Ends the Worker and with it everything under way. Only the first call counts. */
  close(pending: CandlewickError, later: CandlewickError): void {
    if (this.closed) return;
    this.closed = later;
    this.#unwatch();
    this.#ended.abort();
    this.#end();
    this.#crew.end();
    for (const fail of this.open) fail(pending);
  }

  async #start(choice: Choice): Promise<void> {
    try {
      const attempt = (this.#attempt = Symbol());
      // One that was given up may still say things.
      const listening = () => !this.closed && this.#attempt === attempt;
      const setup: Promise<Setup> = prepare(this.#place, choice, this.#ended.signal);
      let hello = () => {};
      const greeted = new Promise<void>((resolve) => (hello = resolve));
      const seated = await seat(this.#place.workerURL, {
        message: (notice: Notice) => {
          if (!listening()) return;
          if ("hello" in notice) hello();
          else void this.#hear(notice, choice);
        },
        error: (text) => {
          if (listening())
            this.#fail(text ?? new CandlewickError("network", explainFailedStart(this.#place.workerURL)));
        },
        unreadable: () => {
          if (listening())
            this.#fail(
              new CandlewickError("internal", "A message to the engine could not be read. Load the model again."),
            );
        },
      });
      if (this.closed) return seated.end();
      this.#end = () => seated.end();
      this.#watch(FETCHING, choice, "its Worker did not run");
      await greeted;
      if (!listening()) return;
      this.#unwatch();
      this.#seat = seated;
      for (const sending of this.#waiting ?? []) if (sending.again) sending.post(seated);
      const message = await setup;
      // Without it, the Worker fetches the code by itself, and says when it has it.
      if (message.module) this.#watch(STARTING, choice, SLOW);
      seated.post(message);
    } catch (cause) {
      const error =
        cause instanceof CandlewickError
          ? cause
          : new CandlewickError("internal", `The engine could not be started: ${cause}`, { cause });
      this.close(error, error);
    }
  }

  async #hear(notice: Exclude<Notice, { hello: true }>, choice: Choice): Promise<void> {
    if ("starting" in notice) this.#watch(STARTING, choice, SLOW);
    else if ("started" in notice) this.heard();
    else if ("helper" in notice) {
      const { helper, id } = notice;
      const answer: HelperAnswer = { helped: await this.#crew.start(helper), id };
      if (!this.closed) this.#seat?.post(answer);
    } else if ("failed" in notice) {
      this.#fail(new CandlewickError(notice.failed.code, notice.failed.message));
    } else this.#fail(notice.crashed);
  }

  /** What does not come up is given up, once: then the file without threads is tried, in a new Worker. */
  #watch(seconds: number, { file }: Choice, what: string): void {
    if (!this.#waiting) return; // It has started.
    this.#unwatch();
    this.#unwatch = watch(seconds, () => {
      if (this.#restarted) return this.#fail(new CandlewickError("internal", `The engine was started twice: ${what}.`));
      this.#restarted = true;
      this.#end();
      this.#seat = undefined;
      void this.#start({ file: "single", reason: `${NAMES[file]} was given up: ${what}` });
    });
  }

  /** A text is what a crash says. */
  #fail(failure: CandlewickError | string): void {
    const error =
      typeof failure === "string"
        ? new CandlewickError("internal", `The engine crashed: ${failure}. Load the model again.`)
        : failure;
    this.close(error, error);
  }
}
