//! Operations tried on small data, the same on every device: how one is compared with another, and which
//! kernels a model will need.
//!
//! Matrices have a model's columns but few rows, attention a model's heads but few groups of them: what
//! decides about kernels stays as it is.

use super::{
    Attention, Backend, Buffer, Heads, Linear, LinearShape, Norm, NormShape, Operation, Random, Shape,
    Tokens, Top, Vector, Wanted,
};
use crate::Result;

/// Rows of a trial's matrices, at most: more than a workgroup of a GPU takes, and no round number.
const ROWS: usize = 41;
/// Positions in a trial's KV cache: decode splits that many over workgroups.
const POSITIONS: usize = 160;
/// A position that it does not split.
const EARLY: usize = 37;
/// Scores that are looked up: what `top_p` alone makes a sampler ask for.
const CANDIDATES: usize = 192;
const SEED: u64 = 0x1234_5678_9abc_def1;
/// A device is wrong where a number is further off than this share of the largest beside it. Activations of
/// 8 bits and keys of 16 stay below a third of that.
const TOLERANCE: f32 = 1e-2;

/// What an operation gave: numbers of one size together, because small ones would drown among large ones.
pub(super) type Outcome = Vec<Vec<f32>>;

/// A buffer with numbers to look at.
struct Output {
    buffer: Buffer,
    rows: usize,
    width: usize,
}

/// Runs `operation` for a step of `tokens` tokens without a look at what it gives.
pub(super) async fn ask(device: &mut dyn Backend, operation: &Operation, tokens: usize) -> Result<()> {
    let outputs = Trial { device, random: Random(SEED) }.enqueue(operation, tokens)?;
    if let (Operation::Choose { .. }, Some(scores)) = (operation, outputs.first()) {
        // What it gives may make no sense.
        _ = look_up(device, scores).await;
    }
    Ok(())
}

/// Runs `operation` and reads what it gives. Nothing where it does not depend on the number of tokens and a step
/// of one has tried it.
pub(super) async fn run(device: &mut dyn Backend, operation: &Operation, tokens: usize) -> Result<Outcome> {
    let mut outcome = Vec::new();
    let outputs = Trial { device, random: Random(SEED) }.enqueue(operation, tokens)?;
    for Output { buffer, rows, width } in &outputs {
        let mut numbers = Vec::new();
        device.read(*buffer, rows * width, &mut numbers).await?;
        for parity in [0, 1] {
            let numbers = numbers.iter().enumerate().filter(|(at, _)| at % width % 2 == parity);
            outcome.push(numbers.map(|(_, number)| *number).collect());
        }
    }
    if let (Operation::Choose { .. }, Some(scores)) = (operation, outputs.first()) {
        outcome.push(vec![device.chosen().await? as f32]);
        let Top { best, picked, sum, finite } = look_up(device, scores).await?;
        outcome.extend(best.iter().map(|(place, _)| vec![*place as f32]));
        outcome.push(best.iter().map(|(_, score)| *score).chain(picked).collect());
        outcome.push(vec![sum as f32, f32::from(u8::from(finite))]);
    }
    Ok(outcome)
}

async fn look_up(device: &mut dyn Backend, scores: &Output) -> Result<Top> {
    let mut top = Top::default();
    let places = (0..scores.width as u32).step_by(7).take(20).collect();
    let wanted = Wanted { count: CANDIDATES.min(scores.width), places, sum: true };
    device.top_k(scores.buffer, scores.width, &wanted, &mut top).await?;
    Ok(top)
}

/// Where `found` is wrong, in words.
pub(super) fn difference(expected: &Outcome, found: &Outcome) -> Option<String> {
    for (expected, found) in expected.iter().zip(found) {
        let largest = expected.iter().fold(0.0f32, |largest, number| largest.max(number.abs()));
        // What is not a number is wrong too.
        let right = |a: f32, b: f32| (a - b).abs() <= TOLERANCE * largest;
        let wrong = |(expected, found): &(&f32, &f32)| !right(**expected, **found);
        if let Some((expected, found)) = expected.iter().zip(found).find(wrong) {
            return Some(format!("{found} instead of {expected}"));
        }
    }
    (expected.len() != found.len()).then(|| "numbers are missing".to_owned())
}

struct Trial<'a> {
    device: &'a mut dyn Backend,
    random: Random,
}

