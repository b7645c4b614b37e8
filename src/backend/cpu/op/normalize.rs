use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Normalize;

impl Cpu {
    pub(super) fn normalize(&mut self, Normalize { x, norm, out }: &Normalize, step: &Step) -> Result<()> {
        let len = step.rows() * self.vectors[norm.scale.0].len();
        self.writing(*out, |cpu, normed| cpu.norm_rows(norm, &cpu.buffers[x.0][..len], &mut normed[..len]))
    }
}
