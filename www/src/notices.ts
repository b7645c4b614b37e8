import { CandlewickError, type ErrorCode, type LoadProgress } from "candlewick";
import { announce, button, byId, h } from "./dom.js";
import { bytes, seconds } from "./format.js";

const notices = byId("notices", HTMLElement);

const ADVICE: Partial<Record<ErrorCode, [title: string, advice: string]>> = {
  invalid_argument: ["That cannot be done", "Check the settings, or reset them."],
  model_not_found: ["No model there", "Check the address, or open a file from your disk."],
  unsupported_model: ["A model of another kind", "Try a GGUF of the Llama, Qwen, Phi or Gemma families."],
  corrupt_model: ["This file is damaged, or is no model", "Download it again and compare its size with the original."],
  resource_exhausted: [
    "Not enough memory",
    "Close other tabs, or open a smaller model or a smaller quantization (Q4 instead of Q8).",
  ],
  context_length_exceeded: [
    "Too long for this model",
    "Shorten the text, begin a new conversation, or set a longer context.",
  ],
  quota_exceeded: [
    "Not enough storage",
    "Make room by removing models, or open it without keeping it: then it is fetched again each time.",
  ],
  network: ["The connection failed", "Check the connection and try again. What was fetched is kept."],
  unauthorized: ["No permission", "Check the token, and whether its account may use this model."],
  rate_limited: ["Too many requests", "Wait a while and try again."],
  provider_error: ["The hosted model failed", "Try again, or name another model or address."],
  device_lost: ["The graphics card went away", "Open the model again."],
  internal: ["Something broke", "Reload the page. If it happens again, it is a fault in candlewick."],
};

/** Takes a card away. Who was on one of its buttons goes on at the one that opens models. */
function takeAway(card: Element | null): void {
  const focused = card?.contains(document.activeElement);
  card?.remove();
  if (focused) byId("open", HTMLButtonElement).focus({ preventScroll: true });
}

/** Scrolls to a card that is out of sight, and only then: in Chromium the Tab key goes on from where a page has scrolled to. */
function reveal(card: Element): void {
  const { top, bottom } = card.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) card.scrollIntoView({ block: "nearest" });
}

/** What can be done about something: on a button. */
export type Way = [label: string, action: () => unknown];

/** A card that goes away when one of its ways is taken, or none. */
function show(className: string, title: string, texts: Node[], ways: Way[]): HTMLElement {
  const buttons = [...ways, ["Dismiss", () => {}] as Way].map(([label, action]) =>
    button(label, () => {
      takeAway(card);
      action();
    }),
  );
  const card = h("div", { className }, h("h3", {}, title), ...texts, h("div", { className: "ways" }, ...buttons));
  notices.append(card);
  return card;
}

/** Shows what went wrong and what to do about it. Being stopped is nothing wrong. */
export function showError(error: unknown, ways: Way[] = []): void {
  const { code, message } = error instanceof CandlewickError ? error : new CandlewickError("internal", String(error));
  if (code === "aborted") return;
  const [title, advice] = ADVICE[code] ?? ["That did not work", "Try again."];
  clearError();
  const card = show("notice error", title, [h("p", {}, message), h("p", { className: "advice" }, advice)], ways);
  card.setAttribute("role", "alert");
  reveal(card);
}

export const showsError = () => notices.querySelector(".error") !== null;

export function clearError(): void {
  takeAway(notices.querySelector(".error"));
}

/** Says something that is no error, until it is dismissed or a way is taken. */
export function showNotice(title: string, text: string, ways: Way[]): void {
  show("notice", title, [h("p", {}, text)], ways);
}

interface ProgressWays {
  cancel(): void;
  /** Offered while something is fetched. */
  pause?(): void;
}

/** A progress card with ways out; `update` it, then `remove` it. */
export function showProgress(name: string, { cancel, pause }: ProgressWays) {
  const title = h("h3", {}, `Opening ${name}`);
  const bar = h("progress", { max: 1 });
  bar.setAttribute("aria-label", `Opening ${name}`);
  const detail = h("p", { className: "detail" }, "Reading its header…");
  const why = h("p", { className: "detail" });
  const last = button("Cancel", cancel);
  const ways = h("div", { className: "ways" }, last);
  const card = h("div", { className: "notice loading" }, title, why, bar, detail, ways);
  const first = button("Pause", () => {});
  const offer = (label: string, action: (() => void) | undefined) => {
    if (!action) {
      if (document.activeElement === first) last.focus();
      return first.remove();
    }
    Object.assign(first, { textContent: label, onclick: action });
    if (!first.isConnected) ways.prepend(first);
  };
  let fetching = false;
  let amount = "";
  notices.append(card);
  reveal(card);
  announce(`Opening ${name}`);
  return {
    update({ stage, loaded, total, progress, bytesPerSecond, etaSeconds, kernels, restarted }: LoadProgress): void {
      // What is here already goes on to the device meanwhile.
      if (stage === "download") fetching = loaded < total;
      else if (fetching && stage === "load") return;
      offer("Pause", stage === "download" ? pause : undefined);
      title.textContent = stage === "download" ? `Fetching ${name}` : `Opening ${name}`;
      bar.value = progress;
      why.textContent = restarted === undefined ? "" : `${restarted}.`;
      if (kernels) {
        detail.textContent = `Compiling and testing the GPU's kernels: ${kernels.compiled} of ${kernels.total}`;
        return;
      }
      amount = `${bytes(loaded)} of ${bytes(total)}`;
      detail.textContent =
        etaSeconds === undefined
          ? amount
          : `${amount} at ${bytes(bytesPerSecond)} a second, ${seconds(etaSeconds)} left`;
    },
    /** It waits until `resume` is asked for. */
    pause(resume: () => void): void {
      title.textContent = `${name} is paused`;
      detail.textContent = `${amount} fetched, and kept when this page is closed.`;
      announce(`Paused: ${amount} fetched.`);
      offer("Resume", () => {
        detail.textContent = "Looking where it stopped…";
        offer("Pause", pause);
        resume();
      });
    },
    remove(): void {
      takeAway(card);
    },
  };
}
