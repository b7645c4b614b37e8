// Plays the Hub and its CDN, with faults. Rust's tests start it as a process (tests/hub/mod.rs), the browser's
// tests import it: one server, so that one seeded schedule means the same to both.
//
//   node tests/hub/server.js      prints {"hub": URL, "cdn": URL}; ends with its standard input
//
// Many tests share it, each in a world of its own: `PUT /_/NAME` with a world (below) makes one, whose Hub is at
// `hub/NAME`; `GET /_/NAME` tells what was asked of it, `DELETE /_/NAME` forgets it.
//
// A world: {
//   repos: { "owner/name": { commit, sha, token, files: { path: { size, seed } | { base64 } | { file } },
//            revisions: { name: commit },
//            endless: "again" | "on" } },   the list of files goes on for ever: with the same page, or with others
//   a file's `listed` is what the list says of its size
//   renamed: { "owner/old": "owner/name" },
//   seed, rate, kinds,     each request meets one of `kinds` with probability `rate`, drawn from `seed`, the
//                          request and how often it came: in whatever order parallel requests arrive
//   script: [{ match, times, fault }],  the first `times` requests whose "METHOD path bytes=…" contain `match`
//   signatures,            how many requests one signed address is good for
//   allowance,             bytes of files that are sent before everything stalls
// }
import { createHash, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

/** What can go wrong, by the place where it can. */
export const API_FAULTS = ["429", "500", "503", "cut", "stall", "nonsense"];
export const CDN_FAULTS = [
  ...[
    "429",
    "500",
    "503",
    "cut",
    "stall",
    "expired",
    "ignored",
    "flip",
    "short",
    "long",
    "shifted",
    "empty",
    "resized",
  ],
  ...["retagged", "reset", "cors"],
];

const digest = (...parts) => createHash("sha256").update(parts.join("\0")).digest();

/** Bytes that depend on `seed` alone. */
export function bytes(seed, size) {
  const result = Buffer.allocUnsafe(size);
  const block = digest("bytes", seed);
  let state = block.readUInt32LE(0) | 1;
  for (let at = 0; at < size; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    result[at] = state;
  }
  return result;
}

class World {
  constructor(name, description) {
    Object.assign(
      this,
      { rate: 0, kinds: [], script: [], signatures: Infinity, allowance: Infinity, repos: {}, renamed: {} },
      description,
    );
    this.name = name;
    this.log = [];
    this.seen = new Map();
    this.signed = new Map();
    for (const repo of Object.values(this.repos)) {
      for (const file of Object.values(repo.files)) {
        file.data =
          file.base64 !== undefined
            ? Buffer.from(file.base64, "base64")
            : file.file !== undefined
              ? readFileSync(file.file)
              : bytes(file.seed, file.size);
        file.sha256 = createHash("sha256").update(file.data).digest("hex");
      }
    }
  }

  /** The fault that this request meets, if any. */
  fault(line, possible) {
    const rule = this.script.find((rule) => line.includes(rule.match) && rule.times > 0);
    if (rule) {
      rule.times--;
      return rule.fault;
    }
    const count = this.seen.get(line) ?? 0;
    this.seen.set(line, count + 1);
    const draw = digest(this.seed, line, count);
    if (draw.readUInt32LE(0) / 2 ** 32 >= this.rate) return undefined;
    const kinds = this.kinds.filter((kind) => possible.includes(kind));
    return kinds.length ? kinds[draw.readUInt32LE(4) % kinds.length] : undefined;
  }

  /** A number from 0 to `below`, for the fault's place. */
  place(line, below) {
    return Number(
      digest("place", this.seed, line, this.seen.get(line) ?? 0).readBigUInt64LE(0) % BigInt(Math.max(below, 1)),
    );
  }
}

function cors(request, response) {
  response.setHeader("Access-Control-Allow-Origin", "*");
  response.setHeader("Access-Control-Allow-Headers", "authorization, range");
  response.setHeader("Access-Control-Expose-Headers", "Link, ETag, Content-Range, Content-Length, X-Error-Code");
  if (request.method !== "OPTIONS") return false;
  response.writeHead(204).end();
  return true;
}

function json(response, status, value, headers = {}) {
  response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
}

/** What any server may do to any request. Says whether it did. */
function general(fault, response) {
  switch (fault) {
    case "429":
      response.writeHead(429, { "Retry-After": "0", RateLimit: '"resolvers";r=0;t=0' }).end("slow down");
      return true;
    case "500":
    case "503":
      response.writeHead(Number(fault)).end("out of order");
      return true;
    case "cut":
      response.socket.destroy();
      return true;
    case "stall":
      return true; // For ever: until the client goes or the server ends.
    case "nonsense":
      response
        .writeHead(200, { "Content-Type": "application/json" })
        .end("<html>sign in to the hotel's network</html>");
      return true;
    default:
      return false;
  }
}

function hub(worlds, cdnURL, request, response) {
  const url = new URL(request.url, "http://hub");
  const [, name, ...rest] = url.pathname.split("/");
  if (name === "_") return control(worlds, rest[0], request, response);
  if (cors(request, response)) return undefined;
  const world = worlds.get(name);
  if (!world) return json(response, 404, { error: "no such world" });
  const path = decodeURIComponent(rest.join("/"));
  const line = `${request.method} ${path} ${request.headers.range ?? ""}`;
  const fault = world.fault(line, API_FAULTS);
  world.log.push({ at: "hub", line, query: url.search, authorization: request.headers.authorization, fault });
  if (general(fault, response)) return undefined;

  const old = Object.keys(world.renamed).find(
    (old) => path.startsWith(`${old}/`) || path.startsWith(`api/models/${old}/`),
  );
  if (old) return response.writeHead(307, { Location: request.url.replace(old, world.renamed[old]) }).end();

  const api = path.match(/^api\/models\/([^/]+\/[^/]+)(?:\/(tree|revision)\/(.+))?$/);
  const resolve = path.match(/^([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/);
  const repo = world.repos[(api ?? resolve)?.[1]];
  const refused = repo?.token !== undefined && request.headers.authorization !== `Bearer ${repo.token}`;
  // As the Hub does: what one may not see looks like what is not there.
  if (!repo || (refused && !repo.gated)) {
    return json(response, 401, { error: "Invalid username or password." }, { "X-Error-Code": "RepoNotFound" });
  }
  if (refused && resolve) {
    return json(response, 403, { error: "Access to this model is restricted." }, { "X-Error-Code": "GatedRepo" });
  }
  const revision = (api?.[3] ?? resolve?.[2]) || "main";
  const known = revision === "main" || revision === repo.commit || repo.revisions?.[revision] === repo.commit;
  if (!known)
    return json(response, 404, { error: `Invalid rev id: ${revision}` }, { "X-Error-Code": "RevisionNotFound" });

  if (api?.[2] === "tree") {
    const entries = Object.entries(repo.files).map(([path, file]) => ({
      type: "file",
      oid: createHash("sha1").update(file.data).digest("hex"),
      size: file.data.length,
      path,
      ...(file.plain ? {} : { lfs: { oid: file.sha256, size: file.listed ?? file.data.length, pointerSize: 135 } }),
    }));
    const page = Number(url.searchParams.get("cursor") ?? 0);
    const size = repo.pageSize ?? 1000;
    const headers = {};
    if (entries.length > (page + 1) * size || repo.endless) {
      const next = new URL(`http://${request.headers.host}${request.url}`);
      next.searchParams.set("cursor", repo.endless === "again" ? page : page + 1);
      headers.Link = `<${next}>; rel="next"`;
    }
    return json(response, 200, entries.slice(page * size, (page + 1) * size), headers);
  }
  if (api) return json(response, 200, { id: api[1], sha: repo.commit, gated: repo.gated ? "manual" : false });

  const file = repo.files[resolve[3]];
  if (!file) return json(response, 404, { error: "Entry not found" }, { "X-Error-Code": "EntryNotFound" });
  const signature = randomUUID();
  world.signed.set(signature, world.signatures);
  const location = `${cdnURL}/${name}/${encodeURI(`${resolve[1]}/${resolve[3]}`)}?Signature=${signature}`;
  response
    .writeHead(302, { Location: location, "X-Repo-Commit": repo.commit, "X-Linked-ETag": `"${file.sha256}"` })
    .end();
  return undefined;
}

function cdn(worlds, request, response) {
  if (cors(request, response)) return;
  const url = new URL(request.url, "http://cdn");
  const [, name, owner, repoName, ...rest] = decodeURIComponent(url.pathname).split("/");
  const world = worlds.get(name);
  const file = world?.repos[`${owner}/${repoName}`]?.files[rest.join("/")];
  if (!file) {
    response.writeHead(404).end();
    return;
  }
  const line = `${request.method} cdn/${rest.join("/")} ${request.headers.range ?? ""}`;
  const signature = url.searchParams.get("Signature");
  const left = world.signed.get(signature) ?? 0;
  world.signed.set(signature, left - 1);
  const fault = left <= 0 ? "expired" : world.fault(line, CDN_FAULTS);
  const entry = { at: "cdn", line, authorization: request.headers.authorization, fault, sent: 0 };
  world.log.push(entry);
  if (fault === "expired") {
    response.writeHead(403, { "Content-Type": "application/xml" }).end("<Error><Code>AccessDenied</Code></Error>");
    return;
  }
  // Cuts and stalls in the middle of a body are below.
  const early = world.place(line, 2) === 0;
  if (!((fault === "cut" || fault === "stall") && !early) && general(fault, response)) return;

  const size = file.data.length;
  let [start, end, status] = [0, size, 200];
  const range = request.headers.range?.match(/^bytes=(\d+)-(\d+)$/);
  if (range && fault !== "ignored") {
    [start, end, status] = [Number(range[1]), Math.min(Number(range[2]) + 1, size), 206];
    if (start >= size) {
      response.writeHead(416, { "Content-Range": `bytes */${size}` }).end();
      return;
    }
  }
  let body = file.data.subarray(start, end);
  let total = size;
  const headers = { ETag: `"${file.sha256}"`, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream" };
  const somewhere = world.place(line, body.length);
  if (fault === "flip") {
    body = Buffer.from(body);
    body[somewhere] ^= 1;
  }
  if (fault === "short") body = body.subarray(0, somewhere);
  if (fault === "long") body = Buffer.concat([body, Buffer.alloc(1000)]);
  if (fault === "empty") body = Buffer.alloc(0);
  if (fault === "resized") total = size + 1;
  if (fault === "cors") response.removeHeader("Access-Control-Allow-Origin"); // Browsers keep the answer from the page.
  if (fault === "retagged") headers.ETag = '"another"';
  if (fault === "shifted") [start, end] = [start + 1, end + 1];
  if (status === 206) headers["Content-Range"] = `bytes ${start}-${end - 1}/${total}`;
  headers["Content-Length"] = body.length;
  response.writeHead(status, headers);
  const faulty = fault === "cut" || fault === "stall" || fault === "reset";
  const broken = faulty || body.length > world.allowance;
  const out = faulty ? body.subarray(0, somewhere) : body.subarray(0, world.allowance);
  world.allowance -= out.length;
  entry.sent = out.length;
  if (!broken) response.end(out);
  else
    response.write(out, () => {
      if (fault === "cut") response.socket?.destroy();
      if (fault === "reset") response.socket?.resetAndDestroy();
    });
}

async function control(worlds, name, request, response) {
  const world = worlds.get(name);
  if (request.method === "PUT") {
    let text = "";
    for await (const chunk of request) text += chunk;
    worlds.set(name, new World(name, JSON.parse(text)));
    return json(response, 200, {});
  }
  if (request.method === "DELETE") {
    worlds.delete(name);
    return json(response, 200, {});
  }
  if (!world) return json(response, 404, { error: "no such world" });
  const files = {};
  for (const [repo, { files: contents }] of Object.entries(world.repos)) {
    for (const [path, { sha256, data }] of Object.entries(contents))
      files[`${repo}/${path}`] = { sha256, size: data.length };
  }
  return json(response, 200, { log: world.log, files });
}

/** Starts both servers: their addresses, and how to end them. */
export async function start() {
  const worlds = new Map();
  const listen = (handler) =>
    new Promise((resolve) => {
      const server = createServer(handler);
      server.listen(0, "127.0.0.1", () => resolve({ server, url: `http://127.0.0.1:${server.address().port}` }));
    });
  const files = await listen((request, response) => cdn(worlds, request, response));
  const api = await listen((request, response) => hub(worlds, files.url, request, response));
  const close = () =>
    [files, api].forEach(({ server }) => {
      server.close();
      server.closeAllConnections();
    });
  return { hub: api.url, cdn: files.url, close };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { hub, cdn } = await start();
  console.log(JSON.stringify({ hub, cdn }));
  process.stdin.on("end", () => process.exit()).resume();
}
