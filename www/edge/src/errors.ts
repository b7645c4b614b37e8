/** Failures in OpenAI's shape. `code` is one of candlewick's error codes. */

export type Code =
  | "invalid_argument"
  | "model_not_found"
  | "context_length_exceeded"
  | "resource_exhausted"
  | "unauthorized"
  | "rate_limited"
  | "network"
  | "provider_error"
  | "internal";

/** A request that is not answered. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: Code,
    message: string,
    readonly headers: Record<string, string> = {},
    /** Fields beside `error`. */
    readonly more: Record<string, unknown> = {},
  ) {
    super(message);
  }

  response(): Response {
    return Response.json(
      { ...errorBody(this.status, this.code, this.message), ...this.more },
      { status: this.status, headers: this.headers },
    );
  }
}

export function errorBody(status: number, code: Code, message: string) {
  return { error: { message, type: type(status), code, param: null } };
}

function type(status: number): string {
  if (status === 401) return "authentication_error";
  if (status === 403) return "permission_error";
  if (status === 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

/** Our code for an upstream's status. */
export function codeOf(status: number): Code {
  if (status === 401 || status === 403 || status === 407) return "unauthorized";
  if (status === 402) return "resource_exhausted";
  if (status === 404 || status === 410) return "model_not_found";
  if (status === 408 || status === 504) return "network";
  if (status === 429) return "rate_limited";
  return status < 500 ? "invalid_argument" : "provider_error";
}
