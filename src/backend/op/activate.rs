//! The first half of a feed-forward layer without a gate.

use super::{Activation, Buffer, Linear, Norm, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// `out = act(up·norm(x) + b)`. The norm may be missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Activate {
    /// Rows × columns.
    pub x: Buffer,
    /// Of each row of `x`.
    pub norm: Option<Norm>,
    /// What it is multiplied by.
    pub up: Linear,
    /// Of the product.
    pub activation: Activation,
    /// Rows × what the matrix has.
    pub out: Buffer,
}

impl Tried for Activate {
    fn products(&self) -> Vec<Linear> {
        vec![self.up]
    }

    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let (x, norm) = cutter.normed(width, self.norm.as_ref(), Numbers::Within(1.0));
        let up = cutter.linear(&self.up);
        let out = cutter.output(cutter.rows_of(&up));
        Activate { x, norm, up, activation: self.activation, out }
    }

    fn describe(&self, program: &Program) -> String {
        format!("a projection ({})", program.shape(self.up.weight).kind.name())
    }
}
