import { Connection } from "./connection.js";
import { aborted, CandlewickError } from "./errors.js";
import { Engine } from "./engine.js";
import type { EngineInfo, LoadOptions } from "./types.js";

/** A URL (relative ones are relative to the page), a file the user chose or dropped, or the bytes themselves. */
export type ModelSource = string | URL | Blob | ArrayBuffer | Uint8Array;

/** Loads a GGUF model into a Worker of its own. */
export async function load(source: ModelSource, options: LoadOptions = {}): Promise<Engine> {
  const { device, contextLength, threads, fallback, gpu, profile, onProgress, signal } = options;
  const { workerURL, wasmURL, threadsWasmURL } = options;
  if (signal?.aborted) throw aborted(signal);
  const connection = new Connection(workerURL);
  try {
    const info = await connection.call<EngineInfo>(
      {
        method: "load",
        source: locate(source),
        wasm: { single: absolute(wasmURL), threaded: absolute(threadsWasmURL) },
        options: { device, contextLength, threads, fallback, gpu, profile: profile ?? false },
      },
      { signal, onProgress },
    );
    return new Engine(connection, info, onProgress);
  } catch (error) {
    const failure = error as CandlewickError;
    connection.close(failure, failure);
    throw error;
  }
}

function absolute(url: string | URL | undefined): string | undefined {
  return url === undefined ? undefined : new URL(url, document.baseURI).href;
}

/** The Worker knows two kinds of source: an absolute URL and a Blob, which it reads piece by piece. */
function locate(source: ModelSource): string | Blob {
  if (source instanceof Blob) return source;
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return new Blob([source as BlobPart]);
  if (source instanceof URL) return source.href;
  if (typeof source !== "string" || source.trim() === "") {
    throw new CandlewickError("invalid_argument", "load() takes a URL, a File or Blob, an ArrayBuffer or a Uint8Array.");
  }
  if (!isURL(source)) {
    throw new CandlewickError(
      "invalid_argument",
      `"${source}" reads like the name of a model on the Hugging Face Hub, which load() does not take yet. ` +
        `Give it the URL of a .gguf file (for one beside the page, "./${source}"), a File or the bytes.`,
    );
  }
  try {
    return new URL(source, document.baseURI).href;
  } catch (cause) {
    throw new CandlewickError("invalid_argument", `"${source}" is not a valid URL.`, { cause });
  }
}

/** Names on the Hub are `owner/repo[:QUANT]` or `owner/repo/file.gguf[@revision]`; what cannot be one is a URL. */
function isURL(text: string): boolean {
  return /^([a-z][a-z0-9+.-]*:|\.{0,2}\/)/i.test(text) || /^([^/]+\/)?[^/]+\.gguf([?#].*)?$/i.test(text);
}
