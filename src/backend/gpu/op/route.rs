use super::super::product::{End, Input};
use super::super::shader::Kernel;
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::{Gating, Route};

impl Gpu {
    pub(super) fn route(&mut self, operation: &Route, step: &Step) -> Result<()> {
        let Route { x, gate, bias, gating, chosen, normalized, scale, scores, out } = *operation;
        let [x, scores, out] = [x, scores, out].map(|buffer| self.buffers[buffer.0]);
        // A token that goes elsewhere is another token.
        let input = Input { x, first: 0, exact: true };
        self.products(step.rows(), input, None, &[(gate, scores)], End::Store)?;
        let bias_at = bias.map_or(0, |bias| self.vectors[bias.0].at as u32);
        let params = [scores.stride as u32, out.stride as u32, bias_at, scale.to_bits()];
        let kernel = Kernel::new("route")
            .flag("SOFTMAX", gating == Gating::Softmax)
            .flag("SIGMOID", gating == Gating::Sigmoid)
            .flag("OF_CHOSEN", gating == Gating::SoftmaxOfChosen)
            .flag("NORMALIZED", normalized || gating == Gating::SoftmaxOfChosen)
            .flag("BIAS", bias.is_some())
            .constant("EXPERTS", scores.width)
            .constant("CHOSEN", chosen);
        let buffers = [scores.id, self.memory.vectors, out.id];
        self.dispatch(kernel, &params, &buffers, [step.rows(), 1, 1])
    }
}
