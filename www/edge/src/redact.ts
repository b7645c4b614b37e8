/** The token in nothing that leaves: some servers repeat what they were given. */

const MARK = "[token]";

export function redactText(text: string, secret: string | undefined): string {
  return secret ? text.replaceAll(secret, MARK) : text;
}

/** Passes bytes on as they come; holds back only what may be the beginning of the secret. */
export function redactStream(secret: string): TransformStream<Uint8Array, Uint8Array> {
  const needle = new TextEncoder().encode(secret);
  const mark = new TextEncoder().encode(MARK);
  let held = new Uint8Array();
  return new TransformStream({
    transform(piece, controller) {
      const bytes = held.length === 0 ? piece : join(held, piece);
      let from = 0;
      for (;;) {
        const at = find(bytes, needle, from);
        const whole = at + needle.length <= bytes.length;
        if (at > from) controller.enqueue(bytes.subarray(from, at));
        if (at === bytes.length || !whole) {
          held = bytes.slice(at);
          return;
        }
        controller.enqueue(mark);
        from = at + needle.length;
      }
    },
    flush(controller) {
      if (held.length > 0) controller.enqueue(held);
    },
  });
}

/** Where the needle begins, whole or cut off by the end; else the end. */
function find(bytes: Uint8Array, needle: Uint8Array, from: number): number {
  for (let at = bytes.indexOf(needle[0]!, from); at !== -1; at = bytes.indexOf(needle[0]!, at + 1)) {
    const length = Math.min(needle.length, bytes.length - at);
    let same = 1;
    while (same < length && bytes[at + same] === needle[same]) same++;
    if (same === length) return at;
  }
  return bytes.length;
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
