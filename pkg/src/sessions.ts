import { place } from "./load.js";
import { checkNames } from "./options.js";
import { checkName } from "./session.js";
import { ask } from "./shared.js";
import type { HubOptions, StoredSession } from "./types.js";

/** Sessions in the browser's storage. */
export const sessions = {
  async list(options: HubOptions = {}): Promise<StoredSession[]> {
    checkNames(options, "sessions.list()");
    return ask({ method: "listSessions" }, place(options, false), options);
  },

  /** Resolves to the bytes that freed; 0 where there was none. */
  async remove(name: string, options: HubOptions = {}): Promise<number> {
    checkNames(options, "sessions.remove()");
    checkName(name);
    return ask({ method: "removeSession", name }, place(options, false), options);
  },
};
