//! The operations on the CPU, a file each, named as in `backend/op`.

mod activate;
mod add_positions;
mod attend;
mod convolve;
mod delta;
mod embed;
pub(super) mod experts;
mod gate;
mod normalize;
mod output_gate;
mod project;
mod project_add;
mod route;
mod scan;
mod score;

use super::Cpu;
use crate::Result;
use crate::backend::Step;
use crate::backend::op::Operation;

impl Cpu {
    /// Does it for the rows of `step`.
    pub(super) fn perform(&mut self, operation: &Operation, step: &Step) -> Result<()> {
        match operation {
            Operation::Embed(operation) => self.embed(operation, step),
            Operation::AddPositions(operation) => self.add_positions(operation, step),
            Operation::Normalize(operation) => self.normalize(operation, step),
            Operation::Project(operation) => self.project(operation, step),
            Operation::ProjectAdd(operation) => self.project_add(operation, step),
            Operation::Attend(operation) => self.attend(operation, step),
            Operation::Convolve(operation) => self.convolve(operation, step),
            Operation::Delta(operation) => self.delta(operation, step),
            Operation::Scan(operation) => self.scan(operation, step),
            Operation::OutputGate(operation) => self.output_gate(operation, step),
            Operation::Gate(operation) => self.gate(operation, step),
            Operation::Activate(operation) => self.activate(operation, step),
            Operation::Route(operation) => self.route(operation, step),
            Operation::Experts(operation) => self.experts(operation, step),
            Operation::Score(operation) => self.score(operation, step),
        }
    }
}
