//! candlewick: large language models that run where the user is.

pub mod backend;
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
pub mod engine;
mod error;
pub mod model;
pub mod openai;
pub mod sampling;
pub mod store;
pub mod text;
#[cfg(target_arch = "wasm32")]
pub mod wasm;

pub use error::{Code, Error, Result};
