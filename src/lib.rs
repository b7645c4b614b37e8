//! candlewick: large language models that run where the user is.

mod error;
pub mod model;
pub mod store;
pub mod text;

pub use error::{Code, Error, Result};
