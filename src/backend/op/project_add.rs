//! A product that goes into the residual stream.

use super::{Buffer, Linear, Norm, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// `x += norm(W·input + b)`, an RMSNorm; without a norm, `x += W·input + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectAdd {
    /// Rows × columns.
    pub input: Buffer,
    /// What it is multiplied by.
    pub linear: Linear,
    /// Of each row of the product.
    pub norm: Option<Norm>,
    /// Rows × what the matrix has.
    pub x: Buffer,
}

impl Tried for ProjectAdd {
    fn products(&self) -> Vec<Linear> {
        vec![self.linear]
    }

    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let linear = cutter.linear(&self.linear);
        let (rows, columns) = (cutter.rows_of(&linear), cutter.columns(&linear));
        let input = cutter.input(columns, Numbers::Within(1.0));
        let norm = self.norm.as_ref().map(|norm| cutter.norm(norm, rows));
        ProjectAdd { input, linear, norm, x: cutter.both(rows, Numbers::Alternating) }
    }

    fn describe(&self, program: &Program) -> String {
        format!("a projection ({})", program.shape(self.linear.weight).kind.name())
    }
}
