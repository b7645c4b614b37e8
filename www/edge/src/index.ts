/** The Worker: the page's files, a relay to hosted models, and a small model that runs right here. */
import { admit, openTo, preflight } from "./admission";
import { type Body, discard, readBody, readObject } from "./body";
import { cacheKey, type Endpoint, find, keep } from "./cache";
import { embeddings } from "./embeddings";
import { embed } from "./encoder";
import { Refusal } from "./errors";
import { redactText } from "./redact";
import { type Env, PATH_NAME, root, settings as read, type Settings } from "./settings";
import { MOST_BYTES as MOST_TO_STORYTELLER, STORYTELLER, tell } from "./storyteller";
import { ask } from "./upstream";
import { runWorkersAI } from "./workers-ai";

export default {
  async fetch(request, env): Promise<Response> {
    if (!/^\/(v1|hf-inference)\//.test(new URL(request.url).pathname)) return env.ASSETS.fetch(request);
    const started = Date.now();
    const [response, code] = await answer(request, env);
    // Neither headers nor bodies: they hold secrets and what people wrote.
    const path = redactText(new URL(request.url).pathname, env.HF_TOKEN);
    const cache = response.headers.get("x-candlewick-cache") ?? undefined;
    console.log(
      JSON.stringify({ method: request.method, path, status: response.status, code, cache, ms: Date.now() - started }),
    );
    return response;
  },
} satisfies ExportedHandler<Env>;

/** The answer, and the code of what went wrong. */
async function answer(request: Request, env: Env): Promise<[Response, string | undefined]> {
  let settings: Settings | undefined;
  try {
    settings = read(env);
    return [openTo(request, settings, await route(request, env, settings)), undefined];
  } catch (error) {
    // What is not a refusal is a fault of this Worker, and may hold anything.
    const refusal = error instanceof Refusal ? error : new Refusal(500, "internal", "The relay failed.");
    await discard(request).catch(() => {});
    const response = refusal.response();
    return [settings ? openTo(request, settings, response) : response, refusal.code];
  }
}

const METHODS: Record<string, string> = {
  "/v1/models": "GET",
  "/v1/chat/completions": "POST",
  "/v1/completions": "POST",
  "/v1/embeddings": "POST",
};

/** A task of Hugging Face's router, with the model that is to do it. */
const TASK = new RegExp(`^/hf-inference/models/(${PATH_NAME})(?:/pipeline/[\\w-]+)?$`);

async function route(request: Request, env: Env, settings: Settings): Promise<Response> {
  const { pathname } = new URL(request.url);
  const task = settings.huggingFace ? TASK.exec(pathname)?.[1] : undefined;
  const method = task === undefined ? METHODS[pathname] : "POST";
  if (method === undefined)
    throw new Refusal(404, "invalid_argument", `There is nothing at ${redactText(pathname, settings.token)}.`);
  if (request.method === "OPTIONS") return preflight(request, settings);
  if (request.method !== method)
    throw new Refusal(405, "invalid_argument", `${pathname} takes ${method} only.`, { Allow: `${method}, OPTIONS` });
  await admit(request, env, settings);
  if (pathname === "/v1/models") return cached(request, pathname, undefined, settings, () => models(env, settings));
  if (task !== undefined) {
    checkOffered(task, settings);
    return ask(root(settings) + pathname, await readObject(request, settings.maxBodyBytes), settings);
  }
  const most =
    pathname === "/v1/completions" ? Math.min(MOST_TO_STORYTELLER, settings.maxBodyBytes) : settings.maxBodyBytes;
  const body = await readBody(request, most);
  if (pathname === "/v1/completions") {
    if (body.model === STORYTELLER) return tell(request, body, env);
    throw new Refusal(
      404,
      "model_not_found",
      `Only ${STORYTELLER} continues texts here. Hosted models answer at /v1/chat/completions.`,
    );
  }
  if (!runsHere(body.model, pathname, settings)) checkOffered(body.model, settings);
  const endpoint = pathname as Exclude<Endpoint, "/v1/models">;
  return cached(request, endpoint, body, settings, () => made(endpoint, request, body, env, settings));
}

function runsHere(model: string, pathname: string, { embeddingModel }: Settings): boolean {
  return pathname === "/v1/embeddings" && model === embeddingModel;
}

function checkOffered(model: string, { models }: Settings): void {
  if (models.length === 0 || models.includes(model)) return;
  throw new Refusal(
    404,
    "model_not_found",
    "This relay does not offer this model. GET /v1/models lists those it does.",
  );
}

/** From the cache, or made and kept. */
async function cached(
  request: Request,
  endpoint: Endpoint,
  body: Body | undefined,
  settings: Settings,
  make: () => Promise<Response>,
): Promise<Response> {
  const key = await cacheKey(request, endpoint, body, settings);
  if (key === undefined) return make();
  return (await find(key)) ?? keep(key, await make(), settings.cacheSeconds);
}

async function made(
  endpoint: Exclude<Endpoint, "/v1/models">,
  request: Request,
  body: Body,
  env: Env,
  settings: Settings,
): Promise<Response> {
  if (runsHere(body.model, endpoint, settings)) return embed(body.model, request, body, env);
  if (env.AI && body.model.startsWith("@cf/")) return runWorkersAI(env.AI, endpoint, body);
  if (endpoint === "/v1/embeddings") return embeddings(body, settings);
  return ask(`${settings.upstream}/chat/completions`, body, settings);
}

/** The upstream's, as far as they are allowed, those of Workers AI that are named, and those that run here. */
async function models(env: Env, settings: Settings): Promise<Response> {
  const answer = await (
    await ask(`${settings.upstream}/models`, undefined, settings)
  )
    .json<{ data?: { id: string }[] }>()
    .catch(() => undefined);
  if (!Array.isArray(answer?.data)) throw new Refusal(502, "provider_error", "The provider's list of models is none.");
  const listed = answer.data;
  const offered = settings.models.flatMap((name) => {
    if (env.AI && name.startsWith("@cf/")) return [entry(name, "cloudflare")];
    // Requests name a provider behind a colon; the list knows none.
    const known = listed.find(({ id }) => name === id || name.startsWith(`${id}:`));
    return known ? [{ ...known, id: name }] : [];
  });
  const hosted = settings.models.length === 0 ? listed : offered;
  const local = settings.embeddingModel === undefined ? [STORYTELLER] : [STORYTELLER, settings.embeddingModel];
  return Response.json({ object: "list", data: [...hosted, ...local.map((id) => entry(id, "candlewick"))] });
}

function entry(id: string, owned_by: string) {
  return { id, object: "model", created: 0, owned_by };
}
