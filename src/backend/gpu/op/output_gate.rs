use super::super::shader::Kernel;
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::OutputGate;

impl Gpu {
    pub(super) fn output_gate(&mut self, &OutputGate { gate, x }: &OutputGate, step: &Step) -> Result<()> {
        let [gate, x] = [gate, x].map(|buffer| self.buffers[buffer.0]);
        let quads = x.width.div_ceil(4);
        let params = [quads, gate.stride / 4, x.stride / 4, 0].map(|word| word as u32);
        let groups = [quads.div_ceil(64), step.rows(), 1];
        let kernel = Kernel::new("output_gate").flag("ONE", gate.width < x.width);
        self.dispatch(kernel, &params, &[gate.id, x.id], groups)
    }
}
