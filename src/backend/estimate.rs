//! How long a device will take for a token, measured on a piece of the model before its weights are there.

use super::op::{Linear, ProjectAdd};
use super::{Backend, Program, Shape, Step};
use crate::Result;
use std::rc::Rc;
use web_time::Instant;

/// Bytes of weights in the larger of the two pieces.
const PIECE: u64 = 4 << 20;
/// Rows of the smaller one.
const FEW_ROWS: usize = 32;
/// What is measured takes at least this long: browsers' clocks are coarse.
const SECONDS: f64 = 4e-3;

/// Seconds a token of `program`, roughly. A product with a large matrix against one with a small one tells what a byte of
/// weights costs, and the small one what an operation costs. The device is empty, and has the pieces afterwards.
pub(crate) async fn seconds_a_token(device: &mut dyn Backend, program: &Program) -> Result<f64> {
    let shapes: Vec<Shape> = program.products().collect();
    let total = |shape: &Shape| -> u64 {
        let same = |other: &&Shape| (other.kind, other.columns) == (shape.kind, shape.columns);
        shapes.iter().filter(same).map(Shape::size).sum()
    };
    let Some(typical) = shapes.iter().max_by_key(|shape| total(shape)) else { return Ok(0.0) };
    let row = Shape { rows: 1, ..*typical }.size();
    let many_rows = ((PIECE / row) as usize).max(2 * FEW_ROWS);
    let mut pieces = Program::default();
    let mut seconds = [0.0; 2];
    for (rows, seconds) in [FEW_ROWS, many_rows].into_iter().zip(&mut seconds) {
        *seconds = product(device, &mut pieces, Shape { rows, ..*typical }).await?;
    }
    let [operation, large] = seconds;
    let a_byte = (large - operation).max(0.0) / (row * (many_rows - FEW_ROWS) as u64) as f64;
    let weights: u64 = shapes.iter().map(Shape::size).sum();
    Ok(weights as f64 * a_byte + program.operations.len() as f64 * operation)
}

/// Seconds of one product with a matrix of zeros, which is added to the others.
async fn product(device: &mut dyn Backend, pieces: &mut Program, shape: Shape) -> Result<f64> {
    let weight = pieces.matrix(shape.rows, shape.columns, shape.kind);
    let linear = Linear { weight, bias: None };
    let (input, x) = (pieces.buffer(1, shape.columns), pieces.buffer(1, shape.rows));
    pieces.operations.clear();
    pieces.push(ProjectAdd { input, linear, norm: None, x });
    device.prepare(&Rc::new(pieces.clone()))?;
    let step = Step::single([0], 0, 0);
    let mut rounds = 1;
    loop {
        let start = Instant::now();
        for _ in 0..rounds {
            device.run(&step)?;
        }
        device.wait().await?;
        let seconds = start.elapsed().as_secs_f64();
        // The first round compiles or warms up.
        if rounds > 1 && seconds >= SECONDS {
            return Ok(seconds / rounds as f64);
        }
        rounds *= 4;
    }
}
