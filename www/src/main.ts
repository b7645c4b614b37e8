import { CandlewickError, type LoadProgress } from "candlewick";
import storyteller from "../models/stories260K.gguf?url";
import { describeModel } from "./about.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { announce, button, byId } from "./dom.js";
import { HostedPanel } from "./hosted.js";
import { showKernels } from "./kernels.js";
import type { AnyEngine, Desk, Mode } from "./mode.js";
import { clearError, showError, showProgress, type Way } from "./notices.js";
import { Opening, type Choice } from "./opening.js";
import { Picker } from "./picker.js";
import { clearReadout } from "./readout.js";
import { settingsPanel } from "./settings.js";
import { StoragePanel } from "./storage.js";
import { Story } from "./story.js";
import { Writer } from "./writer.js";

const paper = byId("paper", HTMLElement);
const composer = byId("composer", HTMLFormElement);
const input = byId("input", HTMLTextAreaElement);
const send = byId("send", HTMLButtonElement);
const stop = byId("stop", HTMLButtonElement);
const file = byId("file", HTMLInputElement);
const drop = byId("drop", HTMLElement);

/** Part of the page, and so not kept beside it. */
const STORYTELLER: Choice = { source: storyteller, name: "the storyteller", options: { cache: false } };

const settings = settingsPanel();
const writer = new Writer(showBusy);
const storage = new StoragePanel(openHere);
const hosted = new HostedPanel(() => void useHosted());
const picker = new Picker(STORYTELLER, openHere, () => file.click());
let engine: AnyEngine | undefined;
let current = STORYTELLER;
let mode: Mode | undefined;
/** What the mode was before models were compared. */
let before: Mode | undefined;
let opening: Opening | undefined;

/** The model on the page while a new one loads: kept if it is small, freed first if two might not fit. */
const KEEP_BELOW = 64e6;

/** Opens a model; if that fails and nothing is left, the storyteller is back. */
async function open(choice: Choice): Promise<void> {
  clearError();
  await bring(choice);
  if (!engine && !opening && choice !== STORYTELLER) await bring(STORYTELLER);
}

async function bring(choice: Choice): Promise<void> {
  opening?.leave();
  const mine = (opening = new Opening(choice, hosted.remote));
  mine.onRecovery = showRecovery;
  try {
    await writer.stop();
    if (engine && engine.info.device !== "remote" && engine.info.fileSize >= KEEP_BELOW) await close();
    const next = await mine.run();
    if (!next) return;
    await writer.stop();
    await close();
    engine = next;
    current = choice;
    start(next);
  } catch (error) {
    showError(error, waysOut(error, choice));
  } finally {
    if (opening === mine) opening = undefined;
    void storage.refresh();
  }
}

/** What can be done about a model that was not opened. */
function waysOut(error: unknown, choice: Choice): Way[] {
  const code = error instanceof CandlewickError ? error.code : undefined;
  if (code === "network") return [["Try again", () => open(choice)]];
  if (code !== "quota_exceeded") return [];
  const unkept = { ...choice, options: { ...choice.options, cache: false } };
  return [["Show what is stored", () => storage.show()], ["Open without keeping it", () => open(unkept)]];
}

function start(engine: AnyEngine): void {
  describeModel(engine);
  const desk: Desk = { engine, writer, settings };
  const converses = engine.info.device === "remote" || engine.info.chatTemplate !== undefined;
  before = undefined;
  useMode(converses ? new Chat(desk) : new Story(desk));
  announce(`${engine.info.name} is open.`);
}

/** Models are loaded together with the hosted ones that stand in for them, so the open one is loaded again. */
async function useHosted(): Promise<void> {
  writer.givesReasons = hosted.remote !== undefined;
  await open(current);
  await hosted.showSpent(engine);
}

let recovery: ReturnType<typeof showProgress> | undefined;

/** The GPU was lost, and the answer will go on when the model is back. */
function showRecovery(report: LoadProgress): void {
  recovery ??= showProgress("the model again", { cancel: () => void writer.stop() });
  recovery.update(report);
  if (report.stage !== "ready") return;
  endRecovery();
  if (engine) describeModel(engine);
}

/** The model is back, or nobody waits for it any more. */
function endRecovery(): void {
  recovery?.remove();
  recovery = undefined;
}

async function close(): Promise<void> {
  endRecovery();
  await engine?.unload();
  engine = mode = before = undefined;
  send.disabled = true;
}

/** What the reader has chosen for this device. */
function openHere(choice: Choice): void {
  hosted.preferLocal();
  void open(choice);
}

/** Several files are one model. */
function openFiles(chosen: FileList | null | undefined): void {
  const files = [...(chosen ?? [])].sort((a, b) => a.name.localeCompare(b.name));
  if (files[0]) openHere({ source: files.length > 1 ? [files] : files[0], name: files[0].name });
}

function useMode(next: Mode): void {
  mode = next;
  paper.replaceChildren(next.sheet);
  byId("desk-title", HTMLElement).textContent = next.title;
  byId("input-label", HTMLElement).textContent = next.label;
  input.placeholder = next.placeholder;
  clearReadout();
  send.textContent = next.verb;
  send.disabled = false;
  byId("chips", HTMLElement).replaceChildren(...next.suggestions.map((text) => button(text, () => submit(text))));
  showActions();
}

/** Does one thing with the model; whatever goes wrong is shown, and then the answer is false, as where nothing came of it. */
async function act(what: (mode: Mode) => Promise<boolean | void>): Promise<boolean> {
  if (!mode || writer.busy) return true;
  clearError();
  try {
    const done = await what(mode);
    await showKernels(engine);
    await hosted.showSpent(engine);
    return done !== false;
  } catch (error) {
    showError(error);
    return false;
  } finally {
    showActions();
  }
}

async function submit(text: string): Promise<void> {
  if (!mode || writer.busy) return;
  if (mode.takes) fillInput("");
  if (!(await act((mode) => mode.submit(text))) && input.value === "") fillInput(text);
}

function compare(): void {
  before = mode;
  useMode(new Compare({ engine: engine!, writer, settings }));
  input.focus();
}

function leaveComparison(): void {
  const back = before!;
  before = undefined;
  useMode(back);
  input.focus();
}

function fillInput(text: string): void {
  input.value = text;
  fitInput();
}

function showActions(): void {
  const actions = writer.busy ? [] : (mode?.actions() ?? []);
  const buttons = actions.map(([label, action]) => button(label, () => act(action)));
  if (!writer.busy && hosted.remote && mode) buttons.push(before ? button("Back", leaveComparison) : button("Compare models…", compare));
  const place = byId("actions", HTMLElement);
  const focused = place.contains(document.activeElement);
  place.replaceChildren(...buttons);
  if (focused) (writer.busy ? stop : send).focus();
}

function showBusy(busy: boolean): void {
  document.body.classList.toggle("writing", busy);
  const focused = document.activeElement === (busy ? send : stop);
  send.hidden = busy;
  stop.hidden = !busy;
  if (focused) (busy ? stop : send).focus();
  if (!busy) endRecovery();
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
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  opening?.interrupt();
  void writer.stop();
});
stop.onclick = () => void writer.stop();

byId("open", HTMLButtonElement).onclick = () => picker.show();
file.onchange = () => {
  openFiles(file.files);
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
  openFiles(event.dataTransfer?.files);
});

await open(STORYTELLER);
await submit("Once upon a time");
