//! From a GGUF file to something that can run.

pub mod gguf;
