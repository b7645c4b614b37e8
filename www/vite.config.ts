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

export default defineConfig({
  base: "./", // Works from any folder of any host.
  plugins: [contentSecurityPolicy()],
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { fs: { allow: [".."] }, headers: isolation }, // The package is next door.
  preview: { headers: { "Content-Security-Policy": policy, ...isolation } },
});
