/** After tsc: makes the Worker's script one file, which can be served alone. */
import { build } from "esbuild";
import { copyFileSync } from "node:fs";
import { readFile } from "node:fs/promises";

/** wasm-bindgen's own idea of where its file is: nobody asks for it, but bundlers would look there. */
const glue = {
  name: "glue",
  setup({ onLoad }) {
    onLoad({ filter: /[\\/]wasm[\\/][\w-]+\.js$/ }, async ({ path }) => {
      const place = /new URL\('[\w-]+\.wasm', import\.meta\.url\)/;
      const contents = await readFile(path, "utf8");
      if (contents.includes("import.meta") && !place.test(contents))
        throw new Error(`${path}: wasm-bindgen's glue has changed`);
      return { contents: contents.replace(place, "undefined"), loader: "js" };
    });
  },
};

await build({
  entryPoints: ["src/worker.ts"],
  outfile: "dist/worker.js",
  bundle: true,
  format: "esm",
  target: "es2022",
  logLevel: "warning",
  plugins: [glue],
});
copyFileSync("src/file.d.ts", "dist/file.d.ts");
