//! Devices: a model is a [`Program`] of about ten fused [operations](op), recorded once; a [`Backend`] makes room for it
//! and runs it for each [`Step`].
//!
//! `op` has the operations, a file each, `program` and `step` what they are part of, `device` the trait; `cpu` and
//! `gpu` implement it, with files of the operations' names. `trial` compares one with another.

pub mod cpu;
mod device;
mod encoding;
mod estimate;
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "devices are compared where there are two"))]
mod excerpt;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "devices are compared where there are two"))]
pub mod op;
mod program;
#[cfg(feature = "gpu")]
mod random;
mod room;
mod scores;
mod step;
#[cfg(feature = "gpu")]
mod trial;

pub use device::{Backend, GpuInfo, KernelTime};
pub(crate) use estimate::seconds_a_token;
pub use program::{BufferShape, CacheShape, Program, Shape, StateShape};
#[cfg(feature = "gpu")]
#[doc(hidden)]
pub use random::Random;
pub use room::{Room, room};
pub use scores::{Top, Wanted};
pub use step::{MOST_SCORED, MOST_SPANS, PAGE, Span, Step, Token, pages};
