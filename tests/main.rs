//! Every integration test, in one binary.
#![allow(missing_docs, reason = "tests are read, not called")]

mod allocator;
mod batch;
mod bits;
mod cli;
mod conversation;
mod decoder;
mod double;
mod edit;
mod encoder;
mod engine;
mod expressions;
mod families;
mod fixtures;
mod gguf;
mod hub;
mod layers;
mod odd;
mod openai;
mod remote;
mod sessions;
mod template;
mod template_bounds;
mod tokenizer;

/// Where the engine's tests run; `tests/gpu` has them on the GPU.
const DEVICE: candlewick::engine::Device = candlewick::engine::Device::Cpu;
/// Tokens of its steps through a prompt.
const STEP: usize = 64;
