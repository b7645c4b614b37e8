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
