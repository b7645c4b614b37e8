//! From a GGUF file to something that can run.

mod config;
mod decoder;
mod encoder;
mod keys;
mod layers;
mod loader;
mod rope;

pub use config::{Architecture, Config};
pub use decoder::Decoder;
pub(crate) use encoder::normalize;
pub use encoder::{Encoder, Pooling};
pub use loader::Progress;
