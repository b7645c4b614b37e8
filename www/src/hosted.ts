import type { RemoteOptions } from "candlewick";
import { button, byId, field, h, pairs } from "./dom.js";
import { count, dollars } from "./format.js";
import type { AnyEngine } from "./mode.js";

type When = NonNullable<RemoteOptions["when"]>;

const CHOICES: [When, label: string][] = [
  ["never", "Never"],
  ["needed", "When this device cannot answer"],
  ["always", "Always"],
];
const NO_ADDRESS =
  "This cannot be asked. Addresses begin with https://, with / for a path of this site, or with http://localhost.";
const ROUTER = "https://router.huggingface.co/v1";

/** The panel about hosted models. What is typed into it stays in this page's memory. */
export class HostedPanel {
  readonly #panel = byId("hosted", HTMLDetailsElement);
  readonly #form = this.#panel.querySelector("form")!;
  readonly #address = h("input", {
    id: "hosted-address",
    type: "text",
    inputMode: "url",
    autocomplete: "off",
    spellcheck: false,
    placeholder: ROUTER,
  });
  readonly #models = h("textarea", {
    id: "hosted-models",
    rows: 3,
    autocomplete: "off",
    spellcheck: false,
    placeholder: "org/name",
  });
  readonly #token = h("input", { id: "hosted-token", type: "password", autocomplete: "off" });
  readonly #budget = h("input", {
    id: "hosted-budget",
    type: "number",
    min: "0",
    step: "any",
    placeholder: "no limit",
  });
  readonly #status = h("p", { className: "detail" });
  readonly #spent = h("dl");
  readonly #tagline = byId("tagline", HTMLElement);
  /** What the models are loaded with; absent: nothing leaves the device. */
  remote: RemoteOptions | undefined;

  /** `used`: there is something new. */
  constructor(used: () => void) {
    const radios = CHOICES.map(([when, label]) => {
      const radio = h("input", {
        type: "radio",
        name: "when",
        id: `when-${when}`,
        value: when,
        checked: when === "never",
      });
      return h("div", { className: "choice" }, radio, h("label", { htmlFor: radio.id }, label));
    });
    const use = button("Use these settings", () => {});
    use.type = "submit";
    this.#form.append(
      h("fieldset", {}, h("legend", {}, "Ask a hosted model"), ...radios),
      field(
        "field",
        "Address",
        this.#address,
        "With OpenAI’s interface: Hugging Face’s router, a server of yours, or a path of this site such as /v1.",
      ),
      field("field", "Models", this.#models, "One on each line. The first is asked, the others stand in for it."),
      field(
        "field",
        "Token",
        this.#token,
        "Kept in the memory of this page, never stored, and sent to that address alone. On a site of your own, keep it on a server, such as candlewick’s edge Worker: whoever opens a page can read what is in it.",
      ),
      field(
        "field",
        "Spend at most",
        this.#budget,
        "US dollars for each of the models. The count begins anew with every model that is opened. Needs a host that tells its prices, as the router does.",
      ),
      use,
      this.#status,
      this.#spent,
    );
    this.#status.setAttribute("role", "status");
    this.#form.oninput = () => [this.#address, this.#models].forEach((input) => input.setCustomValidity(""));
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      if (this.#read()) used();
    };
    this.#form.noValidate = true;
    this.#showStatus();
  }

  /** The reader has opened a model for this device, so it comes first again. */
  preferLocal(): void {
    if (this.remote?.when !== "always") return;
    this.remote = { ...this.remote, when: "needed" };
    this.#form.querySelector<HTMLInputElement>("#when-needed")!.checked = true;
    this.#showStatus();
  }

  /** Shows what was spent since the model was opened. */
  async showSpent(engine: AnyEngine | undefined): Promise<void> {
    const spent = this.remote && engine ? await engine.spent() : [];
    const asked = spent.filter(({ totals }) => totals.requests > 0);
    this.#spent.replaceChildren(
      ...pairs(
        asked.map(({ model, totals }) => {
          const { requests, promptTokens, completionTokens, unpriced } = totals;
          const price = unpriced === requests ? "price not known" : dollars(totals.dollars);
          const times = requests === 1 ? "once" : `${count(requests)} times`;
          return [model, `Asked ${times}: ${count(promptTokens + completionTokens)} tokens, ${price}`];
        }),
      ),
    );
  }

  /** Takes what was typed, if it makes sense. */
  #read(): boolean {
    const when = new FormData(this.#form).get("when") as When;
    if (when === "never") {
      this.remote = undefined;
      this.#showStatus();
      return true;
    }
    const names = this.#models.value
      .split(/[\n,]/)
      .map((name) => name.trim())
      .filter(Boolean);
    const baseURL = this.#address.value.trim();
    if (names.length === 0) this.#models.setCustomValidity("Which model? For example org/name.");
    if (!isAddress(baseURL)) this.#address.setCustomValidity(NO_ADDRESS);
    if (!this.#form.reportValidity()) return false;
    const dollars = this.#budget.valueAsNumber;
    const common = {
      ...(baseURL && { baseURL }),
      ...(this.#token.value && { token: this.#token.value }),
      ...(!Number.isNaN(dollars) && { budget: { dollars } }),
    };
    const [first, ...others] = names.map((model) => ({ ...common, model }));
    this.remote = { ...first!, when, fallbacks: others };
    this.#showStatus();
    return true;
  }

  /** Here, and at the head of the page. */
  #showStatus(): void {
    const host = this.remote && new URL(this.remote.baseURL ?? ROUTER, document.baseURI).host;
    const here = "A language model, running in this tab.";
    const [status, tagline] =
      host === undefined
        ? ["nothing you type leaves this device.", `${here} What you type stays here.`]
        : this.remote?.when === "always"
          ? [`${host} is asked for every answer.`, `A hosted language model. What you type goes to ${host}.`]
          : [
              `${host} is asked where this device cannot answer.`,
              `${here} Where it cannot answer, what you type goes to ${host}.`,
            ];
    this.#status.textContent = `In use: ${status}`;
    this.#tagline.textContent = tagline;
  }
}

/** Empty is the router's. Others than these the page's content security policy forbids. */
function isAddress(text: string): boolean {
  if (text === "") return true;
  if (!/^(\/|https?:\/\/)/i.test(text) || !URL.canParse(text, document.baseURI)) return false;
  const { protocol, origin, hostname } = new URL(text, document.baseURI);
  return protocol === "https:" || origin === location.origin || ["localhost", "127.0.0.1"].includes(hostname);
}
