//! Every integration test, in one binary.

mod decoder;
mod fixtures;
