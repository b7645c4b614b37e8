//! Integration tests, in one binary.

mod template;
