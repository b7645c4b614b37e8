//! Products of several matrices with one row as one region of the pool: in short ones threads would wait for each other.

use super::super::Linear;
use super::blocks::Column;
use super::packed::Output;
use super::{Cpu, WeightMatrix, ops};
use crate::Result;

/// Most products that have one input: queries, keys and values.
pub(super) const TOGETHER: usize = 3;

/// One of them.
struct Product<'a> {
    matrix: &'a WeightMatrix,
    column: Column,
    /// The number of its first part among those of all.
    first: usize,
    /// Which of the rounded inputs it takes.
    input: usize,
    out: Output<'a>,
}

impl Cpu {
    /// `out = W·input + b` for each. False where a matrix cannot be multiplied in parts.
    pub(super) fn apply_together(
        &self,
        linears: &[Linear],
        input: &[f32],
        outs: &mut [Vec<f32>],
    ) -> Result<bool> {
        let started = self.times.start();
        let inputs = &mut *self.rounded.borrow_mut();
        let mut products = [const { None::<Product> }; TOGETHER];
        let (mut parts, mut cost) = (0, 0);
        for (index, (linear, out)) in linears.iter().zip(&mut *outs).enumerate() {
            let matrix = &self.matrices[linear.weight.0];
            let Some(column) = matrix.blocks.column() else { return Ok(false) };
            let mut others = products.iter().flatten();
            let same = others.position(|other| other.column.order == column.order).unwrap_or(index);
            inputs[same].fill(&self.pool, &column.order, matrix.columns, &input[..matrix.columns])?;
            let out = Output::new(&mut out[..matrix.rows], matrix.rows);
            let first = parts;
            (parts, cost) = (first + column.parts, column.cost);
            products[index] = Some(Product { matrix, column, first, input: same, out });
        }
        let inputs = &*inputs;
        self.pool.each(parts, cost, |index| {
            if let Some(mine) = products.iter().flatten().rfind(|product| product.first <= index) {
                // SAFETY: the input is in the order that the matrix wants, and each part comes once.
                unsafe { mine.matrix.blocks.part(index - mine.first, &inputs[mine.input], &mine.out) };
            }
        })?;
        self.times.stop(started, || {
            let rows = products.iter().flatten().map(|product| product.matrix.label()).collect::<Vec<_>>();
            rows.join(" + ")
        });
        for (linear, out) in linears.iter().zip(outs) {
            if let Some(bias) = linear.bias {
                ops::add(&mut out[..self.matrices[linear.weight.0].rows], &self.vectors[bias.0]);
            }
        }
        Ok(true)
    }
}
