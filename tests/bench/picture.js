/** Bars of what bench.js has measured, as SVG: one block for each model, the answer's speed and the prompt's side by side. */

const BAR = 18;
const LABEL = 300;
const WIDTH = 280;

const escape = (text) => text.replace(/[&<>]/g, (character) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[character]);

function bars(list, key, left, top) {
  const highest = Math.max(...list.map((result) => result[key].median));
  return list.map((result, index) => {
    const { median } = result[key];
    const width = Math.max(1, (median / highest) * (WIDTH - 60));
    const y = top + index * BAR;
    const kind = result.where.startsWith("candlewick") ? "own" : "other";
    return `<rect class="${kind}" x="${left}" y="${y + 3}" width="${width.toFixed(1)}" height="${BAR - 5}"/>
<text x="${(left + width + 5).toFixed(1)}" y="${y + 13}">${median.toFixed(median < 10 ? 1 : 0)}</text>`;
  });
}

export function picture(results, predict) {
  const title = ({ model, type, prompt }) => `${model} ${type}, prompt of ${prompt}`;
  const parts = [];
  let top = 30;
  for (const name of new Set(results.map(title))) {
    const list = results.filter((result) => title(result) === name);
    parts.push(`<text class="title" x="10" y="${top + 14}">${escape(name)}</text>`);
    top += 22;
    list.forEach(({ where }, index) =>
      parts.push(`<text x="20" y="${top + index * BAR + 13}">${escape(where)}</text>`),
    );
    parts.push(
      ...bars(list, "predicted_per_second", LABEL, top),
      ...bars(list, "prompt_per_second", LABEL + WIDTH, top),
    );
    top += list.length * BAR + 14;
  }
  const width = LABEL + 2 * WIDTH;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top}" width="${width}" height="${top}" role="img" aria-label="Tokens per second">
<style>
text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 } .own { fill: #d9730d } .other { fill: #9aa5b1 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } .other { fill: #6b7785 } }
</style>
<text class="title" x="${LABEL}" y="18">Answer, ${predict} tokens: tokens/s</text>
<text class="title" x="${LABEL + WIDTH}" y="18">Prompt: tokens/s</text>
${parts.join("\n")}
</svg>
`;
}
