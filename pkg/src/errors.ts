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

export function aborted(signal: AbortSignal): CandlewickError {
  return new CandlewickError("aborted", "The request was aborted.", { cause: signal.reason });
}
