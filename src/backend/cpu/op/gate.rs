use super::super::{SLOW, math, resize};
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Gate;

impl Cpu {
    pub(super) fn gate(&mut self, operation: &Gate, step: &Step) -> Result<()> {
        let Gate { x, norm, out, .. } = operation;
        self.with_input(step.rows(), *x, norm.as_ref(), |cpu, input| {
            let mut outs = [cpu.take(*out), std::mem::take(&mut cpu.scratch_up)];
            let done = cpu.gate_into(operation, step.rows(), input, &mut outs);
            let [gated, upped] = outs;
            cpu.scratch_up = upped;
            cpu.put(*out, gated);
            done
        })
    }

    /// The gated activation of `input` in the first of `outs`, with the second for its other factor.
    fn gate_into(
        &self,
        operation: &Gate,
        rows: usize,
        input: &[f32],
        outs: &mut [Vec<f32>; 2],
    ) -> Result<()> {
        let Gate { gate, up, activation, .. } = *operation;
        let width = self.matrices[gate.weight.0].rows;
        resize(&mut outs[1], rows * width)?;
        self.apply_all(&[gate, up], rows, input, outs)?;
        let [gated, upped] = outs;
        let started = self.times.start();
        self.pool.rows(&mut gated[..rows * width], width, SLOW * width, |row, gated| {
            math::gate(gated, &upped[row * width..][..width], activation);
        })?;
        self.times.stop(started, || "gate".into());
        Ok(())
    }
}
