use super::super::product::{End, Input};
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Project;

impl Gpu {
    pub(super) fn project(&mut self, Project { x, norm, outputs }: &Project, step: &Step) -> Result<()> {
        let x = self.buffers[x.0];
        let outputs: Vec<_> = outputs.iter().map(|(linear, out)| (*linear, self.buffers[out.0])).collect();
        let input = Input { x, first: 0, exact: true };
        self.products(step.rows(), input, norm.as_ref(), &outputs, End::Store)
    }
}
