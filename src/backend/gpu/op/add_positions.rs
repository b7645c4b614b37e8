use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::AddPositions;

impl Gpu {
    pub(super) fn add_positions(&mut self, operation: &AddPositions, step: &Step) -> Result<()> {
        self.rows_of(operation.table, true, 1.0, step.rows(), operation.x)
    }
}
