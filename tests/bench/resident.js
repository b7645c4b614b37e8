import { readFileSync } from "node:fs";

/** Bytes that a browser's processes of one type have in memory, or have had at most: the highest of them. */
export async function resident(context, type, what = "VmHWM") {
  const session = await context.browser().newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  const line = new RegExp(`${what}:\\s+(\\d+)`);
  const kilobytes = ({ id }) => Number(line.exec(readFileSync(`/proc/${id}/status`, "latin1"))[1]);
  return 1024 * Math.max(...processInfo.filter((process) => process.type === type).map(kilobytes));
}
