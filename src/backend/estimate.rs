//! How long a device will take for a token, measured on a piece of the model before its weights are there.

use super::{Backend, Linear, LinearShape, Needs, Operation, Shape};
use crate::Result;
use web_time::Instant;

/// Bytes of weights in the larger of the two pieces.
const PIECE: u64 = 4 << 20;
/// Rows of the smaller one.
const FEW_ROWS: usize = 32;
/// What is measured takes at least this long: browsers' clocks are coarse.
const SECONDS: f64 = 4e-3;

/// Seconds a token, roughly. A product with a large matrix against one with a small one tells what a byte of
/// weights costs, and the small one what an operation costs.
pub(crate) async fn seconds_a_token(device: &mut dyn Backend, needs: &Needs) -> Result<f64> {
    let linears: Vec<(LinearShape, usize)> = needs.operations.iter().flat_map(linears).collect();
    let total = |shape: &Shape| -> u64 {
        let same = |(linear, _): &&(LinearShape, usize)| {
            (linear.weight.kind, linear.weight.columns) == (shape.kind, shape.columns)
        };
        linears.iter().filter(same).map(|(linear, count)| linear.weight.size() * *count as u64).sum()
    };
    let Some((typical, _)) = linears.iter().max_by_key(|(linear, _)| total(&linear.weight)) else {
        return Ok(0.0);
    };
    let row = Shape { rows: 1, ..typical.weight }.size();
    let many_rows = (PIECE / row) as usize;
    let mut seconds = [0.0; 2];
    for (rows, seconds) in [FEW_ROWS, many_rows.max(2 * FEW_ROWS)].into_iter().zip(&mut seconds) {
        *seconds = product(device, Shape { rows, ..typical.weight }).await?;
    }
    let [operation, large] = seconds;
    let a_byte =
        (large - operation).max(0.0) / (row * (many_rows.max(2 * FEW_ROWS) - FEW_ROWS) as u64) as f64;
    let operations: usize = needs.operations.iter().map(|(_, count)| count).sum();
    let weights: u64 = linears.iter().map(|(linear, count)| linear.weight.size() * *count as u64).sum();
    Ok(weights as f64 * a_byte + operations as f64 * operation)
}

/// Seconds of one product with a matrix of zeros.
async fn product(device: &mut dyn Backend, shape: Shape) -> Result<f64> {
    let weight = device.matrix(shape.rows, shape.columns, shape.kind)?;
    let linear = Linear { weight, bias: None };
    let [input, x] = [device.buffer(1, shape.columns)?, device.buffer(1, shape.rows)?];
    let mut rounds = 1;
    loop {
        let start = Instant::now();
        for _ in 0..rounds {
            device.project_add(1, input, &linear, None, x)?;
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

/// The matrices that a token goes through, and how often.
fn linears((operation, count): &(Operation, usize)) -> Vec<(LinearShape, usize)> {
    let linears = match operation {
        Operation::Project { outputs, .. } => outputs.clone(),
        Operation::ProjectAdd { linear, .. } => vec![*linear],
        Operation::Gate { gate_up, .. } => gate_up.to_vec(),
        Operation::Activate { up, .. } => vec![*up],
        Operation::Logits { head, .. } => vec![*head],
        Operation::Embed { .. }
        | Operation::AddRows { .. }
        | Operation::Norm { .. }
        | Operation::Attend { .. }
        | Operation::Choose { .. } => Vec::new(),
    };
    linears.into_iter().map(|linear| (linear, *count)).collect()
}
