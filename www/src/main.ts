import { CandlewickError, models, type LoadProgress } from "candlewick";
import storyteller from "../models/stories260K.gguf?url";
import { describeModel } from "./about.js";
import { isHere } from "./catalogue.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { Conversations } from "./conversations.js";
import { announce, button, byId, isComposing } from "./dom.js";
import { HostedPanel } from "./hosted.js";
import { showKernels } from "./kernels.js";
import { recall, remember } from "./memory.js";
import type { AnyEngine, Desk, Mode } from "./mode.js";
import { clearError, showError, showNotice, showProgress, showsError, type Way } from "./notices.js";
import { Offer } from "./offer.js";
import { keepForOffline } from "./offline.js";
import { Opening, type Choice } from "./opening.js";
import { Picker } from "./picker.js";
import { clearReadout } from "./readout.js";
import { settingsPanel } from "./settings.js";
import { Similarity } from "./similarity.js";
import { StoragePanel } from "./storage.js";
import { Story } from "./story.js";
import "./sample.js";
import { hub } from "./switches.js";
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

/** What a model says first that was opened by one button. */
const GREETING = "Hello! Who are you, and what can you do?";

const settings = settingsPanel(() => void reopen());
const writer = new Writer(showBusy);
const storage = new StoragePanel(openHere);
const hosted = new HostedPanel(() => void useHosted());
const conversations = new Conversations();
const offer = new Offer(
  (choice) => void openAndGreet(choice),
  () => picker.show(),
);
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

/** Whether the model that is open is that one. */
const isOpen = (choice: Choice) => engine !== undefined && current === choice;

/** From the card that offers a model: it speaks without being asked a second time. */
async function openAndGreet(choice: Choice): Promise<void> {
  hosted.preferLocal();
  await open(choice);
  if (isOpen(choice) && mode instanceof Chat && conversations.current.messages.length === 0) await submit(GREETING);
}

/** The settings ask for another context, for the model that is open or on its way. */
async function reopen(): Promise<void> {
  if (opening || (engine && engine.info.device !== "remote")) await open(opening?.choice ?? current);
}

async function bring(choice: Choice): Promise<void> {
  opening?.leave();
  const mine = (opening = new Opening(choice, hosted.remote, settings.context()));
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
    await start(next);
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
  return [
    ["Show what is stored", () => storage.show()],
    ["Open without keeping it", () => open(unkept)],
  ];
}

async function start(engine: AnyEngine): Promise<void> {
  describeModel(engine);
  before = undefined;
  useMode(await modeFor(engine));
  conversations.hidden = !(mode instanceof Chat);
  offer.hidden = current.source !== STORYTELLER.source || engine.info.device === "remote";
  remember("model", rememberable(current));
  announce(`${engine.info.name} is open.`);
}

async function modeFor(engine: AnyEngine): Promise<Mode> {
  const { info } = engine;
  const desk: Desk = { engine, writer, settings, act };
  if (info.device === "remote" || info.chatTemplate !== undefined) return new Chat(desk, conversations);
  const { embeddings } = await engine.capabilities();
  return embeddings ? new Similarity(desk) : new Story(desk);
}

/** What the next visit opens. Files have no address, an address may be signed, and tokens are for this visit only. */
function rememberable({ source, name }: Choice): Parameters<typeof remember<"model">>[1] {
  if (source === STORYTELLER.source || (typeof source === "string" && source.includes("://"))) return undefined;
  return typeof source === "string" ? { source, name } : { file: name };
}

/**
 * Models are loaded together with the hosted ones that stand in for them, so the one that is open, or on its way, is
 * loaded again.
 */
async function useHosted(): Promise<void> {
  writer.givesReasons = hosted.remote !== undefined;
  await open(opening?.choice ?? current);
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
async function act(what: () => Promise<boolean | void>): Promise<boolean> {
  if (!mode || writer.busy) return true;
  clearError();
  try {
    const done = await what();
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
  const asked = mode;
  if (asked.takes) fillInput("");
  if (!(await act(() => asked.submit(text))) && input.value === "") fillInput(text);
}

function compare(): void {
  before = mode;
  useMode(new Compare({ engine: engine!, writer, settings, act }));
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
  if (!writer.busy && hosted.remote && mode)
    buttons.push(before ? button("Back", leaveComparison) : button("Compare models…", compare));
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
  if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
  event.preventDefault();
  composer.requestSubmit();
};

function fitInput(): void {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || isComposing(event) || document.querySelector("dialog[open]")) return;
  opening?.interrupt();
  void writer.stop();
});
stop.onclick = () => void writer.stop();

byId("open", HTMLButtonElement).onclick = () => picker.show();
file.onchange = () => {
  openFiles(file.files);
  file.value = ""; // So that choosing the same file again counts as a change.
};

/** Text is for the text box. */
const bringsFiles = ({ dataTransfer }: DragEvent) => dataTransfer?.types.includes("Files");

addEventListener("dragover", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  drop.hidden = false;
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) drop.hidden = true;
});
addEventListener("drop", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  drop.hidden = true;
  openFiles(event.dataTransfer?.files);
});

conversations.onChange = async () => {
  await writer.stop();
  if (before) leaveComparison();
  if (mode instanceof Chat) mode.refresh();
  showActions();
};

await conversations.restore();
await openFirst();
// What is not needed for the first words comes after them.
await offer.measure();
if (engine && engine.info.device !== "remote") await keepForOffline(engine.info.wasm);

/** The model of the last visit, if it needs no network, or the storyteller with a story. */
async function openFirst(): Promise<void> {
  const last = recall("model");
  // One that brings the page down must not do so at every visit: it is remembered again when it is open.
  remember("model", undefined);
  const here = last && "source" in last && isHere(last.source, await models.list(hub).catch(() => []));
  await open(here ? last : STORYTELLER);
  if (last && "file" in last)
    showNotice(`${last.file} was open last time`, "Only you can open a file of yours again.", [
      ["Choose it…", () => file.click()],
    ]);
  // A story would take away what is said about a model that was not opened.
  if (isOpen(STORYTELLER) && !showsError()) await submit("Once upon a time");
}
