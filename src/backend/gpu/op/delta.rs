use super::super::shader::Kernel;
use super::Gpu;
use super::convolve::sequences;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::{Delta, DeltaHeads};

impl Gpu {
    pub(super) fn delta(&mut self, operation: &Delta, step: &Step) -> Result<()> {
        let Delta { qkv, alpha, beta, z, rate, bias, norm, heads, state, out } = *operation;
        let DeltaHeads { key, value, size } = heads;
        let [qkv, alpha, beta, z, out] = [qkv, alpha, beta, z, out].map(|buffer| self.buffers[buffer.0]);
        let [rate, bias, scale] = [rate, bias, norm.scale].map(|vector| self.vectors[vector.0].at as u32);
        let kernel =
            Kernel::new("delta").constant("SIZE", size).constant("HALF", size.next_power_of_two() / 2);
        let buffers =
            [qkv.id, alpha.id, beta.id, z.id, self.memory.vectors, self.states[state.0], out.id, self.step];
        for (first, rows, sequences) in sequences(step) {
            let params = [
                first as u32,
                rows as u32,
                key as u32,
                value as u32,
                qkv.stride as u32,
                alpha.stride as u32,
                beta.stride as u32,
                z.stride as u32,
                out.stride as u32,
                rate,
                bias,
                scale,
                norm.epsilon.to_bits(),
                0,
                0,
                0,
            ];
            self.dispatch(kernel.clone(), &params, &buffers, [value, sequences, 1])?;
        }
        Ok(())
    }
}
