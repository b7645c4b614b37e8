/** candlewick: language models that run where the user is. Importing this touches nothing; `load()` starts a Worker. */
export { CandlewickError, type ErrorCode } from "./errors.js";
export { connect, load, type ModelFiles, type ModelSource } from "./load.js";
export { inspect } from "./inspect.js";
export { models, type ModelName } from "./models.js";
export type { Create, CreateEmbeddings, Engine } from "./engine.js";
export { sessions } from "./sessions.js";
export type { Session, SessionOptions, SessionParams, SessionRestored } from "./session.js";
export type { Chunks, Stream } from "./stream.js";
export type { Tasks } from "./tasks.js";
export type * from "./types.js";
