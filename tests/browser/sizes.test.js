/** What is published stays small: each file of the package and of the demo page has a limit. No browser is needed. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { repository } from "./support.js";

/** Whether the files are those that are published (`--release`). As tests build them they are a fourth larger. */
const published = process.env.CANDLEWICK_PROFILE === "release";

/** Bytes, for the files whose names match; the first line that does counts. Brotli in quality 9. */
const limits = [
  [
    /^wasm\/[\w-]+_bg\.wasm$/,
    published
      ? { raw: 5_000_000, gzip: 1_850_000, brotli: 1_480_000 }
      : { raw: 6_900_000, gzip: 2_160_000, brotli: 1_640_000 },
  ],
  [/^wasm\/[\w-]+\.js$/, { raw: 120_000, gzip: 22_000, brotli: 18_000 }],
  // One file, with all that it imports.
  [/^dist\/worker\.js$/, { raw: 330_000, gzip: 56_000, brotli: 44_000 }],
  [/^dist\/[\w-]+\.js$/, { raw: 40_000, gzip: 12_000, brotli: 11_000 }],
  [/\.d\.ts$/, { raw: 60_000, gzip: 20_000, brotli: 17_000 }],
  [/^(package\.json|README\.md|LICENSE-\w+)$/, { raw: 40_000, gzip: 14_000, brotli: 12_000 }],
];

/** What a page on the GPU's path downloads: the package's modules, its Worker, which has all it imports in it, and the file without threads. */
const DOWNLOAD = published ? 1_500_000 : 1_680_000;
/** What static hosts take in one file. */
const HOSTED = 25 << 20;

const brotli = (bytes) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } }).length;
const sizes = (bytes) => ({ raw: bytes.length, gzip: gzipSync(bytes, { level: 9 }).length, brotli: brotli(bytes) });

const [{ files }] = JSON.parse(
  execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: join(repository, "pkg"),
    stdio: ["ignore", "pipe", "ignore"],
  }),
);
const shipped = files.map(({ path }) => ({ path, ...sizes(readFileSync(join(repository, "pkg", path))) }));

describe("the npm package", () => {
  test("holds the files that it needs", () => {
    for (const path of [
      "dist/index.js",
      "dist/worker.js",
      "wasm/candlewick.js",
      "wasm/candlewick_bg.wasm",
      "wasm/candlewick-threads_bg.wasm",
    ]) {
      assert.ok(
        shipped.some((file) => file.path === path),
        `${path} is missing`,
      );
    }
  });

  for (const { path, ...size } of shipped) {
    test(`${path}: ${size.raw} bytes, gzip ${size.gzip}, Brotli ${size.brotli}`, () => {
      const limit = limits.find(([names]) => names.test(path))?.[1];
      assert.ok(limit, "a file without a limit: give it one in this test");
      for (const [form, most] of Object.entries(limit))
        assert.ok(size[form] <= most, `${size[form]} bytes (${form}), at most ${most}`);
    });
  }

  test(`is downloaded by a page with a GPU in ${DOWNLOAD / 1e6} MB at most`, () => {
    const needed = shipped.filter(({ path }) => path === "wasm/candlewick_bg.wasm" || /^dist\/[\w-]+\.js$/.test(path));
    assert.doesNotMatch(
      readFileSync(join(repository, "pkg/dist/worker.js"), "utf8"),
      /^import |\bfrom "\.|import\("\./m,
    );
    const sum = needed.reduce((sum, { brotli }) => sum + brotli, 0);
    assert.ok(sum > 100_000 && sum <= DOWNLOAD, `${sum} bytes of Brotli`);
  });
});

test("static hosts take each file of the demo page", () => {
  const all = readdirSync(join(repository, "www/dist"), { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  assert.ok(all.length > 0);
  for (const { parentPath, path, name } of all) {
    const { length } = readFileSync(join(parentPath ?? path, name));
    assert.ok(length < HOSTED, `${name}: ${length} bytes`);
  }
});
