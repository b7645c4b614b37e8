use super::super::product::{End, Input};
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Activate;

impl Gpu {
    pub(super) fn activate(&mut self, operation: &Activate, step: &Step) -> Result<()> {
        let Activate { x, norm, up, activation, out } = operation;
        let (x, out) = (self.buffers[x.0], self.buffers[out.0]);
        self.products(step.rows(), Input::of(x), norm.as_ref(), &[(*up, out)], End::Activate(*activation))
    }
}
