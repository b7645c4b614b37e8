//! The operations on the GPU, a file each, named as in `backend/op`: which kernels they are.

mod activate;
mod add_positions;
pub(super) mod attend;
mod convolve;
mod delta;
mod embed;
mod experts;
mod gate;
mod normalize;
mod output_gate;
mod project;
mod project_add;
mod route;
mod scan;
mod score;

use super::Gpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Operation;

/// Whether an operation has a part that depends on more of a step than how many rows it has.
pub(super) fn goes_by_the_step(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Attend(_) | Operation::Convolve(_) | Operation::Delta(_) | Operation::Scan(_)
    )
}

impl Gpu {
    /// Enqueues what is the same in all steps of so many rows.
    pub(super) fn perform(&mut self, operation: &Operation, step: &Step) -> Result<()> {
        match operation {
            Operation::Embed(operation) => self.embed(operation, step),
            Operation::AddPositions(operation) => self.add_positions(operation, step),
            Operation::Normalize(operation) => self.normalize(operation, step),
            Operation::Project(operation) => self.project(operation, step),
            Operation::ProjectAdd(operation) => self.project_add(operation, step),
            Operation::Attend(operation) => self.rotate_and_store(operation, step),
            Operation::OutputGate(operation) => self.output_gate(operation, step),
            Operation::Convolve(_) | Operation::Delta(_) | Operation::Scan(_) => Ok(()),
            Operation::Gate(operation) => self.gate(operation, step),
            Operation::Activate(operation) => self.activate(operation, step),
            Operation::Route(operation) => self.route(operation, step),
            Operation::Experts(operation) => self.experts(operation, step),
            Operation::Score(operation) => self.score(operation, step),
        }
    }

    /// Enqueues what is not.
    pub(super) fn perform_late(&mut self, operation: &Operation, step: &Step) -> Result<()> {
        match operation {
            Operation::Attend(operation) => self.attend(operation, step),
            Operation::Convolve(operation) => self.convolve(operation, step),
            Operation::Delta(operation) => self.delta(operation, step),
            Operation::Scan(operation) => self.scan(operation, step),
            _ => Ok(()),
        }
    }
}
