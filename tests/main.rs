//! Every integration test, in one binary.

mod decoder;
mod fixtures;
#[cfg(feature = "gpu")]
mod gpu;
