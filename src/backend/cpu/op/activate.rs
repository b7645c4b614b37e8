use super::super::{SLOW, math};
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Activate;

impl Cpu {
    pub(super) fn activate(&mut self, operation: &Activate, step: &Step) -> Result<()> {
        let Activate { x, norm, up, activation, out } = operation;
        let (rows, width) = (step.rows(), self.matrices[up.weight.0].rows);
        self.with_input(rows, *x, norm.as_ref(), |cpu, input| {
            cpu.writing(*out, |cpu, activated| {
                cpu.apply(up, rows, input, activated)?;
                let used = &mut activated[..rows * width];
                cpu.pool.rows(used, width, SLOW * width, |_, row| math::activate(row, *activation))
            })
        })
    }
}
