//! The gate of what comes out of attention.

use super::{Buffer, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// `x ← x · sigmoid(gate)`, elementwise, or of a whole row where the gate has but one column.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputGate {
    /// Rows × columns, or × 1.
    pub gate: Buffer,
    /// Rows × columns.
    pub x: Buffer,
}

impl Tried for OutputGate {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let gate = cutter.input(cutter.width(self.gate), Numbers::Within(3.0));
        OutputGate { gate, x: cutter.both(width, Numbers::Within(1.0)) }
    }

    fn describe(&self, _: &Program) -> String {
        "an output gate".to_owned()
    }
}
