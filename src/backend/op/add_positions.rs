//! Learned embeddings of positions.

use super::{Buffer, Matrix, Tried};
use crate::backend::Program;
use crate::backend::excerpt::{Cutter, Numbers};
use crate::backend::step::Step;

/// `x[i] += table[position i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AddPositions {
    /// Positions × columns.
    pub table: Matrix,
    /// Rows × columns.
    pub x: Buffer,
}

impl Tried for AddPositions {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let table = cutter.matrix(self.table);
        let columns = cutter.to.program.shape(table).columns;
        AddPositions { table, x: cutter.both(columns, Numbers::Within(1.0)) }
    }

    fn steps(&self, program: &Program, tokens: usize) -> Vec<(Step, bool)> {
        // The last of all positions, which may be fewer than tokens.
        let positions = program.shape(self.table).rows;
        let tokens = tokens.min(positions);
        vec![(Step::single(vec![0; tokens], positions - tokens, 0), true)]
    }

    fn describe(&self, program: &Program) -> String {
        format!("positions ({})", program.shape(self.table).kind.name())
    }
}
