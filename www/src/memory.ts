import type { Device } from "./probe.js";

/** What this browser remembers for the next visit, in `localStorage`; conversations are in conversations.ts. */
interface Memory {
  /** Settings by the names of their inputs, as they were typed. */
  settings: Record<string, string>;
  /** The model that was open last: by its name on the Hub, or a file's, which only the reader can open again. */
  model: { source: string; name: string } | { file: string };
  /** The conversation that was on the desk. */
  conversation: string;
  /** How fast this device was, and how it was asked. */
  device: { device: Device; asked: string; time: number };
}

const isText = (value: unknown) => typeof value === "string";
const isNumber = (value: unknown) => Number.isFinite(value);

/** What is stored may be another version's. A check may fail with an error, too. */
const CHECKS: { [K in keyof Memory]: (value: any) => boolean } = {
  settings: (value) => Object.values(value).every(isText),
  model: ({ source, name, file }) => isText(file) || (isText(source) && isText(name)),
  conversation: isText,
  device: ({ device: { name, bytesPerSecond, memory = 0 }, asked, time }) =>
    [name, asked].every(isText) && [bytesPerSecond.Q8_0, bytesPerSecond.Q4_K, memory, time].every(isNumber),
};

const key = (name: keyof Memory) => `candlewick-demo:${name}`;

export function recall<K extends keyof Memory>(name: K): Memory[K] | undefined {
  try {
    const value = JSON.parse(localStorage.getItem(key(name)) ?? "null");
    return CHECKS[name](value) ? value : undefined;
  } catch {
    return undefined; // Storage is forbidden, or has nothing of the kind.
  }
}

/** Nothing is remembered where the browser keeps nothing for this page: private windows, blocked storage. */
export function remember<K extends keyof Memory>(name: K, value: Memory[K] | undefined): void {
  try {
    if (value === undefined) localStorage.removeItem(key(name));
    else localStorage.setItem(key(name), JSON.stringify(value));
  } catch {}
}
