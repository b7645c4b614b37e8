/**
 * Lets the page open without a network, and isolates it where its server cannot: see pkg/README.md, "Threads". The build
 * puts VERSION, FIRST and LATER in front of this: files to keep at once, and those to keep when they are wanted.
 *
 * It answers for these files and for nothing else: models from the Hub go past it, the package has a store of its own.
 * A new version of the page brings a new worker, which fills a cache of its own and waits until no page of the old one
 * is open, whose files might be gone from the server. The page itself comes from the network wherever there is one.
 */
const scope = new URL("./", location.href);
/** Other folders of this host may have pages of their own, which share the caches. */
const PREFIX = `candlewick-page ${scope.pathname} `;
const CACHE = PREFIX + VERSION;
/** A network that takes longer than this counts as none. */
const PATIENCE = 4000;

const address = (file) => new URL(file, scope).href;
const files = new Set([...FIRST, ...LATER].map(address));
const page = address("./");

addEventListener("install", (event) => event.waitUntil(fill()));

async function fill() {
  const cache = await caches.open(CACHE);
  const used = await usedEarlier();
  const wanted = [...FIRST, ...LATER.filter((file) => used.has(stem(address(file))))].map(address);
  await Promise.all(wanted.map((url) => keep(cache, url)));
  // Some servers have the page under one of its addresses only.
  for (const name of ["./", "index.html"]) {
    const answer = await fetch(address(name), { cache: "no-cache" });
    if (answer.ok) return cache.put(page, answer);
  }
  throw new Error("the page is not there");
}

/** A file's address without the hash that the build puts into its name. */
const stem = (url) => url.replace(/-[\w-]{8}(?=\.\w+$)/, "");

/** What the version before has kept: without its successors, this one would not open without a network. */
async function usedEarlier() {
  const kept = (await earlier()).map(async (name) =>
    (await (await caches.open(name)).keys()).map(({ url }) => stem(url)),
  );
  return new Set((await Promise.all(kept)).flat());
}

const earlier = async () => (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);

/** Fails where it is not there, or finds no room. A name with a hash is the same file, whichever version has kept it. */
async function keep(cache, url) {
  if (await cache.match(url)) return;
  const hashed = stem(url) !== url;
  const same = hashed && (await caches.match(url));
  await (same ? cache.put(url, same) : cache.add(new Request(url, { cache: hashed ? "default" : "no-cache" })));
}

addEventListener("activate", (event) => {
  const tidy = async () => {
    await Promise.all((await earlier()).map((name) => caches.delete(name)));
    await clients.claim();
  };
  event.waitUntil(tidy());
});

/** The page says which WebAssembly files it will want, and hears whether they are here. */
addEventListener("message", (event) => {
  const isWanted = (file) => event.data.keep.some((name) => file.includes(`/${name.replace(".wasm", "_bg-")}`));
  const keepAll = async () => {
    const cache = await caches.open(CACHE);
    await Promise.all(LATER.filter(isWanted).map((file) => keep(cache, address(file))));
  };
  const answer = (kept) => event.ports[0].postMessage(kept);
  event.waitUntil(
    keepAll().then(
      () => answer(true),
      () => answer(false),
    ),
  );
});

addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  url.search = url.hash = "";
  if (request.method !== "GET") return;
  if (request.mode === "navigate" && (url.href === page || url.href === address("index.html")))
    event.respondWith(open(request));
  else if (files.has(url.href)) event.respondWith(file(event, url.href));
  // A newer page than this worker's, isolated by it, has Workers of other names, which it may start with the headers only.
  else if (request.destination === "worker" && url.href.startsWith(scope.href))
    event.respondWith(fetch(request).then(isolated));
});

/** The newest version, or where there is no network the one that is here. */
async function open(request) {
  const network = fetch(request).catch(() => undefined);
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE));
  const answer = await Promise.race([network, late]);
  if (answer && answer.status < 500) return isolated(answer);
  const cache = await caches.open(CACHE);
  const cached = await cache.match(page);
  if (!cached) return (await network) ?? Response.error();
  // An isolated page wants the files with threads. It gets none of those that are not here.
  const threads = (await cache.keys()).some(({ url }) => url.includes("/candlewick-threads"));
  return threads ? isolated(cached) : new Response(cached.body, cached);
}

/** The names of files change with what is in them, so what is here is right. */
async function file(event, url) {
  const cache = await caches.open(CACHE);
  const cached = await cache.match(url);
  if (cached) return isolated(cached);
  const answer = await fetch(url);
  // Where there is no room to keep it, the page wants it all the same.
  if (answer.ok) event.waitUntil(cache.put(url, answer.clone()).catch(() => {}));
  return isolated(answer);
}

/** Workers need the headers as well as the page. */
function isolated(answer) {
  if (answer.type === "opaqueredirect") return answer;
  const { status, statusText, body } = answer;
  const headers = new Headers(answer.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  // They are of what came over the network; the body is no longer compressed.
  if (headers.has("Content-Encoding")) ["Content-Encoding", "Content-Length"].forEach((name) => headers.delete(name));
  return new Response(body, { status, statusText, headers });
}
