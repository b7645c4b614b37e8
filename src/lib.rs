//! candlewick: large language models that run where the user is.
//!
//! One crate turns a GGUF model and a prompt into a stream of tokens, in a browser tab and on a
//! desktop. Data goes one way:
//!
//! ```text
//! request ─► chat ─► text ─► model::Decoder ─► backend ─► sampling ─► text ─► events
//!          template tokenizer  layer order,    cpu, gpu   logits      whole
//!                              written once               to token    characters
//!                                  ▲
//!              store ─► format::gguf ─► weights, piece by piece
//! ```
//!
//! - [`hub`] finds models by name and fetches them, resumable and verified.
//! - [`store`] reads a model file by range: a path, memory, a browser's `File`, an address; and keeps what was fetched.
//! - [`http`] is the one seam to the network.
//! - [`format`](mod@format) reads a model's header ([`format::gguf`]); [`model`] knows what varies between families
//!   ([`model::Config`]), and holds the transformer ([`model::Decoder`]).
//! - [`backend`] is what a device must be able to do, the CPU, and the GPU through wgpu.
//! - [`text`] and [`chat`] turn conversations into tokens and tokens into text; [`sampling`]
//!   turns logits into tokens.
//! - [`engine`] is the whole path in one place: load, prefill, decode, stop.
//! - [`openai`] puts OpenAI's shapes around it; `cli` and `wasm` are faces: arguments and output.
//! - [`load`](mod@load) goes from a model's name to an engine, for every face.
//! - [`remote`] has hosted models answer in the same shapes, over [`http`]; [`router`] decides which
//!   model answers, local or hosted, and says why.
//!
//! ```no_run
//! use candlewick::engine::{Engine, Event, Options, Prompt, Settings};
//! use candlewick::store::FileSource;
//! use std::rc::Rc;
//!
//! # async fn example() -> candlewick::Result<()> {
//! let source = Rc::new(FileSource::open("model.gguf".as_ref())?);
//! let engine = Engine::load(source, &Options::default(), &mut |_| Ok(())).await?;
//! let prompt = Prompt::Text("Once upon a time".into());
//! let mut answer = engine.generate(prompt, Settings::default()).await?;
//! while let Some(event) = answer.next().await? {
//!     if let Event::Token { text, .. } | Event::Finish { text, .. } = event {
//!         print!("{text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```

pub mod backend;
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
pub mod engine;
mod error;
pub mod format;
mod hash;
pub mod http;
pub mod hub;
mod json;
pub mod load;
pub mod model;
pub mod openai;
pub mod progress;
pub mod remote;
pub mod router;
pub mod sampling;
pub mod store;
pub mod text;
mod turns;
#[cfg(test)]
mod typescript;
#[cfg(target_arch = "wasm32")]
pub mod wasm;

pub use error::{Code, Error, Result};
#[cfg(not(target_arch = "wasm32"))]
pub use load::load;
