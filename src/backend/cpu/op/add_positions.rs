use super::super::math;
use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::AddPositions;

impl Cpu {
    pub(super) fn add_positions(&mut self, operation: &AddPositions, step: &Step) -> Result<()> {
        let table = &self.matrices[operation.table.0];
        let mut values = vec![0.0; table.columns];
        for (position, row) in
            step.positions().zip(self.buffers[operation.x.0].chunks_exact_mut(table.columns))
        {
            table.blocks.row(position, &mut values);
            math::add(row, &values);
        }
        Ok(())
    }
}
