use super::super::{math, resize};
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::ProjectAdd;

impl Cpu {
    pub(super) fn project_add(&mut self, operation: &ProjectAdd, step: &Step) -> Result<()> {
        let ProjectAdd { input, linear, norm, x } = operation;
        let (rows, width) = (step.rows(), self.matrices[linear.weight.0].rows);
        self.writing(*x, |cpu, x| {
            let mut projected = std::mem::take(&mut cpu.scratch);
            resize(&mut projected, 2 * rows * width)?;
            let (projected_rows, normed_rows) = projected.split_at_mut(rows * width);
            cpu.apply(linear, rows, &cpu.buffers[input.0], projected_rows)?;
            match norm {
                Some(norm) => {
                    let normed_rows = &mut normed_rows[..rows * width];
                    cpu.norm_rows(norm, projected_rows, normed_rows)?;
                    math::add(x, normed_rows);
                }
                None => math::add(x, projected_rows),
            }
            cpu.scratch = projected;
            Ok(())
        })
    }
}
