const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const threeDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (n: number) => whole.format(n);
export const compact = (n: number) => short.format(n);
export const rate = (n: number) => (n >= 100 ? whole : threeDigits).format(n);

export function bytes(n: number): string {
  const units = ["bytes", "KB", "MB", "GB"];
  let unit = 0;
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000;
    unit++;
  }
  return `${n >= 100 ? whole.format(n) : threeDigits.format(n)} ${units[unit]}`;
}

export function milliseconds(ms: number): string {
  return ms < 1000 ? `${threeDigits.format(ms)} ms` : `${threeDigits.format(ms / 1000)} s`;
}

export function seconds(s: number): string {
  if (s < 1) return "under a second";
  return s < 90 ? `${whole.format(s)} s` : `${whole.format(s / 60)} min`;
}

/** US dollars; parts of a cent with two digits that say something. */
export function dollars(amount: number): string {
  const digits =
    amount >= 0.01 || amount === 0
      ? { minimumFractionDigits: 2, maximumFractionDigits: 2 }
      : { maximumSignificantDigits: 2 };
  return `$${amount.toLocaleString("en", digits)}`;
}

const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** How long ago that was. `time`: seconds since 1970. */
export function since(time: number): string {
  const minutes = Math.round((time - Date.now() / 1000) / 60);
  if (minutes > -1) return "just now";
  if (minutes > -60) return ago.format(minutes, "minute");
  if (minutes > -60 * 24) return ago.format(Math.round(minutes / 60), "hour");
  return ago.format(Math.round(minutes / 60 / 24), "day");
}
