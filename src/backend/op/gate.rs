//! The first half of a gated feed-forward layer.

use super::{Activation, Buffer, Linear, Norm, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// `out = act(gate·norm(x)) · (up·norm(x))`, elementwise. The norm may be missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// Rows × columns.
    pub x: Buffer,
    /// Of each row of `x`.
    pub norm: Option<Norm>,
    /// Goes through the activation.
    pub gate: Linear,
    /// The other factor.
    pub up: Linear,
    /// Of the gate.
    pub activation: Activation,
    /// Rows × what the matrices have.
    pub out: Buffer,
}

impl Tried for Gate {
    fn products(&self) -> Vec<Linear> {
        vec![self.gate, self.up]
    }

    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let (x, norm) = cutter.normed(width, self.norm.as_ref(), Numbers::Within(1.0));
        let (gate, up) = (cutter.linear(&self.gate), cutter.linear(&self.up));
        let out = cutter.output(cutter.rows_of(&up));
        Gate { x, norm, gate, up, activation: self.activation, out }
    }

    fn describe(&self, program: &Program) -> String {
        format!("a gate ({})", program.shape(self.gate.weight).kind.name())
    }
}
