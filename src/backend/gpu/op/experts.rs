use super::super::product::{activated, matrix_params};
use super::super::shader::Kernel;
use super::super::{Activations, Gpu};
use crate::Result;
use crate::backend::Step;
use crate::backend::op::{Experts, Matrix};

/// Rows of a workgroup.
const ROWS: usize = 4;

impl Gpu {
    /// Every token goes through the matrices of its experts by itself: a prompt reads them again and again.
    pub(super) fn experts(&mut self, operation: &Experts, step: &Step) -> Result<()> {
        let Experts { x, routes, chosen, gate, up, down, activation, out } = *operation;
        let [x, routes, out] = [x, routes, out].map(|buffer| self.buffers[buffer.0]);
        let rows = step.rows();
        let hidden = self.program.shape(gate).rows / self.program.parts(gate);
        let between = self.scratch(3, rows * chosen, hidden)?;
        let first = Kernel::new("experts").flag("UP", true);
        let second = activated(first.clone().flag("COMBINE", true), activation);
        let each = [rows, chosen];
        self.expert_products(first, gate, [x, routes, between], chosen, each)?;
        self.expert_products(second, up, [x, routes, between], chosen, each)?;
        self.expert_products(Kernel::new("experts"), down, [between, routes, out], chosen, [rows, 1])
    }

    fn expert_products(
        &mut self,
        kernel: Kernel,
        matrix: Matrix,
        [x, routes, out]: [Activations; 3],
        chosen: usize,
        [tokens, places]: [usize; 2],
    ) -> Result<()> {
        let rows = self.program.shape(matrix).rows / self.program.parts(matrix);
        let data = &self.matrices[matrix.0];
        let (blocks, format) = (data.blocks, data.format);
        let kernel = kernel.format(format.file()).flag("EXACT_HALF", self.exact_half);
        for part in data.parts.clone() {
            let mut params = vec![
                blocks as u32,
                chosen as u32,
                rows as u32,
                part.first_row as u32,
                (x.stride / 4) as u32,
                routes.stride as u32,
                out.stride as u32,
                0,
            ];
            params.extend(matrix_params(&part, 0, 0, 0, None));
            let buffers = [part.slab, part.slab, x.id, routes.id, out.id];
            self.dispatch(kernel.clone(), &params, &buffers, [rows.div_ceil(ROWS), places, tokens])?;
        }
        Ok(())
    }
}
