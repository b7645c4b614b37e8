//! Every integration test, in one binary.
#![allow(missing_docs)]

mod decoder;
mod fixtures;
mod template;
mod tokenizer;
