//! The gate of what comes out of attention.

use super::{Buffer, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// `x ← x · sigmoid(gate)`, elementwise.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputGate {
    /// Rows × columns.
    pub gate: Buffer,
    /// Rows × columns.
    pub x: Buffer,
}

impl Tried for OutputGate {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let gate = cutter.input(width, Numbers::Within(3.0));
        OutputGate { gate, x: cutter.both(width, Numbers::Within(1.0)) }
    }

    fn describe(&self, _: &Program) -> String {
        "an output gate".to_owned()
    }
}
