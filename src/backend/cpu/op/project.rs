use super::super::together::TOGETHER;
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Project;

impl Cpu {
    pub(super) fn project(&mut self, Project { x, norm, outputs }: &Project, step: &Step) -> Result<()> {
        let rows = step.rows();
        self.with_input(rows, *x, norm.as_ref(), |cpu, input| {
            for outputs in outputs.chunks(TOGETHER) {
                let mut linears = [outputs[0].0; TOGETHER];
                let mut outs: [Vec<f32>; TOGETHER] = Default::default();
                for (index, (linear, buffer)) in outputs.iter().enumerate() {
                    (linears[index], outs[index]) = (*linear, cpu.take(*buffer));
                }
                let done = cpu.apply_all(&linears[..outputs.len()], rows, input, &mut outs[..outputs.len()]);
                for ((_, buffer), out) in outputs.iter().zip(outs) {
                    cpu.put(*buffer, out);
                }
                done?;
            }
            Ok(())
        })
    }
}
