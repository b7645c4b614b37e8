//! Generation.

mod stop;

pub use stop::StopMatcher;
