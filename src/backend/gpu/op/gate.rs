use super::super::product::{End, FEW_TOKENS, Input, activated, fold, matrix_params};
use super::super::shader::Kernel;
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::{Gate, Norm, NormKind};

impl Gpu {
    /// `out = act(gate·norm(x)) · (up·norm(x))`.
    pub(super) fn gate(&mut self, operation: &Gate, step: &Step) -> Result<()> {
        let Gate { x, norm, gate, up, activation, out } = operation;
        let (rows, x, out) = (step.rows(), self.buffers[x.0], self.buffers[out.0]);
        let flagged = |kernel: Kernel| activated(kernel, *activation);
        let (gates, ups) = (self.pieces(gate, out), self.pieces(up, out));
        if let ([gate], [up]) = (&gates[..], &ups[..])
            && rows <= FEW_TOKENS
            && let Some(norm @ Norm { kind: NormKind::Rms, .. }) = norm
            && (gate.part.slab, gate.format) == (up.part.slab, up.format)
        {
            let shape = self.shape(rows, gate.blocks, 2);
            let mut params = self.product_params(rows, x, 0, Some(norm), End::Store, gate.blocks);
            params.extend(matrix_params(&gate.part, 0, 0, out.stride, gate.bias));
            params.extend(matrix_params(&up.part, 0, 0, out.stride, up.bias));
            let kernel = flagged(self.few_kernel("gate", &shape, 2, true).format(gate.format.file()));
            let groups = gate.part.rows.div_ceil(shape.threads / shape.lanes * shape.rows);
            let buffers = [gate.part.slab, gate.part.slab, self.memory.vectors, x.id, out.id];
            return self.dispatch(kernel, &params, &buffers, fold(groups));
        }
        let width = self.matrices[up.weight.0].rows;
        let upped = self.scratch(1, rows, width)?;
        self.products(rows, Input::of(x), norm.as_ref(), &[(*gate, out), (*up, upped)], End::Store)?;
        let quads = out.stride / 4;
        let kernel = flagged(Kernel::new("activate"));
        let params = [quads as u32, quads as u32, rows as u32, 0];
        self.dispatch(kernel, &params, &[upped.id, out.id], [quads.div_ceil(256), rows, 1])
    }
}
