//! From a GGUF file to something that can run.

mod config;
mod decoder;
mod encoder;
mod family;
mod keys;
mod layers;
mod loader;
mod rope;
mod unknown;

pub use config::{Config, LayerConfig};
pub use decoder::Decoder;
pub(crate) use encoder::normalize;
pub use encoder::{Encoder, Pooling};
pub use family::Family;
pub use loader::Progress;
