use super::super::product::{End, Input};
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Score;

impl Gpu {
    pub(super) fn score(&mut self, operation: &Score, step: &Step) -> Result<()> {
        let Score { x, norm, head, softcap, out } = operation;
        if step.scored == 0 {
            return Ok(());
        }
        let (x, out) = (self.buffers[x.0], self.buffers[out.0]);
        let end = softcap.map_or(End::Store, End::Softcap);
        let input = Input { x, first: step.rows() - step.scored, exact: true };
        self.products(step.scored, input, Some(norm), &[(*head, out)], end)
    }
}
