//! candlewick: large language models that run where the user is.

mod error;

pub mod chat;
pub mod engine;
pub mod model;
pub mod sampling;
pub mod store;

pub use error::{Code, Error, Result};