impl Trial<'_> {
    fn enqueue(&mut self, operation: &Operation, tokens: usize) -> Result<Vec<Output>> {
        match operation {
            Operation::Embed { table, scale } => {
                let (table, Shape { rows, columns, .. }) = self.matrix(*table)?;
                let out = self.device.buffer(tokens, columns)?;
                let ids: Vec<u32> = (0..tokens).map(|token| (token % rows.min(2)) as u32).collect();
                self.device.embed(Tokens::Known(&ids), table, *scale, out)?;
                Ok(vec![Output { buffer: out, rows: tokens, width: columns }])
            }
            Operation::AddRows { table } => {
                // The first row may be any.
                let table = Shape { rows: table.rows.min(tokens + 1), ..*table };
                let (first, (table, Shape { rows, columns, .. })) =
                    (table.rows - tokens.min(table.rows), self.matrix(table)?);
                let tokens = tokens.min(rows);
                let x = self.device.buffer(tokens, columns)?;
                self.device.add_rows(first, tokens, table, x)?;
                Ok(vec![Output { buffer: x, rows: tokens, width: columns }])
            }
            Operation::Norm { norm, width } => {
                let (x, norm) = self.input(tokens, *width, norm)?;
                let out = self.device.buffer(tokens, *width)?;
                self.device.norm(tokens, x, &norm, out)?;
                Ok(vec![Output { buffer: out, rows: tokens, width: *width }])
            }
            Operation::Project { norm, outputs } => {
                let (x, norm) = self.input_for(tokens, outputs[0].weight.columns, norm.as_ref())?;
                let mut linears = Vec::new();
                for shape in outputs {
                    let (linear, rows) = self.linear(shape)?;
                    linears.push((linear, self.device.buffer(tokens, rows)?, rows));
                }
                let outputs: Vec<_> = linears.iter().map(|(linear, out, _)| (*linear, *out)).collect();
                self.device.project(tokens, x, norm.as_ref(), &outputs)?;
                let output = |&(_, buffer, width): &(_, _, usize)| Output { buffer, rows: tokens, width };
                Ok(linears.iter().map(output).collect())
            }
            Operation::ProjectAdd { linear, epsilon } => {
                let input = self.filled(tokens, linear.weight.columns, 1.0)?;
                let (linear, rows) = self.linear(linear)?;
                let norm = match epsilon {
                    Some(epsilon) => Some(self.rms(rows, *epsilon)?),
                    None => None,
                };
                let numbers = self.alternating(tokens, rows);
                let x = self.device.buffer(tokens, rows)?;
                self.device.write(x, &numbers)?;
                self.device.project_add(tokens, input, &linear, norm.as_ref(), x)?;
                Ok(vec![Output { buffer: x, rows: tokens, width: rows }])
            }
            Operation::Gate { norm, gate_up, activation } => {
                let (x, norm) = self.input_for(tokens, gate_up[0].weight.columns, norm.as_ref())?;
                let ((gate, rows), (up, _)) = (self.linear(&gate_up[0])?, self.linear(&gate_up[1])?);
                let out = self.device.buffer(tokens, rows)?;
                self.device.gate(tokens, x, norm.as_ref(), [&gate, &up], *activation, out)?;
                Ok(vec![Output { buffer: out, rows: tokens, width: rows }])
            }
            Operation::Activate { norm, up, activation } => {
                let (x, norm) = self.input_for(tokens, up.weight.columns, norm.as_ref())?;
                let (up, rows) = self.linear(up)?;
                let out = self.device.buffer(tokens, rows)?;
                self.device.activate(tokens, x, norm.as_ref(), &up, *activation, out)?;
                Ok(vec![Output { buffer: out, rows: tokens, width: rows }])
            }
            Operation::Attend { epsilons, rope, attention } => {
                self.attend(tokens, *epsilons, rope, attention)
            }
            // These see one row of a step, whatever its length.
            Operation::Logits { .. } | Operation::Choose { .. } if tokens > 1 => Ok(Vec::new()),
            Operation::Logits { norm, head, softcap } => {
                let (x, norm) = self.input(2, head.weight.columns, norm)?;
                let (head, rows) = self.linear(head)?;
                let out = self.device.buffer(1, rows)?;
                self.device.logits(1, x, &norm, &head, *softcap, out)?;
                Ok(vec![Output { buffer: out, rows: 1, width: rows }])
            }
            Operation::Choose { len } => {
                let len = (*len).min(3001);
                let scores = self.filled(1, len, 1.0)?;
                self.device.choose(scores, len)?;
                Ok(vec![Output { buffer: scores, rows: 1, width: len }])
            }
        }
    }

    fn attend(
        &mut self,
        tokens: usize,
        epsilons: Option<[f32; 2]>,
        rope: &super::Rope,
        attention: &Attention,
    ) -> Result<Vec<Output>> {
        let Heads { query, kv, size } = attention.heads;
        let heads = Heads { query: query / kv * kv.min(2), kv: kv.min(2), size };
        let window = attention.window.map(|window| window.min(POSITIONS - 10));
        let attention = Attention { heads, window, ..*attention };
        // Scores of about ±3.
        let amplitude = 3.0 / (attention.scale * (size as f32).sqrt()).sqrt();
        let (q_width, kv_width) = (heads.query * size, heads.kv * size);
        let q = self.filled(POSITIONS, q_width, amplitude)?;
        let k = self.filled(POSITIONS, kv_width, amplitude)?;
        let v = self.filled(POSITIONS, kv_width, 1.0)?;
        let norms = match epsilons {
            Some([query, key]) => Some([self.rms(size, query)?, self.rms(size, key)?]),
            None => None,
        };
        let cache = self.device.kv_cache(POSITIONS, heads)?;
        self.device.rotate_and_store(0, POSITIONS, [q, k, v], heads, norms.as_ref(), rope, cache)?;
        let mut outputs = vec![Output { buffer: q, rows: POSITIONS, width: q_width }];
        for position in [Some(POSITIONS - tokens), (tokens == 1).then_some(EARLY)].into_iter().flatten() {
            let out = self.device.buffer(tokens, q_width)?;
            self.device.attend(position, tokens, q, cache, &attention, out)?;
            outputs.push(Output { buffer: out, rows: tokens, width: q_width });
        }
        Ok(outputs)
    }

    /// A matrix of at most `ROWS` rows, and its shape. Every other row is so small that the scales of
    /// quantized ones are subnormal.
    fn matrix(&mut self, shape: Shape) -> Result<(super::Matrix, Shape)> {
        let shape = Shape { rows: shape.rows.min(ROWS), ..shape };
        let matrix = self.device.matrix(shape.rows, shape.columns, shape.kind)?;
        for row in 0..shape.rows {
            let size = if row % 2 == 0 { 1.0 } else { 1e-3 };
            self.device.write_rows(matrix, row, &self.random.weights(shape.kind, shape.columns, |_| size))?;
        }
        Ok((matrix, shape))
    }

    fn linear(&mut self, shape: &LinearShape) -> Result<(Linear, usize)> {
        let (weight, Shape { rows, .. }) = self.matrix(shape.weight)?;
        let bias = match shape.bias {
            true => {
                let numbers = self.alternating(1, rows);
                Some(self.vector_of(&numbers)?)
            }
            false => None,
        };
        Ok((Linear { weight, bias }, rows))
    }

    fn vector(&mut self, len: usize) -> Result<Vector> {
        let numbers: Vec<f32> = (0..len).map(|_| 1.0 + 0.5 * self.random.number()).collect();
        self.vector_of(&numbers)
    }

    fn vector_of(&mut self, numbers: &[f32]) -> Result<Vector> {
        let vector = self.device.vector(numbers.len())?;
        self.device.write_vector(vector, numbers)?;
        Ok(vector)
    }

    fn rms(&mut self, len: usize, epsilon: f32) -> Result<Norm> {
        Ok(Norm::rms(self.vector(len)?, epsilon))
    }

    fn input(&mut self, rows: usize, width: usize, norm: &NormShape) -> Result<(Buffer, Norm)> {
        let x = self.filled(rows, width, 1.0)?;
        let scale = self.vector(width)?;
        let norm = match norm.layer {
            false => Norm::rms(scale, norm.epsilon),
            true => Norm::layer(scale, self.vector(width)?, norm.epsilon),
        };
        Ok((x, norm))
    }

    /// The same where there may be no norm.
    fn input_for(
        &mut self,
        rows: usize,
        width: usize,
        norm: Option<&NormShape>,
    ) -> Result<(Buffer, Option<Norm>)> {
        match norm {
            Some(norm) => self.input(rows, width, norm).map(|(x, norm)| (x, Some(norm))),
            None => Ok((self.filled(rows, width, 1.0)?, None)),
        }
    }

    fn filled(&mut self, rows: usize, width: usize, amplitude: f32) -> Result<Buffer> {
        let numbers: Vec<f32> = (0..rows * width).map(|_| amplitude * self.random.number()).collect();
        let buffer = self.device.buffer(rows, width)?;
        self.device.write(buffer, &numbers)?;
        Ok(buffer)
    }

    /// Rows in which every other number is 0, so that they hide nothing small.
    fn alternating(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let number = |at: usize| if (at % width).is_multiple_of(2) { self.random.number() } else { 0.0 };
        (0..rows * width).map(number).collect()
    }
}
