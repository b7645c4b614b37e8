import { CandlewickError, type ErrorCode, type LoadProgress } from "candlewick";
import { announce, button, byId, h } from "./dom.js";
import { bytes, seconds } from "./format.js";

const notices = byId("notices", HTMLElement);

const ADVICE: Partial<Record<ErrorCode, [title: string, advice: string]>> = {
  invalid_argument: ["That cannot be done", "Check the settings, or reset them."],
  model_not_found: ["No model there", "Check the address, or open a file from your disk."],
  unsupported_model: ["A model of another kind", "Try a GGUF of the Llama, Qwen, Phi or Gemma families."],
  corrupt_model: ["This file is damaged, or is no model", "Download it again and compare its size with the original."],
  resource_exhausted: ["Not enough memory", "Close other tabs, or open a smaller model or a smaller quantization (Q4 instead of Q8)."],
  context_length_exceeded: ["Too long for this model", "Shorten the text or clear the conversation."],
  network: ["The connection failed", "Check the connection and reload the page."],
  device_lost: ["The graphics card went away", "Open the model again."],
  internal: ["Something broke", "Reload the page. If it happens again, it is a fault in candlewick."],
};

/** Shows what went wrong and what to do about it. Being stopped is nothing wrong. */
export function showError(error: unknown): void {
  const { code, message } = error instanceof CandlewickError ? error : new CandlewickError("internal", String(error));
  if (code === "aborted") return;
  const [title, advice] = ADVICE[code] ?? ["That did not work", "Try again."];
  const dismiss = button("Dismiss", clearError);
  clearError();
  const card = h("div", { className: "notice error" }, h("h3", {}, title), h("p", {}, message), h("p", { className: "advice" }, advice), dismiss);
  card.setAttribute("role", "alert");
  notices.append(card);
  card.scrollIntoView({ block: "nearest" });
}

export function clearError(): void {
  notices.querySelector(".error")?.remove();
}

/** A progress card with a way out; `update` it, then `remove` it. */
export function showProgress(name: string, cancel: () => void) {
  const bar = h("progress", { max: 1 });
  bar.setAttribute("aria-label", `Opening ${name}`);
  const detail = h("p", { className: "detail" }, "Reading its header…");
  const why = h("p", { className: "detail" });
  const card = h("div", { className: "notice loading" }, h("h3", {}, `Opening ${name}`), why, bar, detail, button("Cancel", cancel));
  notices.append(card);
  card.scrollIntoView({ block: "nearest" });
  announce(`Opening ${name}`);
  return {
    update({ stage, loaded, total, progress, bytesPerSecond, etaSeconds, restarted }: LoadProgress): void {
      bar.value = progress;
      why.textContent = restarted === undefined ? "" : `${restarted}.`;
      if (stage === "compile") {
        detail.textContent = `Compiling and testing the GPU's kernels: ${loaded} of ${total}`;
        return;
      }
      const speed = etaSeconds === undefined ? "" : ` at ${bytes(bytesPerSecond)} a second, ${seconds(etaSeconds)} left`;
      detail.textContent = `${bytes(loaded)} of ${bytes(total)}${speed}`;
    },
    remove(): void {
      card.remove();
    },
  };
}
