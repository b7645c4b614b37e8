use super::super::{math, resize};
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Experts;

/// What lies between an expert's products.
#[derive(Default)]
pub(in super::super) struct ExpertRoom {
    /// Expert, row and weight, in this order.
    routes: Vec<(usize, usize, f32)>,
    input: Vec<f32>,
    gated: Vec<f32>,
    upped: Vec<f32>,
    down: Vec<f32>,
}

impl Cpu {
    pub(super) fn experts(&mut self, operation: &Experts, step: &Step) -> Result<()> {
        let mut room = std::mem::take(&mut self.scratch_experts);
        let done =
            self.writing(operation.out, |cpu, out| cpu.experts_in(operation, step.rows(), &mut room, out));
        self.scratch_experts = room;
        done
    }

    /// Rows that go to the same expert go through its matrices together; what it gives is added to each in the order of
    /// experts, whoever else is there.
    fn experts_in(
        &self,
        operation: &Experts,
        rows: usize,
        room: &mut ExpertRoom,
        out: &mut [f32],
    ) -> Result<()> {
        let Experts { x, routes, chosen, activation, .. } = *operation;
        let [gate, up, down] = operation.read().map(|matrix| &self.matrices[matrix.0]);
        let ExpertRoom { routes: order, input, gated, upped, down: results } = room;
        let x = &self.buffers[x.0];
        order.clear();
        for (row, routes) in self.buffers[routes.0].chunks_exact(2 * chosen).take(rows).enumerate() {
            let routes = routes.as_chunks::<2>().0;
            order.extend(routes.iter().map(|[expert, weight]| (*expert as usize, row, *weight)));
        }
        order.sort_unstable_by_key(|(expert, row, _)| (*expert, *row));
        for group in order.chunk_by(|a, b| a.0 == b.0) {
            let (expert, count) = (group[0].0, group.len());
            resize(input, count * gate.columns)?;
            resize(gated, count * gate.rows)?;
            resize(upped, count * gate.rows)?;
            resize(results, count * down.rows)?;
            for ((_, row, _), input) in group.iter().zip(input.chunks_exact_mut(gate.columns)) {
                input.copy_from_slice(&x[row * gate.columns..][..gate.columns]);
            }
            self.forget_input();
            self.multiply(gate, expert, count, input, gated)?;
            self.multiply(up, expert, count, input, upped)?;
            for (gated, upped) in
                gated.chunks_exact_mut(gate.rows).zip(upped.chunks_exact(gate.rows)).take(count)
            {
                math::gate(gated, upped, activation);
            }
            self.forget_input();
            self.multiply(down, expert, count, gated, results)?;
            for ((_, row, weight), result) in group.iter().zip(results.chunks_exact(down.rows)) {
                let out = &mut out[row * down.rows..][..down.rows];
                out.iter_mut().zip(result).for_each(|(out, result)| *out += weight * result);
            }
        }
        Ok(())
    }
}
