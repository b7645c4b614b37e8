import type { Origin, Retrying } from "candlewick";
import { h } from "./dom.js";
import { count, dollars, milliseconds } from "./format.js";

/** Where an answer was made, and why there. */
export function whereAndWhy(
  { ran, provider, model, reason, attempts, waited_ms, cached, cost }: Origin,
  why: boolean,
): (Node | string)[] {
  const facts =
    ran === "local"
      ? [provider.toUpperCase()]
      : [
          `${model} at ${provider}`,
          attempts > 1
            ? `${count(attempts)} attempts${waited_ms ? `, ${milliseconds(waited_ms)} of waiting between them` : ""}`
            : "",
          cost === undefined ? "" : dollars(cost),
        ];
  if (cached) facts.push("from the cache");
  if (why) facts.push(`why: ${reason}`);
  return [
    h("strong", {}, ran === "local" ? "On this device" : "Hosted"),
    ...facts.filter(Boolean).map((fact) => ` · ${fact}`),
  ];
}

/** That a hosted model failed and is asked again. */
export function againSoon({ attempt, wait_ms, code, message }: Retrying): string {
  return `Attempt ${attempt} failed (${code}: ${message}). Asking again in ${milliseconds(wait_ms)}…`;
}
