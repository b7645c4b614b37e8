/** What kind of thing went wrong. These names are a stable contract, shared with every other face of candlewick. */
export type ErrorCode =
  | "invalid_argument"
  | "model_not_found"
  | "unsupported_model"
  | "corrupt_model"
  | "resource_exhausted"
  | "context_length_exceeded"
  | "quota_exceeded"
  | "network"
  | "unauthorized"
  | "rate_limited"
  | "provider_error"
  | "device_lost"
  | "aborted"
  | "internal";

/**
 * The only error this package throws. `message` says what happened, to what, and what to do.
 * Its `name` is `"AbortError"` when `code` is `"aborted"`, so that generic abort handling recognises it.
 */
export class CandlewickError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = code === "aborted" ? "AbortError" : "CandlewickError";
    this.code = code;
  }
}

/** Its `cause` is the signal's reason; what that says, if it is not only that there was an abort, stands in the message. */
export function aborted({ reason }: AbortSignal): CandlewickError {
  const said =
    reason instanceof Error && reason.name !== "AbortError" ? reason.message : typeof reason === "string" ? reason : "";
  return new CandlewickError("aborted", said === "" ? "The request was aborted." : `The request was aborted: ${said}`, {
    cause: reason,
  });
}
