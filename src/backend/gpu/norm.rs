//! Norms that are no part of a product.

use super::product::Input;
use super::record::BufferId;
use super::shader::Kernel;
use super::{Activations, Gpu};
use crate::Result;
use crate::backend::op::{Norm, NormKind};

impl Gpu {
    /// `out = norm(x)`.
    pub(super) fn norm_rows(
        &mut self,
        rows: usize,
        input: Input,
        norm: &Norm,
        out: Activations,
    ) -> Result<()> {
        let Input { x, first, .. } = input;
        let NormKind::Layer { bias } = norm.kind else {
            return self.rms_norm(rows, input, norm, out, false);
        };
        let [scale, bias] = [norm.scale, bias].map(|vector| self.vectors[vector.0]);
        let params = [
            (x.stride / 4) as u32,
            (x.stride / 4) as u32,
            (out.stride / 4) as u32,
            (scale.at / 4) as u32,
            (bias.at / 4) as u32,
            scale.len as u32,
            norm.epsilon.to_bits(),
            first as u32,
        ];
        let buffers = [self.memory.vectors, x.id, out.id];
        self.dispatch(Kernel::new("layer_norm"), &params, &buffers, [rows, 1, 1])
    }

    /// `out = norm(x)`, or `out += norm(x)`; an RMSNorm.
    pub(super) fn rms_norm(
        &mut self,
        rows: usize,
        Input { x, first, .. }: Input,
        norm: &Norm,
        out: Activations,
        add: bool,
    ) -> Result<()> {
        let scale = self.vectors[norm.scale.0];
        let params = [
            (x.stride / 4) as u32,
            (x.stride / 4) as u32,
            (out.stride / 4) as u32,
            (scale.at / 4) as u32,
            (1.0 / scale.len as f32).to_bits(),
            norm.epsilon.to_bits(),
            first as u32,
            0,
        ];
        let buffers: [BufferId; 3] = [self.memory.vectors, x.id, out.id];
        self.dispatch(Kernel::new("rms_norm").flag("ADD", add), &params, &buffers, [rows, 1, 1])
    }
}
