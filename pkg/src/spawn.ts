import { absolute, checkBrowser } from "./page.js";

// In a variable, because bundlers take `new URL("…", import.meta.url)` for an asset to be copied.
const here = import.meta.url;

/** Starts the Worker, wherever this module was served from. */
export function spawn(workerURL?: string | URL): Worker {
  checkBrowser();
  const override = workerURL === undefined ? foreign(here, "./worker.js") : new URL(absolute(workerURL, "workerURL"));
  if (override === undefined) {
    // Exactly this form is what Vite, webpack, Parcel and Rollup plugins recognise and bundle.
    return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "candlewick" });
  }
  return override.origin === location.origin || override.protocol === "blob:"
    ? new Worker(override, { type: "module", name: "candlewick" })
    : spawnForeign(override);
}

/** The address of the file beside this module if it is on another origin, as with a CDN. */
function foreign(base: string, path: string): URL | undefined {
  const url = /^https?:/.test(base) ? new URL(path, base) : undefined;
  return url?.origin === location.origin ? undefined : url;
}

/** A Worker cannot be constructed from another origin, but a local one can import from there (where CORS allows). */
function spawnForeign(url: URL): Worker {
  const shim = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  return new Worker(URL.createObjectURL(shim), { type: "module", name: "candlewick" });
}

/** What to say when the Worker's script did not start; browsers give no reason. */
export function explainFailedStart(workerURL?: string | URL): string {
  const hint = here.includes("/.vite/deps/")
    ? "Vite before version 8 loses the Worker of a pre-bundled dependency: add optimizeDeps: { exclude: [\"candlewick\"] } to its configuration."
    : "Check that worker.js is served beside the package (or pass workerURL), and that the page's Content-Security-Policy allows it in worker-src.";
  return `The Worker script ${workerURL === undefined ? "" : `${workerURL} `}could not be started. ${hint}`;
}
