import {
  CandlewickError,
  models,
  type CachedModel,
  type LoadProgress,
  type StorageUsage,
  type VerifiedModel,
} from "candlewick";
import { announce, button, byId, h, refill } from "./dom.js";
import { bytes, since } from "./format.js";
import { showError } from "./notices.js";
import type { Choice } from "./opening.js";
import { hub } from "./switches.js";

const VERDICTS: Record<VerifiedModel["verdict"], string> = {
  right: "Verified: every byte is right.",
  wrong: "Damaged. Fetch it again.",
  incomplete: "Not whole yet.",
  unknown: "Nothing to compare it with: its server told no hash.",
};

/** The panel about what the browser keeps. It asks when it is opened, and not before. */
export class StoragePanel {
  readonly #panel = byId("storage", HTMLDetailsElement);
  readonly #body = h("div", { className: "stored" });
  readonly #open: (choice: Choice) => void;

  constructor(open: (choice: Choice) => void) {
    this.#open = open;
    this.#panel.append(this.#body);
    this.#panel.ontoggle = () => void this.refresh();
  }

  /** Opens the panel and goes there. */
  show(): void {
    this.#panel.open = true;
    this.#panel.scrollIntoView({ block: "nearest" });
    this.#panel.querySelector("summary")!.focus();
  }

  /** Something may have changed. */
  async refresh(): Promise<void> {
    if (!this.#panel.open) return;
    try {
      const [kept, usage, persisted] = await Promise.all([models.list(hub), models.usage(hub), isPersisted()]);
      kept.sort((a, b) => b.lastUsed - a.lastUsed);
      const alone = (model: CachedModel) => kept.filter((other) => other.model === model.model).length === 1;
      const rows = kept.map((model) => this.#row(model, alone(model)));
      const list = rows.length
        ? h("ul", {}, ...rows)
        : h(
            "p",
            { className: "hint" },
            "Nothing yet. Models from the Hub are kept here, so that they open again at once, also without a network.",
          );
      refill(this.#body, [list, ...room(kept, usage, persisted)], this.#panel.querySelector("summary")!);
    } catch (error) {
      const message = error instanceof CandlewickError ? error.message : String(error);
      this.#body.replaceChildren(
        h("p", { className: "alarm" }, message),
        button("Try again", () => this.refresh()),
      );
    }
  }

  #row(model: CachedModel, alone: boolean): HTMLElement {
    const [owner, ...rest] = model.model.split("/");
    const name = rest.at(-1) ?? model.model;
    const pinned = `${model.model}@${model.commit}`;
    const source = alone ? model.model : pinned;
    const size = model.complete ? bytes(model.size) : `${bytes(model.stored)} of ${bytes(model.size)} fetched`;
    const state = h("p", { className: "detail" }, `${owner} · ${size} · used ${since(model.lastUsed)}`);
    const ways = h("div", { className: "ways" });
    const labelled = (label: string, action: () => unknown) => {
      const made = button(label, action);
      made.id = `${label}-${pinned}`;
      made.setAttribute("aria-label", `${label} ${name}`);
      return made;
    };
    const open = (force?: true) => this.#open({ source, name, options: force ? { force } : {} });
    const usual = () => [
      labelled(model.complete ? "Open" : "Resume", () => open()),
      ...(model.complete ? [labelled("Verify", verify)] : []),
      labelled("Remove", askFirst),
    ];

    const askFirst = () => {
      const yes = button(`Remove ${bytes(model.stored)}`, () => this.#remove(pinned, name));
      const no = button("Keep", () => {
        ways.replaceChildren(...usual());
        ways.querySelector<HTMLElement>("button:last-child")!.focus();
      });
      yes.className = "danger";
      yes.setAttribute("aria-label", `Remove ${bytes(model.stored)}: ${name}`);
      ways.replaceChildren(yes, no);
      announce(`Remove ${name}? It would have to be fetched again.`);
      no.focus();
    };

    const verify = async () => {
      const controller = new AbortController();
      const bar = h("progress", { max: 1, value: 0 });
      bar.setAttribute("aria-label", `Verifying ${name}`);
      const stop = button("Stop", () => controller.abort());
      ways.replaceChildren(bar, stop);
      stop.focus();
      const onProgress = ({ progress }: LoadProgress) => (bar.value = progress);
      try {
        const [result] = await models.verify(pinned, { ...hub, signal: controller.signal, onProgress });
        state.textContent = VERDICTS[result?.verdict ?? "unknown"];
        announce(`${name}: ${state.textContent}`);
        ways.replaceChildren(...usual());
        if (result?.verdict === "wrong") ways.prepend(labelled("Fetch again", () => open(true)));
      } catch (error) {
        ways.replaceChildren(...usual());
        showError(error);
      }
      if (!document.activeElement || document.activeElement === document.body) ways.querySelector("button")!.focus();
    };

    ways.append(...usual());
    return h("li", {}, h("h3", {}, name), state, ways);
  }

  async #remove(model: string, name: string): Promise<void> {
    try {
      const freed = await models.remove(model, hub);
      announce(`${name} is removed: ${bytes(freed)} are free.`);
    } catch (error) {
      showError(error);
    }
    await this.refresh();
    this.#panel.querySelector("summary")!.focus();
  }
}

/** How much is kept, and how much may be. */
function room(kept: CachedModel[], { models, used, quota }: StorageUsage, persisted: boolean): HTMLElement[] {
  const total = `${kept.length === 1 ? "One model" : `${kept.length} models`}, ${bytes(models)}.`;
  if (used === undefined || quota === undefined)
    return [h("p", { className: "detail" }, `${total} The browser does not say how much it allows.`)];
  const meter = h("meter", { max: quota, value: used });
  meter.setAttribute("aria-label", "Storage used by this site");
  const lasts =
    kept.length === 0
      ? ""
      : persisted
        ? " It keeps them until you remove them."
        : " It may clear them when the disk runs full.";
  return [
    meter,
    h(
      "p",
      { className: "detail" },
      `${total} The browser allows this site ${bytes(quota)}, of which ${bytes(used)} are used.${lasts}`,
    ),
  ];
}

async function isPersisted(): Promise<boolean> {
  return (await navigator.storage?.persisted?.().catch(() => false)) ?? false;
}
