//! The GPU backend, on whichever adapter Vulkan offers. `VK_DRIVER_FILES` chooses: lavapipe and
//! SwiftShader run without a GPU, and differ in what they can do. Without an adapter these tests fail.
//!
//! With `CANDLEWICK_TEST_GPU=short`, for slow adapters, tests run on part of their cases.
#![allow(missing_docs, reason = "tests are read, not called")]

mod attention;
#[path = "../batch.rs"]
mod batch;
mod choice;
mod device;
// Shared with the other tests, which use more of it.
#[allow(dead_code, reason = "tests on the CPU use the rest")]
#[path = "../edit.rs"]
mod edit;
#[path = "../engine.rs"]
mod engine;
#[allow(dead_code, reason = "tests on the CPU use the rest")]
#[path = "../fixtures.rs"]
mod fixtures;
mod kernels;
mod life;
mod models;
mod pair;
#[path = "../sessions.rs"]
mod sessions;

/// Whether only part of the cases shall run.
fn short() -> bool {
    std::env::var("CANDLEWICK_TEST_GPU").is_ok_and(|value| value == "short")
}

/// Where the engine's tests run.
const DEVICE: candlewick::engine::Device = candlewick::engine::Device::Gpu;
/// Tokens of its steps through a prompt.
const STEP: usize = 512;
