//! A short convolution over a sequence's last rows.

use super::{Activation, Buffer, State, Tried, Vector, recurrent_steps};
use crate::backend::excerpt::{Cutter, Numbers};
use crate::backend::{Program, Step};

/// Each column by itself: `out[t] = act(Σ_j kernel[j] · in[t − taps + 1 + j] + bias) · after[t]`, where
/// `in = x · before` and what lies before the sequence's first row is 0. What may be missing counts as if it were not
/// there. The state is the last `taps − 1` rows of `in`, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Convolve {
    /// Rows × columns.
    pub x: Buffer,
    /// Rows × columns.
    pub before: Option<Buffer>,
    /// Rows × columns.
    pub after: Option<Buffer>,
    /// Columns × taps.
    pub kernel: Vector,
    /// Rows that a number goes by, its own among them; at least 2.
    pub taps: usize,
    /// One number a column.
    pub bias: Option<Vector>,
    /// Of the sum.
    pub activation: Option<Activation>,
    /// `(taps − 1) × columns` numbers a sequence.
    pub state: State,
    /// Rows × columns.
    pub out: Buffer,
}

impl Tried for Convolve {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let width = cutter.width(self.x);
        let x = cutter.input(width, Numbers::Within(1.0));
        let mut other = |of: Option<Buffer>| of.map(|_| cutter.input(width, Numbers::Within(1.0)));
        let (before, after) = (other(self.before), other(self.after));
        let kernel = cutter.to.program.vector(width * self.taps);
        let bias = self.bias.map(|_| cutter.to.program.vector(width));
        let state = cutter.state((self.taps - 1) * width);
        let out = cutter.output(width);
        Convolve { x, before, after, kernel, taps: self.taps, bias, activation: self.activation, state, out }
    }

    fn steps(&self, _: &Program, tokens: usize) -> Vec<(Step, bool)> {
        recurrent_steps(tokens)
    }

    fn describe(&self, _: &Program) -> String {
        format!("a convolution of {}", self.taps)
    }
}
