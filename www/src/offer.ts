import { models } from "candlewick";
import { isHere, PROPOSALS, type Proposal } from "./catalogue.js";
import { announce, button, byId, h } from "./dom.js";
import { bytes, rate } from "./format.js";
import type { Choice } from "./opening.js";
import { basis, fits, measure, speedOf, type Device } from "./probe.js";
import { hub, hubHost } from "./switches.js";

/** Tokens a second, at most: with what a conversation's context costs, no less than people read. */
const PLEASANT = 20;
/** More than this is not for one careless click. */
const MOST = 1.1e9;

/** A card that offers a model of some ability: the one that suits this device, on one button. Nobody is asked until then. */
export class Offer {
  readonly element = h("section", { className: "offer", hidden: true });
  readonly #choose: (choice: Choice) => void;
  readonly #facts = h("p", { className: "detail" });
  readonly #basis = h("p", { className: "hint" });
  readonly #title = h("h3", { id: "offer-title" });
  readonly #go = h("button", { type: "button", className: "primary", id: "offer-go" });
  #proposal: Proposal = PROPOSALS[0]!;
  #device: Device | undefined;
  #measured: Promise<void> | undefined;

  constructor(choose: (choice: Choice) => void, others: () => void) {
    this.#choose = choose;
    this.element.setAttribute("aria-labelledby", "offer-title");
    this.#go.onclick = () => this.#choose({ source: this.#proposal.model, name: this.#proposal.name });
    const more = button("Other models…", others);
    this.element.append(this.#title, this.#facts, this.#basis, h("div", { className: "ways" }, this.#go, more));
    byId("offer", HTMLElement).replaceWith(this.element);
    addEventListener("online", () => void this.#show());
    addEventListener("offline", () => void this.#show());
  }

  /** While a small model is open. */
  set hidden(hidden: boolean) {
    if (hidden && this.element.contains(document.activeElement)) byId("input", HTMLTextAreaElement).focus();
    this.element.hidden = hidden;
    if (!hidden) void this.#show();
  }

  /** Finds out how fast this device is, once; the card says then what suits it. */
  async measure(): Promise<void> {
    this.#measured ??= measure().then(
      (device) => {
        this.#device = device;
        if (device) this.#proposal = suited(device);
      },
      () => {}, // Without a measurement the smallest is offered, without a speed.
    );
    await this.#measured;
    if (this.element.hidden) return;
    await this.#show();
    announce(`${this.#title.textContent} ${this.#facts.textContent}`);
  }

  /** What is known already, and then whether the model is here. */
  async #show(): Promise<void> {
    this.#describe(false);
    this.#describe(isHere(this.#proposal.model, await models.list(hub).catch(() => [])));
  }

  #describe(here: boolean): void {
    const proposal = this.#proposal;
    const { name, about, size } = proposal;
    this.#title.textContent = `Chat with ${name}, on this device`;
    const download = here ? "already in this browser" : `${bytes(size)} to download, once`;
    const speed = this.#device
      ? ` · up to about ${rate(Number(speedOf(proposal, this.#device).toPrecision(2)))} tokens a second`
      : "";
    this.#facts.textContent = `${about} · ${download}${speed}`;
    const reachable = here || navigator.onLine;
    this.#basis.textContent = !reachable
      ? "You are offline. The storyteller below needs no network; models need one for their first visit."
      : `${here ? "Nothing is fetched" : `From ${hubHost}, kept in this browser`}. ${this.#device ? `The speed is ${basis(proposal, this.#device)}.` : this.#measured ? "How fast it would be could not be measured." : "Measuring how fast this device is…"}`;
    this.#go.textContent = here ? "Open and chat" : "Download and chat";
    this.#go.disabled = !reachable;
  }
}

/** The largest that fits and still writes pleasantly; otherwise the smallest. */
function suited(device: Device): Proposal {
  const saving = (navigator as { connection?: { saveData?: boolean } }).connection?.saveData;
  const suits = (proposal: Proposal) =>
    !proposal.thinks && proposal.size <= MOST && fits(proposal.size, device) && speedOf(proposal, device) >= PLEASANT;
  return (saving ? undefined : PROPOSALS.findLast(suits)) ?? PROPOSALS[0]!;
}
