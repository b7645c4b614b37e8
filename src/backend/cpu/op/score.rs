use super::super::math;
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Score;

impl Cpu {
    pub(super) fn score(&mut self, operation: &Score, step: &Step) -> Result<()> {
        let Score { x, norm, head, softcap, out } = operation;
        if step.scored == 0 {
            return Ok(());
        }
        let input = self.normed(norm, step.rows() - step.scored..step.rows(), *x)?;
        self.writing(*out, |cpu, scores| {
            let scores = &mut scores[..step.scored * cpu.matrices[head.weight.0].rows];
            cpu.apply(head, step.scored, &input, scores)?;
            if let Some(cap) = softcap {
                math::cap_all(scores, *cap);
            }
            cpu.scratch = input;
            Ok(())
        })
    }
}
