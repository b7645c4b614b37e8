// Where pieces of a model are kept fastest in Chromium: IndexedDB with buffers, IndexedDB with Blobs, and the origin's
// private file system (OPFS) through an access handle in a Worker, which is what the package does; its pieces are of 2 MiB.
// Megabytes a second of pieces committed one by one, and of reads of 8 MiB; and how much more memory
// the browser's own process has after one of them than before.
//
//     ./build.sh npm && node tests/bench/storage.js [--megabytes 256] [--rounds 5] [--piece 2] [--cold]
//
// `--cold` empties the system's page cache before each read, which needs root.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { launchOnDisk, repository, serve } from "../browser/support.js";
import { resident } from "./resident.js";

const { values: options } = parseArgs({
  options: {
    megabytes: { type: "string", default: "256" },
    rounds: { type: "string", default: "5" },
    piece: { type: "string", default: "2" },
    cold: { type: "boolean", default: false },
  },
});

const worker = `
  const PIECE = ${Number(options.piece)} << 20, WINDOW = 8 << 20;
  const wait = (request) => new Promise((done, fail) => Object.assign(request, { onsuccess: () => done(request.result), onerror: () => fail(request.error) }));
  const committed = (transaction) => new Promise((done, fail) => Object.assign(transaction, { oncomplete: done, onabort: () => fail(transaction.error) }));
  const random = () => {
    const piece = new Uint8Array(PIECE);
    for (let at = 0; at < PIECE; at += 65536) crypto.getRandomValues(piece.subarray(at, at + 65536));
    return piece;
  };

  const indexed = (blobs) => {
    let database;
    return {
      open: async () => {
        const request = indexedDB.open(blobs ? "blobs" : "buffers", 1);
        request.onupgradeneeded = () => request.result.createObjectStore("pieces");
        database = await wait(request);
        const transaction = database.transaction("pieces", "readwrite");
        transaction.objectStore("pieces").clear();
        await committed(transaction);
      },
      write: async (index, piece) => {
        const transaction = database.transaction("pieces", "readwrite");
        transaction.objectStore("pieces").put(blobs ? new Blob([piece]) : piece, index);
        await committed(transaction);
      },
      // Whole pieces are read, into the window.
      read: async (offset, window) => {
        const store = database.transaction("pieces").objectStore("pieces");
        const indices = Array.from({ length: WINDOW / PIECE }, (_, next) => offset / PIECE + next);
        const values = await Promise.all(indices.map((index) => wait(store.get(index))));
        const buffers = values.map((value) => (blobs ? value.arrayBuffer() : value));
        for (const [at, buffer] of buffers.entries()) window.set(new Uint8Array(await buffer), at * PIECE);
      },
    };
  };
  const opfs = () => {
    let handle;
    return {
      open: async () => {
        handle?.close();
        const root = await navigator.storage.getDirectory();
        handle = await (await root.getFileHandle("model", { create: true })).createSyncAccessHandle();
        handle.truncate(0);
      },
      write: async (index, piece) => {
        handle.write(piece, { at: index * PIECE });
        handle.flush();
      },
      read: async (offset, window) => {
        if (handle.read(window, { at: offset }) !== window.length) throw new Error("short read");
      },
    };
  };
  const stores = { "IndexedDB, buffers": indexed(false), "IndexedDB, Blobs": indexed(true), "OPFS": opfs() };

  onmessage = async ({ data: { store, what, size } }) => {
    const chosen = stores[store];
    if (what === "write") await chosen.open();
    const piece = random(), window = new Uint8Array(WINDOW);
    const start = performance.now();
    if (what === "write") for (let index = 0; index * PIECE < size; index++) await chosen.write(index, piece);
    else for (let offset = 0; offset < size; offset += WINDOW) await chosen.read(offset, window);
    postMessage(size / 1e3 / (performance.now() - start));
  };
`;

const server = await serve({
  routes: {
    "/": "<!doctype html><title>bench</title>",
    "/worker.js": (_, response) => response.setHeader("content-type", "text/javascript").end(worker),
  },
});
const profile = mkdtempSync(join(repository, "target/profile-"));
const context = await launchOnDisk(profile);
const page = await context.newPage();
await page.goto(server.url);
await page.evaluate(() => {
  const worker = new Worker("/worker.js");
  window.measure = (request) =>
    new Promise((done, fail) => {
      worker.onmessage = ({ data }) => done(data);
      worker.onerror = (error) => fail(new Error(error.message));
      worker.postMessage(request);
    });
});

const names = ["IndexedDB, buffers", "IndexedDB, Blobs", "OPFS"];
const size = Math.ceil(Number(options.megabytes) / 8) * (8 << 20);
const results = Object.fromEntries(names.map((name) => [name, { write: [], read: [], memory: 0 }]));
for (let round = 0; round < Number(options.rounds); round++) {
  for (const what of ["write", "read"]) {
    for (const store of names) {
      if (options.cold && what === "read") execFileSync("sh", ["-c", "sync; echo 3 > /proc/sys/vm/drop_caches"]);
      const before = await resident(context, "browser", "VmRSS");
      results[store][what].push(await page.evaluate((request) => measure(request), { store, what, size }));
      const more = (await resident(context, "browser", "VmRSS")) - before;
      results[store].memory = Math.max(results[store].memory, more);
    }
  }
}
const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const [{ write: firstWrites, read: firstReads }] = Object.values(results);
console.log(
  `${size / 2 ** 20} MiB in pieces of ${options.piece} MiB, MB/s: median (lowest to highest), median ratio to the first line of each round`,
);
for (const [name, { write, read, memory }] of Object.entries(results)) {
  const line = (list, first) => {
    const ratio = median(list.map((speed, round) => speed / first[round]));
    return `${median(list).toFixed(0)} (${Math.min(...list).toFixed(0)} to ${Math.max(...list).toFixed(0)}), × ${ratio.toFixed(2)}`;
  };
  console.log(
    `  ${name.padEnd(20)} write ${line(write, firstWrites).padEnd(34)} read ${line(read, firstReads).padEnd(34)} browser process + ${(memory / 1e6).toFixed(0)} MB`,
  );
}
await context.close();
rmSync(profile, { recursive: true });
await server.close();
