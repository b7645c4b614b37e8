//! The scores (logits) of what follows.

use super::{Buffer, Linear, Norm, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};
use crate::backend::step::Step;

/// Of each scored row of a step, in their order: `out = cap(head·norm(x) + b)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Rows × columns.
    pub x: Buffer,
    /// Of each scored row of `x`.
    pub norm: Norm,
    /// Vocabulary × columns.
    pub head: Linear,
    /// `s ← cap · tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// Scored rows × vocabulary.
    pub out: Buffer,
}

impl Tried for Score {
    fn products(&self) -> Vec<Linear> {
        vec![self.head]
    }

    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let (x, norm) = (cutter.input(width, Numbers::Within(1.0)), cutter.norm(&self.norm, width));
        let head = cutter.linear(&self.head);
        let out = cutter.output(cutter.rows_of(&head));
        Score { x, norm, head, softcap: self.softcap, out }
    }

    /// The last tokens of a longer step.
    fn steps(&self, _: &Program, tokens: usize) -> Vec<(Step, bool)> {
        vec![(Step::single(vec![0; tokens + 1], 0, tokens), true)]
    }

    fn describe(&self, program: &Program) -> String {
        format!("logits ({})", program.shape(self.head.weight).kind.name())
    }
}
