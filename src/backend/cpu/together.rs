//! Products of several matrices with one row as one region of the pool: in short ones threads would wait for each other.

use super::super::op::Linear;
use super::blocks::Column;
use super::packed::Output;
use super::{Cpu, WeightMatrix, math};
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
        let matrix = |linear: &Linear| &self.matrices[linear.weight.0];
        if linears.iter().any(|linear| matrix(linear).blocks.column().is_none()) {
            return Ok(false);
        }
        let started = self.times.start();
        let inputs = &mut *self.rounded.borrow_mut();
        let mut products = [const { None::<Product> }; TOGETHER];
        let (mut parts, mut cost) = (0, 0);
        for (index, (linear, out)) in linears.iter().zip(&mut *outs).enumerate() {
            let matrix = matrix(linear);
            let Some(column) = matrix.blocks.column() else { continue };
            let same = |other: &Product| {
                other.column.order == column.order && other.matrix.columns == matrix.columns
            };
            let same = products.iter().flatten().position(same).unwrap_or(index);
            inputs[same].fill(&self.pool, &column.order, matrix.columns, &input[..matrix.columns])?;
            let out = Output::new(&mut out[..matrix.rows], matrix.rows);
            let first = parts;
            (parts, cost) = (first + column.parts, column.cost.max(cost));
            products[index] = Some(Product { matrix, column, first, input: same, out });
        }
        let inputs = &*inputs;
        self.pool.each(parts, cost, |index| {
            if let Some(mine) = products.iter().flatten().rfind(|product| product.first <= index) {
                // SAFETY: the input is as long and in the order that the matrix wants, and each part comes once.
                unsafe { mine.matrix.blocks.part(index - mine.first, &inputs[mine.input], &mine.out) };
            }
        })?;
        self.times.stop(started, || {
            let rows = products.iter().flatten().map(|product| product.matrix.label()).collect::<Vec<_>>();
            rows.join(" + ")
        });
        for (linear, out) in linears.iter().zip(outs) {
            if let Some(bias) = linear.bias {
                math::add(&mut out[..matrix(linear).rows], &self.vectors[bias.0]);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::blocks::tests::encoded;
    use super::*;
    use crate::backend::op::{Buffer, Project};
    use crate::backend::{Backend, Program, Step};
    use crate::format::gguf::TensorType::{self, F32, Q4_0, Q4_K, Q5_0, Q8_0};
    use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ8_0};
    use std::num::NonZeroUsize;
    use std::rc::Rc;

    const COLUMNS: usize = 512;

    fn weights(kind: TensorType, rows: usize) -> Vec<u8> {
        match kind {
            Q4_0 => encoded::<BlockQ4_0>(rows, COLUMNS),
            Q5_0 => encoded::<BlockQ5_0>(rows, COLUMNS),
            Q8_0 => encoded::<BlockQ8_0>(rows, COLUMNS),
            Q4_K => encoded::<BlockQ4K>(rows, COLUMNS),
            _ => encoded::<f32>(rows, COLUMNS),
        }
    }

    /// Whatever their types, and whatever was multiplied before.
    #[test]
    fn products_are_the_same_together_and_alone() {
        for kinds in [[Q4_K, Q8_0, Q5_0], [Q4_0, Q8_0, Q4_0], [Q8_0, Q4_K, F32], [Q8_0; 3]] {
            let mut cpu = Cpu::with_threads(NonZeroUsize::new(2));
            let mut program = Program::default();
            let x = program.buffer(1, COLUMNS);
            let sizes = kinds.into_iter().zip([37, 512, 4]);
            let outputs: Vec<(Linear, Buffer)> = sizes
                .clone()
                .map(|(kind, rows)| {
                    let weight = program.matrix(rows, COLUMNS, kind);
                    (Linear { weight, bias: None }, program.buffer(1, rows))
                })
                .collect();
            cpu.prepare(&Rc::new(program)).unwrap();
            for ((kind, rows), (linear, _)) in sizes.zip(&outputs) {
                cpu.write_rows(linear.weight, 0, &weights(kind, rows)).unwrap();
            }
            let mut project = |values: &[f32], outputs: &[(Linear, Buffer)]| {
                cpu.write(x, values).unwrap();
                let project = Project { x, norm: None, outputs: outputs.to_vec() };
                cpu.perform(&project.into(), &Step::single([0], 0, 0)).unwrap();
                outputs.iter().map(|(_, out)| cpu.buffers[out.0].clone()).collect::<Vec<_>>()
            };
            for seed in [3, 5] {
                let values: Vec<f32> = (0..COLUMNS).map(|index| (index as f32 * seed as f32).sin()).collect();
                let together = project(&values, &outputs);
                let alone: Vec<_> = outputs.iter().flat_map(|output| project(&values, &[*output])).collect();
                assert!(together == alone, "{kinds:?}");
                assert!(together.iter().flatten().all(|value| value.is_finite() && *value != 0.0));
            }
        }
    }
}
