//! Every integration test, in one binary.
#![allow(missing_docs)]

mod allocator;
mod cli;
mod decoder;
mod edit;
mod engine;
mod fixtures;
mod gguf;
mod template;
mod tokenizer;
