import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { defineConfig, type Plugin } from "vite";

/**
 * Scripts, styles and pictures come from the page's own folder and nowhere else. Connections may go out: to the Hub for
 * models, whose files come from hosts that change, and to the address of a hosted model that the reader has named, which
 * may be a server on their own machine.
 */
const policy = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "connect-src 'self' https: http://localhost:* http://127.0.0.1:*",
  "style-src 'self'",
  "font-src 'self'",
  "img-src 'self'",
  "manifest-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

/** They make the page cross-origin isolated, which threads in WebAssembly need. Without them it works on one thread. */
const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** In the page for any host, and in `_headers` for hosts that read it (Cloudflare Pages, Netlify), where it also binds the Worker. */
function contentSecurityPolicy(): Plugin {
  return {
    name: "content-security-policy",
    apply: "build",
    transformIndexHtml: () => [
      { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: policy }, injectTo: "head-prepend" },
    ],
    generateBundle() {
      const headers = {
        "Content-Security-Policy": `${policy}; frame-ancestors 'none'`,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        ...isolation,
      };
      const source = ["/*", ...Object.entries(headers).map(([name, value]) => `  ${name}: ${value}`), ""].join("\n");
      this.emitFile({ type: "asset", fileName: "_headers", source });
    },
  };
}

const copied = new URL("./public/", import.meta.url);

/**
 * The service worker, with the list of what it keeps: all that the page is made of, but for fonts of other scripts than
 * Latin. Those, and the WebAssembly files, are kept once they were used, or the page has named them.
 */
function serviceWorker(): Plugin {
  return {
    name: "service-worker",
    apply: "build",
    enforce: "post",
    generateBundle(_, bundle) {
      const files = Object.keys(bundle).filter((file) => !/^_headers$|\.map$/.test(file));
      const later = (file: string) => file.endsWith(".wasm") || (file.endsWith(".woff2") && !/-latin-wght/.test(file));
      const first = files.filter((file) => !later(file) && file !== "index.html");
      const code = readFileSync(new URL("./service-worker.js", import.meta.url), "utf8");
      const page = bundle["index.html"];
      const version = createHash("sha256").update(code).update(JSON.stringify(files.toSorted()));
      version.update(page?.type === "asset" ? page.source : "");
      // What is copied as it is has no hash in its name.
      for (const name of readdirSync(copied).toSorted())
        version.update(name).update(readFileSync(new URL(name, copied)));
      const lists = {
        VERSION: version.digest("hex").slice(0, 16),
        FIRST: [...first, "manifest.webmanifest"],
        LATER: files.filter(later),
      };
      const constants = Object.entries(lists).map(([name, value]) => `const ${name} = ${JSON.stringify(value)};`);
      this.emitFile({ type: "asset", fileName: "service-worker.js", source: [...constants, code].join("\n") });
    },
  };
}

/** Where the code is, as the package says; nothing as long as it does not. */
function codeAddress(): string {
  const { repository } = JSON.parse(readFileSync(new URL("../pkg/package.json", import.meta.url), "utf8")) as {
    repository?: string | { url: string };
  };
  const address = typeof repository === "string" ? repository : repository?.url;
  return address?.replace(/^git\+/, "").replace(/\.git$/, "") ?? "";
}

export default defineConfig({
  base: "./", // Works from any folder of any host.
  plugins: [contentSecurityPolicy(), serviceWorker()],
  define: { __CODE__: JSON.stringify(codeAddress()) },
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { fs: { allow: [".."] }, headers: isolation }, // The package is next door.
  preview: { headers: { "Content-Security-Policy": policy, ...isolation } },
});
