//! Which experts a token goes to.

use super::{Buffer, Gating, Linear, Tried, Vector};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};

/// Scores every expert by `gate·x`, makes weights of the scores, and chooses the highest; of equals the first. A bias is
/// added for the choice alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Rows × columns.
    pub x: Buffer,
    /// A row for each expert.
    pub gate: Linear,
    /// One number an expert.
    pub bias: Option<Vector>,
    /// How scores become weights.
    pub gating: Gating,
    /// How many are chosen; no more than 32.
    pub chosen: usize,
    /// Whether the weights of those that are chosen are divided by their sum.
    pub normalized: bool,
    /// Multiplies them.
    pub scale: f32,
    /// Rows × experts.
    pub scores: Buffer,
    /// Rows × 2 · chosen: the number of an expert and its weight, in turns.
    pub out: Buffer,
}

/// Sums of weights are not below this before they divide: as llama.cpp has it.
pub const LEAST_SUM: f32 = 1.0 / 16384.0;

impl Tried for Route {
    fn products(&self) -> Vec<Linear> {
        vec![self.gate]
    }

    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let gate = cutter.linear(&self.gate);
        let (columns, experts) = (cutter.columns(&gate), cutter.rows_of(&gate));
        let chosen = self.chosen.min(experts);
        Route {
            x: cutter.input(columns, Numbers::Within(1.0)),
            gate,
            bias: self.bias.map(|_| cutter.to.program.vector(experts)),
            gating: self.gating,
            chosen,
            normalized: self.normalized,
            scale: self.scale,
            scores: cutter.to.program.buffer(cutter.rows, experts),
            out: cutter.output(2 * chosen),
        }
    }

    fn describe(&self, _: &Program) -> String {
        format!("a choice of {} experts", self.chosen)
    }
}
