//! Products with weight matrices.

use super::{Buffer, Linear, Norm, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// `out = W·norm(x) + b` for each of `outputs`, all from the same input; without a norm, `out = W·x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// Rows × columns.
    pub x: Buffer,
    /// Of each row of `x`.
    pub norm: Option<Norm>,
    /// Each with its own buffer, rows × what the matrix has.
    pub outputs: Vec<(Linear, Buffer)>,
}

impl Tried for Project {
    fn products(&self) -> Vec<Linear> {
        self.outputs.iter().map(|(linear, _)| *linear).collect()
    }

    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let (x, norm) = cutter.normed(width, self.norm.as_ref(), Numbers::Within(1.0));
        let outputs = self.outputs.iter().map(|(linear, _)| {
            let linear = cutter.linear(linear);
            (linear, cutter.output(cutter.rows_of(&linear)))
        });
        let outputs = outputs.collect();
        Project { x, norm, outputs }
    }

    fn describe(&self, program: &Program) -> String {
        let kind = self.outputs.first().map_or("", |(linear, _)| program.shape(linear.weight).kind.name());
        format!("a projection ({kind})")
    }
}
