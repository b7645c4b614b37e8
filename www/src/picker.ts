import { CandlewickError, inspect, models, type Inspection } from "candlewick";
import { isHere, PROPOSALS } from "./catalogue.js";
import { button, byId, h, isComposing } from "./dom.js";
import { bytes } from "./format.js";
import type { Choice } from "./opening.js";
import { hub, hubHost, switches } from "./switches.js";
import { facts, sentence, VERDICTS } from "./verdict.js";

/** A row of the list. */
interface Row {
  /** What `load()` takes. */
  source: string;
  name: string;
  element: HTMLElement;
  radio: HTMLInputElement;
  size: HTMLElement;
  verdict: HTMLElement;
  /** Known once the Hub was asked, until the dialog is opened again. */
  inspection?: Inspection;
}

/** The dialog in which a model is chosen. The Hub is asked about a model that is clicked or named, and about no other. */
export class Picker {
  readonly #dialog = byId("picker", HTMLDialogElement);
  readonly #open: (choice: Choice) => void;
  readonly #chooseFile: () => void;
  readonly #storyteller: Choice;
  readonly #list = h("div", { className: "models" });
  readonly #other = h("input", {
    id: "other-model",
    type: "text",
    autocomplete: "off",
    spellcheck: false,
    placeholder: "owner/repo:Q4_K_M",
  });
  readonly #token = h("input", { id: "hub-token", type: "password", autocomplete: "off" });
  /** Under the row that is selected. */
  readonly #details = h("div", { className: "verdict" });
  /** For screen readers; what is outside of the dialog is silent while it is open. */
  readonly #status = h("p", { className: "visually-hidden" });
  readonly #go = h("button", { type: "submit", className: "primary" }, "Open");
  #rows: Row[] = [];
  /** An arrow key is down, which selects whatever it comes by: that is no reason to ask anybody. */
  #byArrow = false;
  #looking: AbortController | undefined;

  constructor(storyteller: Choice, open: (choice: Choice) => void, chooseFile: () => void) {
    this.#storyteller = storyteller;
    this.#open = open;
    this.#chooseFile = chooseFile;
    this.#build();
    this.#dialog.onclose = () => this.#looking?.abort();
  }

  show(): void {
    for (const row of this.#rows) delete row.inspection;
    this.#dialog.showModal();
    void this.#markKept();
    // What was asked when the dialog was closed got no answer.
    if (!this.#details.hasAttribute("aria-busy")) return;
    this.#details.removeAttribute("aria-busy");
    this.#details.replaceChildren();
    void this.#look(this.#rows.find(({ radio }) => radio.checked));
  }

  #build(): void {
    const other = h(
      "div",
      { className: "other" },
      this.#other,
      button("Look", () => this.#look(this.#addOther())),
    );
    this.#other.setAttribute("aria-describedby", "other-hint");
    // What was done last counts: typing, or selecting.
    this.#other.oninput = () => this.#rows.forEach(({ radio }) => (radio.checked = false));
    this.#other.onkeydown = (event) => {
      if (event.key !== "Enter" || isComposing(event)) return;
      event.preventDefault();
      void this.#look(this.#addOther());
    };
    this.#token.setAttribute("aria-describedby", "hub-token-hint");
    const token = h(
      "details",
      { className: "field" },
      h("summary", {}, "For private and gated models"),
      h("label", { htmlFor: "hub-token" }, "Token"),
      this.#token,
      h(
        "p",
        { id: "hub-token-hint", className: "hint" },
        `Sent to ${hubHost} with what is fetched from it, and forgotten when this page is closed.`,
      ),
    );
    this.#rows = [
      this.#row(
        this.#storyteller.source as string,
        "The storyteller",
        "Comes with this page, continues stories",
        1.05e6,
      ),
    ];
    for (const { model, name, about, size } of PROPOSALS) this.#rows.push(this.#row(model, name, about, size));
    Object.assign(this.#rows[0]!.radio, { checked: true, autofocus: true });
    this.#list.addEventListener("keydown", ({ key }) => (this.#byArrow = key.startsWith("Arrow")));
    this.#list.addEventListener("keyup", () => (this.#byArrow = false));
    const legend = h(
      "legend",
      {},
      `Click one to see whether it fits here: ${hubHost} is then asked for its first megabytes. Arrow keys ask nobody.`,
    );
    legend.classList.add("hint");
    const form = h(
      "form",
      {},
      h("fieldset", {}, legend, this.#list),
      h(
        "div",
        { className: "field" },
        h("label", { htmlFor: "other-model" }, "Another one"),
        other,
        h(
          "p",
          { id: "other-hint", className: "hint" },
          `Any GGUF model of ${hubHost}: owner/repo, owner/repo:QUANT, or the address of a .gguf file.`,
        ),
      ),
      token,
      h(
        "div",
        { className: "ways" },
        this.#go,
        button("Cancel", () => this.#dialog.close()),
      ),
    );
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    this.#dialog.querySelector("header")!.append(button("A file of yours…", () => this.#leave(this.#chooseFile)));
    this.#status.setAttribute("role", "status");
    this.#dialog.append(form, this.#status);
  }

  #row(source: string, name: string, about: string, size: number): Row {
    const id = `model-${this.#list.childElementCount}`;
    const radio = h("input", { type: "radio", name: "model", id, value: source });
    const element = h("div", { className: "model" });
    const row: Row = {
      source,
      name,
      element,
      radio,
      size: h("span", { className: "size" }, size ? bytes(size) : ""),
      verdict: h("span", { className: "badge", hidden: true }),
    };
    radio.setAttribute("aria-describedby", `${id}-about`);
    radio.onchange = () => (this.#byArrow ? this.#offerToLook(row) : void this.#look(row));
    element.append(
      radio,
      h("label", { htmlFor: id }, name),
      row.verdict,
      row.size,
      h("p", { id: `${id}-about`, className: "hint" }, about),
    );
    this.#list.append(element);
    return row;
  }

  /** What was typed, as a row of the list; nothing where nothing was. */
  #addOther(): Row | undefined {
    const source = this.#other.value.trim();
    if (!source) {
      this.#other.focus();
      return undefined;
    }
    let row = this.#rows.find((row) => row.source === source);
    if (!row) {
      row = this.#row(source, source, "Named by you", 0);
      this.#rows.push(row);
    }
    row.radio.checked = true;
    return row;
  }

  /** Asks what the model is and whether it fits. */
  async #look(row: Row | undefined): Promise<void> {
    if (!row) return;
    this.#looking?.abort();
    const { signal } = (this.#looking = new AbortController());
    this.#go.textContent = "Open";
    row.element.append(this.#details);
    if (!row.inspection) {
      this.#say(`Asking about ${row.name}…`);
      this.#details.setAttribute("aria-busy", "true");
      try {
        row.inspection = await inspect(row.source, { ...switches(), ...hub, ...this.#credentials(), signal });
      } catch (error) {
        if (signal.aborted) return;
        this.#say(error instanceof CandlewickError ? `${error.message} [${error.code}]` : String(error), "alarm");
        return;
      } finally {
        if (!signal.aborted) this.#details.removeAttribute("aria-busy");
      }
      if (signal.aborted) return;
    }
    this.#show(row, row.inspection);
  }

  /** Says what is known without asking. */
  #offerToLook(row: Row): void {
    if (row.inspection) return void this.#look(row);
    this.#looking?.abort();
    this.#details.removeAttribute("aria-busy");
    this.#go.textContent = "Open";
    row.element.append(this.#details);
    this.#details.replaceChildren(button("See whether it fits", () => this.#look(row)));
    this.#status.textContent = "";
  }

  #show(row: Row, inspection: Inspection): void {
    const { verdict, fileSize } = inspection;
    row.size.textContent = bytes(fileSize);
    mark(row.verdict, VERDICTS[verdict], verdict.replaceAll(" ", "-"));
    this.#details.replaceChildren(h("dl", {}, ...facts(inspection)));
    this.#details.scrollIntoView({ block: "nearest" });
    this.#go.textContent = verdict === "does not fit" ? "Open anyway" : "Open";
    this.#status.textContent = sentence(inspection);
  }

  #say(text: string, className = "hint"): void {
    this.#details.replaceChildren(h("p", { className }, text));
    this.#status.textContent = text;
  }

  /** Says of which models all is here already; of those nothing has to be asked. */
  async #markKept(): Promise<void> {
    const kept = await models.list(hub).catch(() => []);
    for (const row of this.#rows) {
      if (isHere(row.source, kept)) mark(row.verdict, "Here already", "kept");
      else if (row.verdict.classList.contains("kept")) row.verdict.hidden = true;
    }
  }

  #credentials() {
    return this.#token.value ? { token: this.#token.value } : {};
  }

  #submit(): void {
    const row = this.#rows.find(({ radio }) => radio.checked) ?? this.#addOther();
    if (!row) return;
    const { source, name } = row;
    const options = source === this.#storyteller.source ? this.#storyteller.options! : this.#credentials();
    this.#leave(() => this.#open({ source, name, options }));
  }

  #leave(then: () => void): void {
    this.#dialog.close();
    then();
  }
}

function mark(badge: HTMLElement, text: string, kind: string): void {
  badge.textContent = text;
  badge.className = `badge ${kind}`;
  badge.hidden = false;
}
