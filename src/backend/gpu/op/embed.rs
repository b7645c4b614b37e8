use super::super::product::matrix_params;
use super::super::shader::Kernel;
use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::{Buffer, Embed, Matrix};

impl Gpu {
    pub(super) fn embed(&mut self, &Embed { table, scale, out }: &Embed, step: &Step) -> Result<()> {
        self.rows_of(table, false, scale, step.rows(), out)
    }

    /// `out = scale · table[token]`; with `positions`, `out += scale · table[position]`.
    pub(super) fn rows_of(
        &mut self,
        table: Matrix,
        positions: bool,
        scale: f32,
        rows: usize,
        out: Buffer,
    ) -> Result<()> {
        let (matrix, out) = (&self.matrices[table.0], self.buffers[out.0]);
        let (blocks, format, columns) = (matrix.blocks, matrix.format, matrix.columns);
        for part in matrix.parts.clone() {
            let mut params = vec![
                blocks as u32,
                rows as u32,
                0,
                (out.stride / 4) as u32,
                part.first_row as u32,
                scale.to_bits(),
                columns as u32,
                0,
            ];
            params.extend(matrix_params(&part, 0, 0, 0, None));
            let kernel = Kernel::new("embed")
                .format(format.file())
                .flag("EXACT_HALF", self.exact_half)
                .flag("POSITIONS", positions);
            let mut buffers = vec![part.slab, part.slab, out.id, self.step];
            buffers.extend((!positions).then_some(self.chosen));
            self.dispatch(kernel, &params, &buffers, [(blocks * 8).div_ceil(64), rows, 1])?;
        }
        Ok(())
    }
}
