use super::super::product::Input;
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Normalize;

impl Gpu {
    pub(super) fn normalize(&mut self, Normalize { x, norm, out }: &Normalize, step: &Step) -> Result<()> {
        let (x, out) = (self.buffers[x.0], self.buffers[out.0]);
        self.norm_rows(step.rows(), Input::of(x), norm, out)
    }
}
