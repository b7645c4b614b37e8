import { load, type Engine, type LoadProgress, type ModelSource } from "candlewick";
import storyteller from "../models/stories260K.gguf?url";
import { describeModel } from "./about.js";
import { Chat } from "./chat.js";
import { button, byId } from "./dom.js";
import { profileOptions, showKernels } from "./kernels.js";
import type { Mode } from "./mode.js";
import { clearError, showError, showProgress } from "./notices.js";
import { clearReadout } from "./readout.js";
import { settingsPanel } from "./settings.js";
import { Story } from "./story.js";
import { switches } from "./switches.js";
import { Writer } from "./writer.js";

const paper = byId("paper", HTMLElement);
const composer = byId("composer", HTMLFormElement);
const input = byId("input", HTMLTextAreaElement);
const send = byId("send", HTMLButtonElement);
const stop = byId("stop", HTMLButtonElement);
const file = byId("file", HTMLInputElement);
const drop = byId("drop", HTMLElement);

const settings = settingsPanel();
const writer = new Writer(showBusy);
let engine: Engine | undefined;
let mode: Mode | undefined;
let opening: AbortController | undefined;

/** The model on the page while a new one loads: kept if it is small, freed first if two might not fit. */
const KEEP_BELOW = 64e6;

async function open(source: ModelSource, name: string): Promise<void> {
  opening?.abort();
  const controller = (opening = new AbortController());
  clearError();
  await writer.stop();
  if (engine && engine.info.fileSize >= KEEP_BELOW) await close();
  const progress = showProgress(name, () => controller.abort());
  const onProgress = (report: LoadProgress) => (opening === controller ? progress.update(report) : showRecovery(report));
  try {
    const next = await load(source, { ...profileOptions, ...switches(), signal: controller.signal, onProgress });
    await writer.stop();
    await close();
    engine = next;
    describeModel(next.info);
    useMode(new (next.info.chatTemplate === undefined ? Story : Chat)({ engine: next, writer, paper, settings }));
  } catch (error) {
    showError(error);
  } finally {
    progress.remove();
    if (opening === controller) opening = undefined;
  }
}

let recovery: ReturnType<typeof showProgress> | undefined;

/** The GPU was lost, and the answer will go on when the model is back. */
function showRecovery(report: LoadProgress): void {
  recovery ??= showProgress("the model again", () => void writer.stop());
  recovery.update(report);
  if (report.stage !== "ready") return;
  recovery.remove();
  recovery = undefined;
  if (engine) describeModel(engine.info);
}

async function close(): Promise<void> {
  await engine?.unload();
  engine = mode = undefined;
  send.disabled = true;
}

/** A model from the reader's disk; if that fails and nothing is left, back to the storyteller. */
async function openFile(chosen: File | undefined): Promise<void> {
  if (!chosen) return;
  await open(chosen, chosen.name);
  if (!engine && !opening) await open(storyteller, "the storyteller");
}

function useMode(next: Mode): void {
  mode = next;
  byId("desk-title", HTMLElement).textContent = next.title;
  byId("input-label", HTMLElement).textContent = next.label;
  input.placeholder = next.placeholder;
  clearReadout();
  send.textContent = next.verb;
  send.disabled = false;
  byId("chips", HTMLElement).replaceChildren(...next.suggestions.map((text) => button(text, () => submit(text))));
  showActions();
}

/** Does one thing with the model; whatever goes wrong is shown, and then the answer is false. */
async function act(what: (mode: Mode) => Promise<void>): Promise<boolean> {
  if (!mode || writer.busy) return true;
  clearError();
  try {
    await what(mode);
    await showKernels(engine);
    return true;
  } catch (error) {
    showError(error);
    return false;
  } finally {
    showActions();
  }
}

async function submit(text: string): Promise<void> {
  if (!mode || writer.busy) return;
  if (mode instanceof Chat) fillInput("");
  if (!(await act((mode) => mode.submit(text))) && input.value === "") fillInput(text);
}

function fillInput(text: string): void {
  input.value = text;
  fitInput();
}

function showActions(): void {
  const actions = writer.busy ? [] : (mode?.actions() ?? []);
  byId("actions", HTMLElement).replaceChildren(...actions.map(([label, action]) => button(label, () => act(action))));
}

function showBusy(busy: boolean): void {
  document.body.classList.toggle("writing", busy);
  const focused = document.activeElement === (busy ? send : stop);
  send.hidden = busy;
  stop.hidden = !busy;
  if (focused) (busy ? stop : send).focus();
  showActions();
}

composer.onsubmit = (event) => {
  event.preventDefault();
  void submit(input.value);
};

input.oninput = fitInput;
input.onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
};

function fitInput(): void {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  opening?.abort();
  void writer.stop();
});
stop.onclick = () => void writer.stop();

byId("open", HTMLButtonElement).onclick = () => file.click();
file.onchange = () => {
  void openFile(file.files?.[0]);
  file.value = ""; // So that choosing the same file again counts as a change.
};

addEventListener("dragover", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  drop.hidden = false;
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) drop.hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.hidden = true;
  void openFile(event.dataTransfer?.files[0]);
});

await open(storyteller, "the storyteller");
await submit("Once upon a time");
