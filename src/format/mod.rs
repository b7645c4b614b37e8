//! Model files: what is in them, and where.

pub mod gguf;
