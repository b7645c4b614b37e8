//! The feed-forward layers of those experts that a token goes to.

use super::{Activation, Buffer, Matrix, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, FEW_BETWEEN, FEW_ROWS, Numbers};

/// `out += Σ weight · down(act(gate·x) · up·x)` over the experts of each row. The matrices are
/// all experts', one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Rows × columns.
    pub x: Buffer,
    /// As [`Route`](super::Route) gives them.
    pub routes: Buffer,
    /// Experts of a row.
    pub chosen: usize,
    /// Goes through the activation.
    pub gate: Matrix,
    /// The other factor.
    pub up: Matrix,
    /// Back to the columns.
    pub down: Matrix,
    /// Of the gate.
    pub activation: Activation,
    /// Rows × columns; read and written.
    pub out: Buffer,
}

impl Experts {
    /// What of the matrices a row is multiplied by.
    pub(in crate::backend) fn read(&self) -> [Matrix; 3] {
        [self.gate, self.up, self.down]
    }
}

impl Tried for Experts {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let [hidden, columns] = cutter.expert_shape(self.gate);
        let [width, _] = cutter.expert_shape(self.down);
        let (hidden, width) = (hidden.min(FEW_BETWEEN), width.min(FEW_ROWS));
        let [gate, up] = [self.gate, self.up].map(|matrix| cutter.experts(matrix, hidden, columns));
        let down = cutter.experts(self.down, width, hidden);
        let experts = cutter.to.program.parts(gate);
        let chosen = self.chosen.min(experts);
        Experts {
            x: cutter.input(columns, Numbers::Within(1.0)),
            routes: cutter.input(2 * chosen, Numbers::Routes(experts)),
            chosen,
            gate,
            up,
            down,
            activation: self.activation,
            out: cutter.both(width, Numbers::Within(1.0)),
        }
    }

    fn describe(&self, program: &Program) -> String {
        format!("experts ({})", program.shape(self.gate).kind.name())
    }
}
