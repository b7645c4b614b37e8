use super::super::shader::Kernel;
use super::Gpu;
use super::convolve::sequences;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::{Scan, ScanHeads};

const NONE: u32 = u32::MAX;

impl Gpu {
    pub(super) fn scan(&mut self, operation: &Scan, step: &Step) -> Result<()> {
        let Scan { xbc, dt, z, rate, bias, skip, norm, heads, state, out } = *operation;
        let ScanHeads { count, size, groups, state: width } = heads;
        let [xbc, dt, z, out] = [xbc, dt, z, out].map(|buffer| self.buffers[buffer.0]);
        let [rate, bias, skip] = [rate, bias, skip].map(|vector| self.vectors[vector.0].at as u32);
        let kernel = Kernel::new("scan").constant("SIZE", size).constant("STATE", width);
        let buffers = [xbc.id, dt.id, self.memory.vectors, self.states[state.0], out.id, self.step];
        for (first, rows, sequences) in sequences(step) {
            let params = [
                first as u32,
                rows as u32,
                count as u32,
                groups as u32,
                xbc.stride as u32,
                dt.stride as u32,
                out.stride as u32,
                rate,
                bias,
                skip,
                0,
                0,
            ];
            self.dispatch(kernel.clone(), &params, &buffers, [count, sequences, 1])?;
        }
        let (scale, epsilon) = match norm {
            Some(norm) => (self.vectors[norm.scale.0].at as u32, norm.epsilon),
            None => (NONE, 0.0),
        };
        let group = heads.inner() / groups;
        let params = [group as u32, z.stride as u32, out.stride as u32, scale, epsilon.to_bits(), 0, 0, 0];
        let buffers = [self.memory.vectors, z.id, out.id];
        self.dispatch(Kernel::new("gate_norm"), &params, &buffers, [groups, step.rows(), 1])
    }
}
