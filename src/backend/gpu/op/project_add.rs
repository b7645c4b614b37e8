use super::super::product::{End, Input};
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::ProjectAdd;

impl Gpu {
    pub(super) fn project_add(&mut self, operation: &ProjectAdd, step: &Step) -> Result<()> {
        let ProjectAdd { input, linear, norm, x } = operation;
        let (rows, input, x) = (step.rows(), Input::of(self.buffers[input.0]), self.buffers[x.0]);
        match norm {
            None => self.products(rows, input, None, &[(*linear, x)], End::Add),
            Some(norm) => {
                let width = self.matrices[linear.weight.0].rows;
                let projected = self.scratch(0, rows, width)?;
                self.products(rows, input, None, &[(*linear, projected)], End::Store)?;
                self.rms_norm(rows, Input::of(projected), norm, x, true)
            }
        }
    }
}
