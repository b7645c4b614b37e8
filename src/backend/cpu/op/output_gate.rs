use super::super::SLOW;
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::OutputGate;

impl Cpu {
    pub(super) fn output_gate(&mut self, &OutputGate { gate, x }: &OutputGate, step: &Step) -> Result<()> {
        let (width, gates) = (self.program.width(x), self.program.width(gate));
        self.writing(x, |cpu, x| {
            let gate = &cpu.buffers[gate.0];
            cpu.pool.rows(&mut x[..step.rows() * width], width, SLOW * width, |row, x| {
                // One for all, or one for each.
                let gate = gate[row * gates..][..gates].iter().cycle();
                x.iter_mut().zip(gate).for_each(|(x, gate)| *x *= 1.0 / (1.0 + (-gate).exp()));
            })
        })
    }
}
