//! Tokens to rows.

use super::{Buffer, Matrix, Tried};
use crate::backend::Program;
use crate::backend::excerpt::Cutter;
use crate::backend::step::Step;

/// `out[i] = scale · table[token i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// Vocabulary × columns.
    pub table: Matrix,
    /// 1 in most models.
    pub scale: f32,
    /// Rows × columns.
    pub out: Buffer,
}

impl Tried for Embed {
    fn cut(&self, cutter: &mut Cutter<'_>) -> Self {
        let table = cutter.matrix(self.table);
        let columns = cutter.to.program.shape(table).columns;
        Embed { table, scale: self.scale, out: cutter.output(columns) }
    }

    fn steps(&self, program: &Program, tokens: usize) -> Vec<(Step, bool)> {
        let rows = program.shape(self.table).rows.min(2) as u32;
        vec![(Step::single((0..tokens as u32).map(|token| token % rows), 0, 0), true)]
    }

    fn describe(&self, program: &Program) -> String {
        format!("an embedding ({})", program.shape(self.table).kind.name())
    }
}
