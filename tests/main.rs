//! Every integration test, in one binary.
#![allow(missing_docs)]

mod decoder;
mod fixtures;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(feature = "gpu")]
mod kernels;
mod template;
mod tokenizer;
