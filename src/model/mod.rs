//! From a GGUF file to something that can run.

pub mod gguf;

mod config;
mod decoder;
mod loader;

pub use config::{Architecture, Config};
pub use decoder::Decoder;
pub use loader::Progress;
