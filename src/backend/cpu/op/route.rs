use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::{Gating, LEAST_SUM, Route};

impl Cpu {
    pub(super) fn route(&mut self, operation: &Route, step: &Step) -> Result<()> {
        let Route { x, gate, bias, scores, out, .. } = *operation;
        let (rows, experts) = (step.rows(), self.matrices[gate.weight.0].rows);
        self.with_input(rows, x, None, |cpu, input| {
            cpu.writing(scores, |cpu, scores| cpu.apply(&gate, rows, input, scores))
        })?;
        self.writing(out, |cpu, out| {
            let bias = bias.map(|bias| cpu.vectors[bias.0].as_slice());
            let scores = cpu.buffers[scores.0].chunks_exact(experts);
            for (scores, out) in scores.zip(out.chunks_exact_mut(2 * operation.chosen)).take(rows) {
                choose(operation, scores, bias, out);
            }
            Ok(())
        })
    }
}

fn choose(operation: &Route, scores: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = match operation.gating {
        Gating::Softmax => scores.iter().map(|score| (score - highest).exp()).sum(),
        Gating::Sigmoid | Gating::SoftmaxOfChosen => 1.0,
    };
    let weight = |expert: usize| match operation.gating {
        Gating::Softmax => (scores[expert] - highest).exp() / sum,
        Gating::Sigmoid => 1.0 / (1.0 + (-scores[expert]).exp()),
        Gating::SoftmaxOfChosen => scores[expert],
    };
    let preferred = |expert: usize| weight(expert) + bias.map_or(0.0, |bias| bias[expert]);
    let (routes, _) = out.as_chunks_mut::<2>();
    for place in 0..routes.len() {
        let taken = |expert: usize, routes: &[[f32; 2]]| routes.iter().any(|route| route[0] == expert as f32);
        let free = (0..scores.len()).filter(|expert| !taken(*expert, &routes[..place]));
        // Of what is no number any is as good.
        let better =
            |best: usize, other: usize| if preferred(other) > preferred(best) { other } else { best };
        let best = free.reduce(better).unwrap_or(0);
        routes[place] = [best as f32, weight(best)];
    }
    if operation.gating == Gating::SoftmaxOfChosen {
        let highest = routes.iter().map(|route| route[1]).fold(f32::NEG_INFINITY, f32::max);
        routes.iter_mut().for_each(|route| route[1] = (route[1] - highest).exp());
    }
    let sum: f32 = routes.iter().map(|route| route[1]).sum();
    let divisor = match (operation.normalized, operation.gating) {
        (_, Gating::SoftmaxOfChosen) => sum,
        (true, _) => sum.max(LEAST_SUM),
        (false, _) => 1.0,
    };
    routes.iter_mut().for_each(|route| route[1] *= operation.scale / divisor);
}
