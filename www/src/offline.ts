import type { EngineInfo } from "candlewick";
import { byId } from "./dom.js";

/**
 * Has the service worker keep the page for visits without a network, and says so when it has. It comes after the first
 * story, so that it takes nothing away from that. `wasm` is the file that runs; what the Hub is asked with is another.
 */
export async function keepForOffline(wasm: EngineInfo["wasm"]): Promise<void> {
  if (!import.meta.env.PROD || !("serviceWorker" in navigator)) return;
  try {
    const registration = await navigator.serviceWorker.register(new URL("./service-worker.js", document.baseURI), {
      scope: "./",
    });
    registration.update().catch(() => {}); // Browsers look for a new one by themselves, but some of them late.
    const { active } = await navigator.serviceWorker.ready;
    const { port1, port2 } = new MessageChannel();
    const kept = new Promise<boolean>((resolve) => (port1.onmessage = ({ data }) => resolve(data)));
    active!.postMessage({ keep: ["candlewick.wasm", wasm] }, [port2]);
    byId("offline", HTMLElement).hidden = !(await kept);
  } catch {} // Private windows, full disks: the page works as it is.
}
